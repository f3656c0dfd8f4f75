"""Options by which a training is followed: TensorBoard, a callback of the user's own, looks at held-out data.

Weights & Biases and the like are attached by ``--callback package.module:name`` (`examples/callback_wandb.py`); none of
them is a dependency.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from world_model.core.errors import OptionError
from world_model.core.plugins import import_object
from world_model.training.report import Callback, Reports
from world_model.training.tensorboard import TensorBoard


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of every command that trains."""

    tensorboard: bool = False
    """Also write curves and pictures for TensorBoard, into the folder tensorboard of --out (extra `tensorboard`)."""
    callback: str | None = None
    """package.module:name of a function that is called with every Report of the run, or of a class of such: the way to
    Weights & Biases and the like."""
    held_out_every: int = 0
    """Steps (of agents.imitate: rounds) between two looks at held-out data: metrics (held_out.csv) and a picture; 0:
    none."""
    held_out: int = 8
    """How many windows of held-out data (of policies: episodes) a look takes."""
    held_out_split: str = "val"
    """Where they come from. To choose a recipe, train on fit and look at tune: val is to judge."""

    def reports(self, out: Path, options: Mapping[str, Any], begin: int = 0) -> Reports:
        """Who is to be told.

        Raises:
            OptionError: TensorBoard is not installed, or the callback cannot be imported.
        """
        if self.held_out_every < 0 or self.held_out < 1:
            raise OptionError(
                f"--held-out-every {self.held_out_every}, --held-out {self.held_out}",
                "at least 0 and 1",
                "give larger numbers",
            )
        callbacks: list[Callback] = []
        if self.tensorboard:
            callbacks.append(TensorBoard())
        if self.callback is not None:
            found: Any = import_object("callback", self.callback, "package.module:function or package.module:Class")
            callbacks.append(found() if isinstance(found, type) else found)
        return Reports(out, options, callbacks, begin)
