"""Forecasting by the usual protocol: 4 past keyframes and the current one in, scores at 1, 2 and 3 s.

Every row is scored on the same windows:

    copy-paste              the current labels, unchanged
    ego warp                the current labels, moved by the true ego motion
    ego warp + CV boxes     the same, with annotated moving objects carried along at constant velocity (oracle)
    tokenizer               reconstruction of the true future: the ceiling of a model that forecasts tokens
    model gt-ego            the forecaster, told the true ego motion
    model pred-ego          the forecaster, moving as it predicts itself, told only the logged command of each step

Legend: B windows, R rows, H horizons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from world_model.data.clips import load_frame
from world_model.data.index import SceneIndex
from world_model.errors import OptionError
from world_model.evaluation.baselines import copy_paste, ego_warp, ego_warp_with_boxes
from world_model.evaluation.boxes import mask_of, moving
from world_model.evaluation.metrics import Confusion
from world_model.evaluation.streams import scene_poses, scene_tokens
from world_model.forecaster import Forecaster
from world_model.geometry import invert_pose
from world_model.grid import MOVABLE, OCC3D, STATIC, STEP_S, VoxelGrid
from world_model.tokenizer import Tokenizer

ROWS = ("copy-paste", "ego warp", "ego warp + CV boxes", "tokenizer", "model gt-ego", "model pred-ego")
REGIME = dict(zip(ROWS, ("none", "gt-ego", "gt-ego, oracle boxes", "true future", "gt-ego", "pred-ego"), strict=True))
SUBSETS = ("all", "static", "movable", "moving")
MOVING_MARGIN_M = 0.5
"""The moving subset: voxels in boxes of moving objects, grown by this much."""
PAST = 4


@dataclass(frozen=True, kw_only=True)
class ForecastResult:
    """Counts over some windows; results of different windows add up.

    Attributes:
        horizons_s: (H) seconds ahead.
        rows: (R) names, a part of `ROWS`.
        counts: (R, H, 2, 18, 18) int64 histograms over all voxels, and over those of moving objects.
        windows: number of windows.
        ego_error_m: (H,) float64 sum over windows of the distance between predicted (pred-ego) and true ego position.
    """

    horizons_s: tuple[float, ...]
    rows: tuple[str, ...]
    counts: np.ndarray
    windows: int
    ego_error_m: np.ndarray

    def confusion(self, row: str, horizon: int, subset: str = "all") -> Confusion:
        """Histogram of a row at the horizon of that number; class subsets share the one over all voxels."""
        return Confusion(self.counts[self.rows.index(row), horizon, int(subset == "moving")])

    def score(self, row: str, horizon: int, metric: str, subset: str = "all") -> float:
        """A score as a fraction.

        Args:
            row: one of ``rows``.
            horizon: number of the horizon.
            metric: "miou", "miou_published" or "iou".
            subset: one of `SUBSETS`; "static" and "movable" restrict the classes, "moving" voxels and classes.
        """
        confusion = self.confusion(row, horizon, subset)
        classes = {"all": tuple(range(17)), "static": STATIC, "movable": MOVABLE, "moving": MOVABLE}[subset]
        return float(getattr(confusion, metric)(classes))

    def mean(self, row: str, metric: str, subset: str = "all") -> float:
        """The mean of a score over the horizons."""
        return float(np.mean([self.score(row, h, metric, subset) for h in range(len(self.horizons_s))]))

    def __add__(self, other: ForecastResult) -> ForecastResult:
        return ForecastResult(
            horizons_s=self.horizons_s,
            rows=self.rows,
            counts=self.counts + other.counts,
            windows=self.windows + other.windows,
            ego_error_m=self.ego_error_m + other.ego_error_m,
        )


def steps_of(horizons_s: Sequence[float]) -> tuple[int, ...]:
    """Horizons in forecast steps.

    Raises:
        OptionError: a horizon is not a positive multiple of the 0.5 s step, or they do not rise.
    """
    steps = tuple(round(h / STEP_S) for h in horizons_s)
    exact = all(s > 0 and abs(s * STEP_S - h) < 1e-6 for s, h in zip(steps, horizons_s, strict=True))
    if not steps or not exact or list(steps) != sorted(set(steps)):
        raise OptionError(f"horizons {list(horizons_s)} s", f"rising multiples of {STEP_S} s", "e.g. 1 2 3")
    return steps


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """What one scene's windows share: N frames from number ``first`` on."""

    index: SceneIndex
    grid: VoxelGrid
    first: int
    labels: Tensor
    poses: Tensor
    tokens: Tensor | None

    def relative(self, frame: int, other: int) -> Tensor:
        """(4, 4) float32, ego frame of ``frame`` -> ego frame of ``other``."""
        return (invert_pose(self.poses[other]) @ self.poses[frame]).float()

    def seconds(self, frame: int, other: int) -> float:
        """Time from ``frame`` to ``other``."""
        time_us = self.index.timestamp_us[[self.first + frame, self.first + other]]
        return float(time_us[1] - time_us[0]) * 1e-6

    def moving_mask(self, frame: int) -> Tensor:
        """(X, Y, Z) bool, True in and closely around moving objects."""
        return torch.from_numpy(mask_of(moving(self.index.boxes(self.first + frame)), self.grid, MOVING_MARGIN_M))


