"""Forecasting by the usual protocol: 4 past keyframes and the current one in, scores at 1, 2 and 3 s.

Every row is scored on the same windows:

    copy-paste              the current labels, unchanged
    ego warp                the current labels, moved by the true ego motion
    ego warp + CV boxes     the same, with annotated moving objects carried along at constant velocity (oracle)
    tokenizer               reconstruction of the future as it will be observed: the ceiling of a token model
    ii-world gt-ego         the token forecaster, conditioned on the true ego motion
    ii-world pred-ego       the same along the motion that it predicts itself from the logged command of each step
    ii-world action         the same along the motion of actions which follow the logged drive
    NAME gt-ego, action     any other world; those with a motion of their own (OccWorld) pred-ego, too

Legend: B windows, R rows, H horizons, V voxels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.errors import OptionError
from world_model.core.grid import VoxelGrid
from world_model.data.index import SceneIndex
from world_model.evaluation.forecasting.actions import ActionModel
from world_model.evaluation.forecasting.baselines import baselines
from world_model.evaluation.forecasting.forecasts import forecast, motions_of
from world_model.evaluation.forecasting.planning import plan_counts
from world_model.evaluation.forecasting.scene_data import SceneData, Window, load_scene, with_tokens
from world_model.evaluation.metrics import Confusion
from world_model.evaluation.result import BASELINES, ForecastResult, ReconstructionResult, regime_of, steps_of
from world_model.evaluation.windows import PAST
from world_model.models.tokenizer import Tokenizer
from world_model.rollouts import fixed_slots
from world_model.worlds.kinds import WITH_MOTION
from world_model.worlds.protocol import World


@dataclass(frozen=True, kw_only=True)
class SceneWork:
    """What is asked of one scene.

    Attributes:
        scene: its number.
        frames: numbers in the index of the current frames of its windows.
        reconstruct: score the reconstruction of all its frames, too.
    """

    scene: int
    frames: tuple[int, ...] = ()
    reconstruct: bool = False

    def frames_needed(self, index: SceneIndex, steps: int) -> int:
        """Number of frames, counted from the first of the scene, for windows that reach ``steps`` steps ahead.

        Raises:
            OptionError: a window leaves the scene.
        """
        inside = index.frames(self.scene)
        if self.frames and (min(self.frames) - PAST < inside.start or max(self.frames) + steps >= inside.stop):
            raise OptionError(
                f"windows around the frames {min(self.frames)}..{max(self.frames)} of {index.scene_name[self.scene]}",
                f"{PAST} past and {steps} future frames inside {inside.start}..{inside.stop - 1}",
                "take the frames from world_model.data.clips.windows",
            )
        return len(inside) if self.reconstruct else max(self.frames) + steps + 1 - inside.start


@dataclass(frozen=True, kw_only=True)
class SceneScore:
    """What was counted in one scene; None for what was not asked."""

    forecast: ForecastResult | None = None
    reconstruction: ReconstructionResult | None = None


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Who forecasts, and what is scored.

    Attributes:
        grid: of all labels.
        tokenizer: in evaluation mode; None leaves out its row.
        worlds: by the name of their rows; the token world shares the tokenizer.
        regimes: ego motions of the forecasts, see `motions_of`; only some worlds have a motion of their own.
        actions: what an action does, for the regime "action".
        horizons_s: (H) seconds ahead.
        batch: windows of a scene that are forecast at once, at least the slots of a batch.
        slots: of each batch, see `fixed_slots`.
        mask: what part of a frame is scored, one of `MASKS`.
        models: what all models are, in words.
        weights: hash of the weights of tokenizer and token world.
    """

    grid: VoxelGrid
    tokenizer: Tokenizer | None = None
    worlds: dict[str, World] = field(default_factory=dict)
    regimes: tuple[str, ...] = ("gt-ego", "pred-ego")
    actions: ActionModel | None = None
    horizons_s: tuple[float, ...] = (1.0, 2.0, 3.0)
    batch: int = 8
    slots: int = 1
    mask: str = "none"
    models: str = "none"
    weights: str = "none"

    def __post_init__(self) -> None:
        steps_of(self.horizons_s)
        if "action" in self.regimes and self.actions is None:
            raise OptionError(
                "the regime action without an action model", "one", "see world_model.evaluation.forecasting.actions"
            )

    @property
    def steps(self) -> tuple[int, ...]:
        """(H) forecast steps."""
        return steps_of(self.horizons_s)

    @property
    def world_rows(self) -> list[tuple[str, str]]:
        """World and regime of the rows after the baselines."""
        rows = [(world, regime) for world in self.worlds for regime in self.regimes]
        return [(world, regime) for world, regime in rows if world in WITH_MOTION or regime != "pred-ego"]

    @property
    def rows(self) -> tuple[str, ...]:
        """(R) names of the rows, in order."""
        names = list(BASELINES)[: 3 + (self.tokenizer is not None)]
        return (*names, *(f"{world} {regime}" for world, regime in self.world_rows))

    def read(self, index: SceneIndex, work: SceneWork) -> SceneData:
        """Read what is needed of a scene.

        Raises:
            DataError: a label file is missing or damaged.
            OptionError: a window leaves the scene.
        """
        return load_scene(index, work.scene, work.frames_needed(index, self.steps[-1]), self.grid, self.mask)

    @torch.inference_mode()
    def score(self, scene: SceneData, work: SceneWork) -> SceneScore:
        """Score a scene: each frame is encoded and decoded once.

        Args:
            scene: of `read`.
            work: what is asked of it.
        """
        rebuilt: dict[int, Tensor] = {}
        if self.tokenizer is not None:
            scene = with_tokens(self.tokenizer, scene, self.slots)
            rebuilt = self._rebuild(self.tokenizer, scene, work)
        total = ForecastResult.zero(self.rows, self.horizons_s)
        windows = [Window(scene=scene, now=frame - scene.first, number=n) for n, frame in enumerate(work.frames)]
        at_once = -(-self.batch // self.slots) * self.slots
        for begin in range(0, len(windows), at_once):
            total += self._score_windows(windows[begin : begin + at_once], rebuilt)
        return SceneScore(
            forecast=total if work.frames else None,
            reconstruction=_reconstruction(scene, rebuilt) if work.reconstruct else None,
        )

    def _rebuild(self, tokenizer: Tokenizer, scene: SceneData, work: SceneWork) -> dict[int, Tensor]:
        """Decoded labels (X, Y, Z) by frame, of the frames that are scored."""
        assert scene.tokens is not None
        wanted = {frame - scene.first + step for frame in work.frames for step in self.steps}
        frames = sorted(wanted | set(scene.labelled) if work.reconstruct else wanted)
        tokens = scene.tokens[frames]
        labels = [tokenizer.decode(tokens[rows])[real] for rows, real in fixed_slots(frames, self.slots)]
        return dict(zip(frames, torch.cat(labels), strict=True))

    def _score_windows(self, windows: list[Window], rebuilt: dict[int, Tensor]) -> ForecastResult:
        """Count every row on B windows of one scene."""
        result = ForecastResult.zero(self.rows, self.horizons_s, windows=len(windows))
        steps = [window.now + step for window in windows for step in self.steps]
        scene = windows[0].scene
        truths = [(scene.truth[frame].flatten(), scene.moving_voxels(frame), _mask(scene, frame)) for frame in steps]
        for r, (labels, errors, poses) in enumerate(self._forecasts(windows, rebuilt)):
            result.pose_error[r] = errors.sum(0).numpy()
            if poses is not None and regime_of(self.rows[r]) == "pred-ego":
                result.plans[r] = plan_counts(poses, windows)
            for n, (found, truth) in enumerate(zip(labels.flatten(0, 1).flatten(1), truths, strict=True)):
                result.counts[r, n % len(self.steps)] += _count(found, *truth)
        return result

    def _forecasts(
        self, windows: list[Window], rebuilt: dict[int, Tensor]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Row by row: labels (B, H, X, Y, Z) of B windows, errors of the ego pose (B, H, 2) and ego poses, see
        `forecast`."""
        steps, right = self.steps, torch.zeros(len(windows), len(self.steps), 2, dtype=torch.int64, device="cpu")
        for row in torch.stack([_baselines(window, steps) for window in windows], 1):
            yield row, right, None
        if self.tokenizer is not None:
            yield torch.stack([torch.stack([rebuilt[w.now + step] for step in steps]) for w in windows]), right, None
        motions = {regime: motions_of(windows, regime, steps[-1], self.actions) for regime in self.regimes}
        for name, regime in self.world_rows:
            yield forecast(self.worlds[name], self.tokenizer, windows, motions[regime], steps, self.slots)


def _baselines(window: Window, steps: Sequence[int]) -> Tensor:
    """(3, H, X, Y, Z) labels of the rows without a model."""
    scene, now = window.scene, window.now
    poses = window.poses(0, steps[-1])[list(steps)]
    boxes, seconds = scene.index.boxes(scene.first + now), [window.seconds(step) for step in steps]
    return baselines(scene.observed[now], boxes, poses, seconds, scene.grid)


def _reconstruction(scene: SceneData, rebuilt: dict[int, Tensor]) -> ReconstructionResult:
    confusion, frames = Confusion(), sorted(set(scene.labelled) & set(scene.known))
    for frame in frames:
        device = rebuilt[frame].device
        mask = None if scene.mask is None else scene.mask[frame].to(device)
        confusion.add(rebuilt[frame], scene.truth[frame].to(device), mask)
    return ReconstructionResult(counts=confusion.table, frames=len(frames))


def _mask(scene: SceneData, frame: int) -> Tensor | None:
    """(V,) bool, what is scored of a frame; None: everything."""
    return None if scene.mask is None else scene.mask[frame].flatten()


def _count(forecast: Tensor, truth: Tensor, near: Tensor, mask: Tensor | None) -> NDArray[Any]:
    """(2, 19, 18) histograms over all V voxels, and over those numbered ``near``; inside the mask alone."""
    if mask is not None:
        near, mask = near[mask[near]], mask.to(forecast.device)
    truth, near = truth.to(forecast.device), near.to(forecast.device)
    everywhere, moving = Confusion(), Confusion()
    everywhere.add(forecast, truth, mask)
    moving.add(forecast[near], truth[near])
    return np.stack((everywhere.table, moving.table))
