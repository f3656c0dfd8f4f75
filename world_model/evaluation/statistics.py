"""How sure a result is: 95 % intervals over the scenes by resampling whole scenes (Efron, 1979), and rank correlation.

Samples of one scene are not independent, so scenes are what is drawn. All rows of a table see the same draws: the
interval of a difference between two rows is that of the same scenes, and much narrower than the two intervals side by
side.

Legend: S scenes, D draws, R rows, H horizons, N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import FREE, MOVABLE, NUM_CLASSES
from world_model.evaluation.metrics import SEMANTIC, class_iou

Floats = NDArray[np.float64]
DRAWS = 1000
SCORES = ("mIoU", "IoU", "mIoU moving")
"""Scores of the forecasting table that have intervals: over all voxels, and over those of moving objects (movable
classes)."""
LEAST_SCENES = 5
"""With fewer scenes an interval of the forecasting table would say nothing."""


def interval_95(draws: NDArray[Any]) -> Floats:
    """(2, ...) the 2.5 % and 97.5 % quantiles of (D, ...) draws; NaN is left out."""
    return np.asarray(np.nanquantile(draws, (0.025, 0.975), axis=0), np.float64)


def resampled(scenes: int, draws: int, seed: int = 0) -> NDArray[np.int64]:
    """(D, S) numbers of scenes, drawn with replacement."""
    return np.random.default_rng(seed).integers(scenes, size=(draws, scenes))


def mean_interval(scenes: Sequence[NDArray[Any]], draws: int = 2000, seed: int = 0) -> list[tuple[float, float, float]]:
    """Mean of every column over all samples with its 95 % interval, drawing whole scenes.

    Args:
        scenes: (N, C) samples of each scene; N may differ.
        draws: D.
        seed: fixes the draws.

    Returns:
        (C) mean, low, high.
    """
    sums, counts = np.array([scene.sum(0) for scene in scenes]), np.array([len(scene) for scene in scenes])
    picks = resampled(len(scenes), draws, seed)
    low, high = interval_95(sums[picks].sum(1) / counts[picks].sum(1)[:, None])
    return list(zip((sums.sum(0) / counts.sum()).tolist(), low.tolist(), high.tolist(), strict=True))


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Draws of the forecasting table.

    Attributes:
        rows: (R) names.
        draws: (D, 3, R, H) scores of `SCORES` as fractions.
        scenes: S.
    """

    rows: tuple[str, ...]
    draws: Floats
    scenes: int

    def of(self, row: str, score: str, horizon: int, minus: str | None = None) -> tuple[float, float]:
        """The interval of a row's score at the horizon of that number, or of its difference from another row's."""
        drawn = self.draws[:, SCORES.index(score), :, horizon]
        values = drawn[:, self.rows.index(row)]
        low, high = interval_95(values if minus is None else values - drawn[:, self.rows.index(minus)]).tolist()
        return low, high


def bootstrap(rows: tuple[str, ...], counts: NDArray[Any], seed: int = 0, draws: int = DRAWS) -> Intervals | None:
    """Resample the scenes of a forecasting table.

    Args:
        rows: (R) names.
        counts: (S, R, H, 2, 19, 18) int64 histograms of each scene as in `ForecastResult`; scenes without windows (all
            zero) are left out.
        seed: fixes the draws.
        draws: D.

    Returns:
        None where there are fewer than `LEAST_SCENES` scenes.
    """
    counts = counts[counts.reshape(len(counts), -1).any(1)]
    scenes, shape = len(counts), counts.shape[1:]
    if scenes < LEAST_SCENES:
        return None
    times = np.random.default_rng(seed).multinomial(scenes, np.full(scenes, 1 / scenes), draws)
    # Whole numbers in double precision: the sums are exact in whatever order they are taken.
    flat = counts.reshape(scenes, -1).astype(np.float64)
    scores = [_scores((part @ flat).reshape(-1, *shape)) for part in np.array_split(times.astype(np.float64), 10)]
    return Intervals(rows=rows, draws=np.concatenate(scores), scenes=scenes)


def _scores(counts: Floats) -> Floats:
    """(D, R, H, 2, 19, 18) -> (D, 3, R, H)."""
    known = counts[..., :NUM_CLASSES, :]
    per_class, everywhere = class_iou(known), known[..., 0, :, :]
    occupied = everywhere.sum((-2, -1)) - everywhere[..., FREE, FREE]
    both = everywhere[..., :FREE, :FREE].sum((-2, -1))
    iou = np.where(occupied > 0, both / np.maximum(occupied, 1), np.nan)
    semantic, moving = per_class[..., 0, :][..., list(SEMANTIC)], per_class[..., 1, :][..., list(MOVABLE)]
    return np.stack((_mean(semantic), iou, _mean(moving)), 1)


def _mean(values: Floats) -> Floats:
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    count = (~np.isnan(values)).sum(-1)
    return np.where(count > 0, np.nansum(values, -1) / np.maximum(count, 1), np.nan)


def ranks(values: NDArray[Any]) -> Floats:
    """(N) ranks from 0, equal values sharing their mean rank."""
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank: Floats = np.cumsum(count) - (count + 1) / 2
    return np.asarray(mean_rank[inverse.reshape(-1)])


def spearman(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Rank correlation of two (N) arrays; NaN when one of them is constant or there are fewer than three."""
    if len(a) < 3:
        return float("nan")
    first, second = ranks(a), ranks(b)
    spread = first.std() * second.std()
    return float(((first - first.mean()) * (second - second.mean())).mean() / spread) if spread > 0 else float("nan")


def spearman_within(a: NDArray[Any], b: NDArray[Any], group: NDArray[Any]) -> float:
    """Mean over groups of the rank correlation inside each, weighted by their sizes; groups below 8 are left out."""
    found = [(spearman(a[group == g], b[group == g]), int((group == g).sum())) for g in np.unique(group)]
    kept = [(value, size) for value, size in found if size >= 8 and not np.isnan(value)]
    return float(np.average([v for v, _ in kept], weights=[n for _, n in kept])) if kept else float("nan")


def spearman_interval(
    a: NDArray[Any], b: NDArray[Any], scene: NDArray[Any], draws: int = 500, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of `spearman` of (N) arrays, drawing whole scenes; ``scene`` (N) says of which each sample is."""
    rows, found = [np.flatnonzero(scene == s) for s in np.unique(scene)], []
    for picks in resampled(len(rows), draws, seed):
        chosen = np.concatenate([rows[pick] for pick in picks])
        found.append(spearman(a[chosen], b[chosen]))
    low, high = interval_95(np.array(found)).tolist()
    return low, high