@torch.inference_mode()
def forecast_scene(
    index: SceneIndex,
    scene: int,
    frames: Sequence[int],
    *,
    tokenizer: Tokenizer | None = None,
    forecaster: Forecaster | None = None,
    horizons_s: tuple[float, ...] = (1.0, 2.0, 3.0),
    batch: int = 4,
    grid: VoxelGrid = OCC3D,
) -> ForecastResult:
    """Score every row on the windows of one scene.

    Args:
        index: the data set.
        scene: the scene's number.
        frames: current-frame numbers of windows that lie inside the scene (`world_model.data.clips.windows`).
        tokenizer, forecaster: models in evaluation mode on one device; rows that need a missing one are left out.
        horizons_s: what to score, seconds ahead.
        batch: windows per forecast; the scores do not depend on it.
        grid: grid of the labels, where there is no tokenizer to tell.

    Raises:
        DataError: a label file is missing or damaged.
    """
    steps = steps_of(horizons_s)
    data = _load(index, scene, frames, steps[-1], tokenizer, grid)
    rows = ROWS[: 3 + (tokenizer is not None) + 2 * (tokenizer is not None and forecaster is not None)]
    scores = [[(Confusion(), Confusion()) for _ in steps] for _ in rows]
    error_m = np.zeros(len(steps))
    for begin in range(0, len(frames), batch):
        now = [frame - data.first for frame in frames[begin : begin + batch]]
        forecasts = _baselines(data, now, steps)
        if tokenizer is not None and data.tokens is not None:
            forecasts.append([tokenizer.decode(data.tokens[[n + s for n in now]]) for s in steps])
            if forecaster is not None:
                given, _ = _rollout(data, data.tokens, now, steps, tokenizer, forecaster, true_ego=True)
                own, missed_m = _rollout(data, data.tokens, now, steps, tokenizer, forecaster, true_ego=False)
                forecasts += [given, own]
                error_m += missed_m
        for h, step in enumerate(steps):
            truth = data.labels[[n + step for n in now]]
            mask = torch.stack([data.moving_mask(n + step) for n in now])
            for row, forecast in enumerate(forecasts):
                _count(scores[row][h], forecast[h], truth, mask)
    counts = np.array([[[c.counts for c in pair] for pair in per_row] for per_row in scores])
    return ForecastResult(
        horizons_s=tuple(horizons_s), rows=rows, counts=counts, windows=len(frames), ego_error_m=error_m
    )


def _load(
    index: SceneIndex, scene: int, frames: Sequence[int], reach: int, tokenizer: Tokenizer | None, grid: VoxelGrid
) -> _Scene:
    """Labels, poses and tokens of a scene up to the last frame that its windows need."""
    inside = index.frames(scene)
    grid = tokenizer.config.grid if tokenizer is not None else grid
    if min(frames) - PAST < inside.start or max(frames) + reach >= inside.stop:
        raise OptionError(
            f"windows around the frames {min(frames)}..{max(frames)} of scene {index.scene_name[scene]}",
            f"{PAST} past and {reach} future frames inside {inside.start}..{inside.stop - 1}",
            "take the frames from world_model.data.clips.windows",
        )
    poses = scene_poses(index, scene)[: max(frames) + reach + 1 - inside.start]
    labels = torch.stack([load_frame(index, inside.start + n, grid) for n in range(len(poses))])
    tokens = torch.stack(list(scene_tokens(tokenizer, labels, poses))) if tokenizer is not None else None
    return _Scene(index=index, grid=grid, first=inside.start, labels=labels, poses=poses, tokens=tokens)


def _baselines(data: _Scene, now: list[int], steps: tuple[int, ...]) -> list[list[Tensor]]:
    """Labels (B, X, Y, Z) of the three rows without a model, per horizon."""
    labels, pose = data.labels[now], data.poses[now]
    boxes = [data.index.boxes(data.first + n) for n in now]
    table: list[list[Tensor]] = [[], [], []]
    for step in steps:
        future = data.poses[[n + step for n in now]]
        seconds = [data.seconds(n, n + step) for n in now]
        table[0].append(copy_paste(labels))
        table[1].append(ego_warp(labels, pose, future, data.grid))
        table[2].append(ego_warp_with_boxes(labels, pose, future, boxes, seconds, data.grid))
    return table


def _rollout(
    data: _Scene,
    tokens: Tensor,
    now: list[int],
    steps: tuple[int, ...],
    tokenizer: Tokenizer,
    forecaster: Forecaster,
    *,
    true_ego: bool,
) -> tuple[list[Tensor], np.ndarray]:
    """Forecast labels (B, X, Y, Z) per horizon, and (H,) summed distances to the true ego position."""
    device = tokens.device
    observed = torch.tensor([list(range(n - PAST, n + 1)) for n in now])
    state = forecaster.start(tokens[observed.to(device)], data.poses[observed].to(device))
    pose = torch.eye(4, dtype=torch.float64).expand(len(now), 4, 4)
    forecasts, error_m = [], np.zeros(len(steps))
    for k in range(steps[-1]):
        command = torch.from_numpy(data.index.command[[data.first + n + k for n in now]].astype(np.int64)).to(device)
        given = torch.stack([data.relative(n + k, n + k + 1) for n in now]).to(device) if true_ego else None
        state, out = forecaster.step(state, command, given)
        pose = pose @ invert_pose(out.curr_to_next.double().cpu())
        if k + 1 in steps:
            forecasts.append(tokenizer.decode(out.token))
            true_m = torch.stack([data.relative(n + k + 1, n)[:2, 3] for n in now])
            error_m[steps.index(k + 1)] = float((pose[:, :2, 3] - true_m).norm(dim=-1).sum())
    return forecasts, error_m


def _count(scores: tuple[Confusion, Confusion], forecast: Tensor, truth: Tensor, mask: Tensor) -> None:
    truth, mask = truth.to(forecast.device), mask.to(forecast.device)
    scores[0].add(forecast, truth)
    scores[1].add(forecast, truth, mask)
