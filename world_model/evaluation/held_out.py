"""How good a model is on held-out windows while it is being trained: a few scores and a picture.

A look is quick and small. `world_model.evaluate` measures a finished checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from world_model.core.geometry import invert_pose
from world_model.core.grid import STEP_S
from world_model.data.clips import Clips, load_clips, load_frame, windows
from world_model.data.index import SceneIndex
from world_model.data.labels import unknown_as_free
from world_model.evaluation.metrics import Confusion
from world_model.evaluation.windows import PAST, spread, with_labels
from world_model.models.tokenizer import Tokenizer
from world_model.pictures.drive import drive_strip
from world_model.rollouts import roll
from world_model.training.report import Look
from world_model.worlds.protocol import World

STEPS = (0, 2, 4, 6)
"""Forecast steps that are scored and shown: now, and 1, 2 and 3 s ahead."""
Forecast = Callable[[Clips], dict[int, Tensor]]
"""Labels (B, X, Y, Z) by forecast step, out of clips with six future frames."""


class HeldOut:
    """Looks at held-out windows, the same at every time.

    Args:
        index: the data set.
        split: which of its scenes.
        count: windows, evenly spread.
        forecaster: a forecast out of averaged weights.

    Raises:
        DataError: the split has no window of 4 + 1 + 6 frames.
    """

    def __init__(
        self, index: SceneIndex, split: str, count: int, forecaster: Callable[[dict[str, Tensor]], Forecast]
    ) -> None:
        every = windows(index, split, PAST, STEPS[-1])
        self.index, self.frames = index, spread(with_labels(index, every, STEPS[-1]) or every, count)
        self.forecaster = forecaster

    @torch.no_grad()
    def __call__(self, weights: dict[str, Tensor]) -> Look:
        """mIoU and IoU of the steps that are forecast, in per cent, and a picture of the window in the middle."""
        forecast, counts, pictures = self.forecaster(weights), dict[int, Confusion](), {}
        for number, frame in enumerate(self.frames):
            clips = load_clips(self.index, [frame], PAST, STEPS[-1], with_future_labels=True)
            found = {step: labels[0].cpu() for step, labels in forecast(clips).items()}
            for step, labels in found.items():
                counts.setdefault(step, Confusion()).add(labels, self._truth(clips, step))
            if number == len(self.frames) // 2:
                pictures["held_out/forecast"] = self._picture(clips, found)
        values = dict[str, float]()
        for step, confusion in counts.items():
            name = f"{step * STEP_S:g}s"
            values |= {f"miou_{name}": round(100 * confusion.miou(), 4), f"iou_{name}": round(100 * confusion.iou(), 4)}
        return Look(values=values, pictures=pictures)

    def _truth(self, clips: Clips, step: int) -> Tensor:
        """(X, Y, Z) true labels of a forecast step, 255 where nothing is known."""
        if step == 0:
            return load_frame(self.index, clips.frame[0], truth=True)
        assert clips.future_occupancy is not None
        return clips.future_occupancy[0, step - 1]

    def _picture(self, clips: Clips, found: dict[int, Tensor]) -> Any:
        """What was recorded above what the model makes of it."""
        rows: dict[str, Sequence[NDArray[Any] | None]] = {
            "recorded": [unknown_as_free(self._truth(clips, step)).numpy() for step in STEPS],
            "forecast": [found[step].numpy() if step in found else None for step in STEPS],
        }
        poses = clips.ego_to_global[0, [clips.past + step for step in STEPS]].numpy()
        return drive_strip(rows, dict.fromkeys(rows, poses))


def of_world(world: World) -> Forecast:
    """Forecasts of a world along the recorded motion."""

    def forecast(clips: Clips) -> dict[int, Tensor]:
        poses = clips.ego_to_global[:, clips.past :]
        motions = invert_pose(poses[:, 1:]) @ poses[:, :-1]
        ahead = slice(clips.past, clips.past + STEPS[-1])
        return roll(world, clips, clips.command[:, ahead], motions, decode=STEPS[1:]).occupancy

    return forecast


def of_tokenizer(tokenizer: Tokenizer) -> Forecast:
    """The reconstruction of the current frame."""

    def rebuild(clips: Clips) -> dict[int, Tensor]:
        device, pose = next(tokenizer.parameters()).device, clips.ego_to_global[:, : clips.past + 1]
        to_previous = (invert_pose(pose[:, :-1]) @ pose[:, 1:]).float().to(device)
        return {0: tokenizer.decode(tokenizer.encode_clip(clips.occupancy.to(device), to_previous)[:, -1])}

    return rebuild


def filled(model: nn.Module, weights: dict[str, Tensor]) -> Any:
    """A new model of the same kind and configuration, with these weights, on their device, in evaluation mode."""
    made = type(model)(model.config)
    made.load_state_dict(weights)
    return made.to(next(iter(weights.values())).device).eval().requires_grad_(False)
