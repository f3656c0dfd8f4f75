"""How sure a table is: 95 % intervals over the scenes, by resampling whole scenes (Efron, 1979).

Windows of one scene are not independent, so scenes are what is drawn. All rows see the same draws: the interval of a
difference between two rows is that of the same scenes, and much narrower than the two intervals side by side.

Legend: S scenes, D draws, R rows, H horizons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import FREE, MOVABLE, NUM_CLASSES
from world_model.evaluation.metrics import SEMANTIC

DRAWS = 1000
SCORES = ("mIoU", "IoU", "mIoU moving")
"""What intervals are given for: over all voxels, and over those of moving objects (movable classes)."""
LEAST_SCENES = 5
"""With fewer scenes an interval would say nothing."""


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Draws of every score.

    Attributes:
        rows: (R) names.
        draws: (D, 3, R, H) scores of `SCORES` as fractions.
        scenes: S.
    """

    rows: tuple[str, ...]
    draws: NDArray[Any]
    scenes: int

    def of(self, row: str, score: str, horizon: int, minus: str | None = None) -> tuple[float, float]:
        """The 2.5 % and 97.5 % quantiles of a row's score at the horizon of that number, or of its difference from
        another row's."""
        drawn = self.draws[:, SCORES.index(score), :, horizon]
        values = drawn[:, self.rows.index(row)]
        if minus is not None:
            values = values - drawn[:, self.rows.index(minus)]
        low, high = np.nanquantile(values, (0.025, 0.975)).tolist()
        return low, high


def bootstrap(rows: tuple[str, ...], counts: NDArray[Any], seed: int = 0, draws: int = DRAWS) -> Intervals | None:
    """Resample scenes.

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


def _scores(counts: NDArray[Any]) -> NDArray[Any]:
    """(D, R, H, 2, 19, 18) -> (D, 3, R, H)."""
    known = counts[..., :NUM_CLASSES, :]
    hit = np.diagonal(known, axis1=-2, axis2=-1)
    union = known.sum(-1) + known.sum(-2) - hit
    per_class = np.where(union > 0, hit / np.maximum(union, 1), np.nan)
    semantic, movable = list(SEMANTIC), list(MOVABLE)
    everywhere, moving = known[..., 0, :, :], per_class[..., 1, :]
    total = everywhere.sum((-2, -1)) - everywhere[..., FREE, FREE]
    both = everywhere[..., :FREE, :FREE].sum((-2, -1))
    return np.stack(
        (
            _mean(per_class[..., 0, :][..., semantic]),
            np.where(total > 0, both / np.maximum(total, 1), np.nan),
            _mean(moving[..., movable]),
        ),
        1,
    )


def _mean(values: NDArray[Any]) -> NDArray[Any]:
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    there = ~np.isnan(values)
    count = there.sum(-1)
    total = np.where(there, values, 0.0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
