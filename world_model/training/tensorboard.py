"""Curves and pictures for TensorBoard (extra ``tensorboard``)."""

from __future__ import annotations

from typing import Any

from world_model.core.errors import OptionError
from world_model.training.report import Report

FOLDER = "tensorboard"


class TensorBoard:
    """A callback that writes event files into the run's folder; ``tensorboard --logdir RUNS`` shows them.

    A run that goes on appends. Where it was killed after its last checkpoint, what it had written since then comes
    again, and TensorBoard shows the later one alone (``purge_step``).

    Raises:
        OptionError: TensorBoard is not installed.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise OptionError(
                f"--tensorboard, which cannot be imported ({error})",
                "the extra tensorboard",
                "pip install 'iiworld[tensorboard]', or leave the option out: the CSV files hold the same numbers",
            ) from error
        self._kind: Any = SummaryWriter
        self._writer: Any = None

    def __call__(self, report: Report) -> None:
        if self._writer is None:
            self._writer = self._kind(str(report.out / FOLDER), purge_step=report.begin + 1)
        for name, value in report.values.items():
            self._writer.add_scalar(name if "/" in name else f"train/{name}", value, report.step)
        for name, picture in report.pictures.items():
            self._writer.add_image(name, picture, report.step, dataformats="HWC")
        self._writer.flush()
        if report.last:
            self._writer.close()
