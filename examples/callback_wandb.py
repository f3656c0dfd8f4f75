"""Send a training to Weights & Biases: a callback, which is all that any such service needs.

    pip install wandb
    python -m world_model.train_geometric --index data/flat --out runs/world --callback examples.callback_wandb:WandB
    python -m agents.train --out outputs/ppo --callback examples.callback_wandb:WandB

Written against wandb's documented interface (init with id and resume, log with step, finish). A run that goes on keeps
its id; `WANDB_MODE=offline` needs no account.
"""

from __future__ import annotations

from typing import Any

from world_model.core.files import write_text
from world_model.training.report import Report


class WandB:
    """Called with every `Report`; the first one opens the run."""

    def __init__(self) -> None:
        import wandb

        self.wandb, self.run = wandb, None

    def __call__(self, report: Report) -> None:
        if self.run is None:
            self.run = self._open(report)
        pictures = {name: self.wandb.Image(picture) for name, picture in report.pictures.items()}
        if report.values or pictures:
            self.run.log({**report.values, **pictures}, step=report.step)
        if report.last:
            self.run.finish()

    def _open(self, report: Report) -> Any:
        note = report.out / "wandb_id.txt"
        if report.begin == 0 or not note.exists():
            write_text(note, self.wandb.util.generate_id())
        return self.wandb.init(
            project="iiworld",
            name=report.out.name,
            dir=str(report.out),
            id=note.read_text(encoding="utf-8"),
            resume="allow",
            config=dict(report.options),
        )
