"""Forecasting by the usual protocol: 4 past keyframes and the current one in, scores at 1, 2 and 3 s.

Every row is scored on the same windows:

    copy-paste              the current labels, unchanged
    ego warp                the current labels, moved by the true ego motion
    ego warp + CV boxes     the same, with annotated moving objects carried along at constant velocity (oracle)
    tokenizer               reconstruction of the future as it will be observed: the ceiling of a token model
    ii-world gt-ego         the token forecaster, told the true ego motion
    ii-world pred-ego       the same, moving as it predicts itself, told only the logged command of each step
    ii-world action         the same, told the poses that come out of actions which follow the logged drive
    NAME gt-ego, action     any other world

Legend: B windows, R rows, H horizons, V voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.errors import OptionError
from world_model.core.grid import OCC3D, VoxelGrid
from world_model.data.index import SceneIndex
from world_model.evaluation.forecasting.actions import ActionModel
from world_model.evaluation.forecasting.baselines import copy_paste, ego_warps, mark_movers
from world_model.evaluation.forecasting.forecasts import forecast, motions_of
from world_model.evaluation.forecasting.scene_data import PAST, SceneData, Window, load_scene
from world_model.evaluation.forecasting.streams import with_tokens
from world_model.evaluation.metrics import Confusion
from world_model.evaluation.result import BASELINES, ForecastResult, ReconstructionResult, steps_of
from world_model.models.tokenizer import Tokenizer
from world_model.rollouts import fixed_slots
from world_model.worlds.kinds import II_WORLD
from world_model.worlds.protocol import World


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Who forecasts, and what is scored.

    Attributes:
        tokenizer: in evaluation mode; None leaves out its row.
        worlds: by the name of their rows; the token world shares the tokenizer.
        regimes: which of `rollouts.REGIMES`; other worlds have no motion of their own.
        actions: what an action does, for the regime "action".
        horizons_s: (H) seconds ahead.
        batch: windows of a scene at hand at once, at least those of one model call.
        slots: of each batch (see `world_model.rollouts.batch_slots`).
        grid: grid of the labels, where there is no tokenizer to tell.
    """

    tokenizer: Tokenizer | None = None
    worlds: dict[str, World] = field(default_factory=dict)
    regimes: tuple[str, ...] = ("gt-ego", "pred-ego")
    actions: ActionModel | None = None
    horizons_s: tuple[float, ...] = (1.0, 2.0, 3.0)
    batch: int = 8
    slots: int = 1
    grid: VoxelGrid = OCC3D

    def __post_init__(self) -> None:
        steps_of(self.horizons_s)
        if "action" in self.regimes and self.actions is None:
            raise OptionError(
                "the regime action without an action model", "one", "see world_model.evaluation.forecasting.actions"
            )

    @property
    def label_grid(self) -> VoxelGrid:
        """The grid of all labels."""
        return self.tokenizer.config.grid if self.tokenizer is not None else self.grid

    @property
    def steps(self) -> tuple[int, ...]:
        """(H) forecast steps."""
        return steps_of(self.horizons_s)

    @property
    def rows(self) -> tuple[str, ...]:
        """(R) names of the rows, in order."""
        names = list(BASELINES)[: 3 + (self.tokenizer is not None)]
        rows = [(world, regime) for world in self.worlds for regime in self.regimes]
        return (*names, *(f"{world} {regime}" for world, regime in rows if world == II_WORLD or regime != "pred-ego"))


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

    def reach(self, index: SceneIndex, steps: int) -> int:
        """Frames of the scene that are needed, from its first one on.

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
    """What one scene has yielded; None for what was not asked."""

    forecast: ForecastResult | None = None
    reconstruction: ReconstructionResult | None = None


def read_scene(index: SceneIndex, work: SceneWork, contest: Contest) -> SceneData:
    """Read what a scene needs.

    Raises:
        DataError: a label file is missing or damaged.
        OptionError: a window leaves the scene.
    """
    return load_scene(index, work.scene, work.reach(index, contest.steps[-1]), contest.label_grid)


@torch.inference_mode()
def score_scene(scene: SceneData, work: SceneWork, contest: Contest) -> SceneScore:
    """Score a scene: each frame is encoded and decoded once.

    Args:
        scene: of `read_scene`.
        work: what is asked of it.
        contest: who forecasts.
    """
    rebuilt: dict[int, Tensor] = {}
    if contest.tokenizer is not None:
        scene = with_tokens(contest.tokenizer, scene, contest.slots)
        rebuilt = _rebuild(scene, work, contest)
    total = ForecastResult.zero(contest.rows, contest.horizons_s)
    windows = [Window(scene=scene, now=frame - scene.first, number=n) for n, frame in enumerate(work.frames)]
    at_once = -(-contest.batch // contest.slots) * contest.slots
    for begin in range(0, len(windows), at_once):
        for result in _score_windows(windows[begin : begin + at_once], rebuilt, contest):
            total += result
    return SceneScore(
        forecast=total if work.frames else None,
        reconstruction=_reconstruction(scene, rebuilt) if work.reconstruct else None,
    )


def _rebuild(scene: SceneData, work: SceneWork, contest: Contest) -> dict[int, Tensor]:
    """Decoded labels (X, Y, Z) by frame, of the frames that are scored."""
    assert contest.tokenizer is not None and scene.tokens is not None
    wanted = {frame - scene.first + step for frame in work.frames for step in contest.steps}
    frames = sorted(wanted | set(scene.labelled) if work.reconstruct else wanted)
    tokens, decode = scene.tokens[frames], contest.tokenizer.decode
    labels = torch.cat([decode(tokens[rows])[real] for rows, real in fixed_slots(frames, contest.slots)])
    return dict(zip(frames, labels, strict=True))


def _reconstruction(scene: SceneData, rebuilt: dict[int, Tensor]) -> ReconstructionResult:
    confusion, frames = Confusion(), sorted(set(scene.labelled) & set(scene.known))
    for frame in frames:
        confusion.add(rebuilt[frame], scene.truth[frame].to(rebuilt[frame].device))
    return ReconstructionResult(counts=confusion.table, frames=len(frames))


def _score_windows(windows: list[Window], rebuilt: dict[int, Tensor], contest: Contest) -> list[ForecastResult]:
    """Score every row on B windows of one scene."""
    steps, results = contest.steps, [ForecastResult.zero(contest.rows, contest.horizons_s) for _ in windows]
    table = [_baselines(window, steps) for window in windows]
    if contest.tokenizer is not None:
        for known, window in zip(table, windows, strict=True):
            known.append([rebuilt[window.now + step] for step in steps])
    _add_rollouts(table, results, windows, contest)
    for window, rows, result in zip(windows, table, results, strict=True):
        for h, step in enumerate(steps):
            truth = window.scene.truth[window.now + step].flatten()
            near = window.scene.moving_voxels(window.now + step)
            for r, row in enumerate(rows):
                result.counts[r, h] = _count(row[h].flatten(), truth, near)
    return [replace(result, windows=1) for result in results]


def _add_rollouts(
    table: list[list[list[Tensor]]], results: list[ForecastResult], windows: list[Window], contest: Contest
) -> None:
    """Append the rows of the models and the worlds to the forecasts of B windows."""
    steps, slots = contest.steps, contest.slots
    motions = {r: motions_of(windows, r, steps[-1], contest.actions) for r in contest.regimes}
    for name in contest.rows[len(table[0]) :]:
        who, _, regime = name.rpartition(" ")
        labels, errors = forecast(contest.worlds[who], contest.tokenizer, windows, motions[regime], steps, slots)
        for b, (rows, result) in enumerate(zip(table, results, strict=True)):
            result.missed[len(rows)] = errors[b].numpy()
            rows.append(list(labels[b]))


def _baselines(window: Window, steps: Sequence[int]) -> list[list[Tensor]]:
    """Labels (X, Y, Z) of the three rows without a model, per horizon."""
    scene, now = window.scene, window.now
    labels, pose, boxes = scene.observed[now][None], scene.poses[now][None], [scene.index.boxes(scene.first + now)]
    marked = mark_movers(labels, boxes, scene.grid)
    table: list[list[Tensor]] = [[], [], []]
    for step in steps:
        future, seconds = scene.poses[now + step][None], [window.seconds(step)]
        warped, carried = ego_warps(marked, labels, pose, future, boxes, seconds, scene.grid)
        for row, found in zip(table, (copy_paste(labels), warped, carried), strict=True):
            row.append(found[0])
    return table


def _count(forecast: Tensor, truth: Tensor, near: Tensor) -> NDArray[Any]:
    """(2, 19, 18) histograms over all V voxels, and over those numbered ``near``."""
    truth, near = truth.to(forecast.device), near.to(forecast.device)
    everywhere, moving = Confusion(), Confusion()
    everywhere.add(forecast, truth)
    moving.add(forecast[near], truth[near])
    return np.stack((everywhere.table, moving.table))
