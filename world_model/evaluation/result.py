"""What an evaluation has counted: integers that add up over scenes, processes and machines in any order.

Legend: R rows, H horizons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import OptionError
from world_model.core.grid import MOVABLE, STATIC, STEP_S
from world_model.evaluation.metrics import SEMANTIC, TABLE, Confusion, rounded

BASELINES = {
    "copy-paste": "none",
    "ego warp": "gt-ego",
    "ego warp + CV boxes": "gt-ego, oracle boxes",
    "tokenizer": "true future",
}
"""Rows that never leave the table, and what each knows of the future."""
SUBSETS = {"all": SEMANTIC, "static": STATIC, "movable": MOVABLE, "moving": MOVABLE}
"""Classes of each subset; `moving` also restricts the voxels."""
METRICS = {"miou": "mIoU", "miou_published": "mIoU_published", "iou": "IoU", "iou_published": "IoU_published"}


def regime_of(row: str) -> str:
    """The ego motion that a row is conditioned on: "ii-world gt-ego" -> "gt-ego"."""
    return BASELINES.get(row) or row.rpartition(" ")[2]


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
class ReconstructionResult:
    """Counts over some frames.

    Attributes:
        counts: (19, 18) int64, rows ground truth (the last one 255), columns reconstruction.
        frames: number of frames.
    """

    counts: NDArray[Any]
    frames: int

    @classmethod
    def zero(cls) -> ReconstructionResult:
        """Nothing counted yet."""
        return cls(counts=np.zeros(TABLE, np.int64), frames=0)

    @property
    def confusion(self) -> Confusion:
        """The scores."""
        return Confusion(self.counts)

    def __add__(self, other: ReconstructionResult) -> ReconstructionResult:
        return ReconstructionResult(counts=self.counts + other.counts, frames=self.frames + other.frames)


@dataclass(frozen=True, kw_only=True)
class ForecastResult:
    """Counts over some windows.

    Attributes:
        horizons_s: (H) seconds ahead.
        rows: (R) names.
        counts: (R, H, 2, 19, 18) int64 histograms over all voxels, and over those of moving objects.
        windows: number of windows.
        pose_error: (R, H, 2) int64 sum over windows of the distance between the ego pose that the row took for true
            and the true one: of the positions in micrometres, of the headings in microradians.
        plans: (R, K, 2) int64 of the rows along the world's own motion, see `plan_counts`; K steps up to the last
            horizon.
    """

    horizons_s: tuple[float, ...]
    rows: tuple[str, ...]
    counts: NDArray[Any]
    windows: int
    pose_error: NDArray[Any]
    plans: NDArray[Any]

    @classmethod
    def zero(cls, rows: Sequence[str], horizons_s: Sequence[float], windows: int = 0) -> ForecastResult:
        """Nothing counted yet, of some windows."""
        size = (len(rows), len(horizons_s))
        return cls(
            horizons_s=tuple(horizons_s),
            rows=tuple(rows),
            counts=np.zeros((*size, 2, *TABLE), np.int64),
            windows=windows,
            pose_error=np.zeros((*size, 2), np.int64),
            plans=np.zeros((len(rows), steps_of(horizons_s)[-1], 2), np.int64),
        )

    def confusion(self, row: str, horizon: int, subset: str = "all") -> Confusion:
        """Histogram of a row at the horizon of that number; class subsets share the one over all voxels."""
        return Confusion(self.counts[self.rows.index(row), horizon, int(subset == "moving")])

    def score(self, row: str, horizon: int, metric: str, subset: str = "all") -> float:
        """A score as a fraction.

        Args:
            row: one of ``rows``.
            horizon: number of the horizon.
            metric: one of `METRICS`.
            subset: one of `SUBSETS`; "static" and "movable" restrict the classes, "moving" voxels and classes.
        """
        return float(getattr(self.confusion(row, horizon, subset), metric)(SUBSETS[subset]))

    def mean(self, row: str, metric: str, subset: str = "all", faithful: bool = False) -> float:
        """The mean of a score over the horizons.

        Args:
            row, metric, subset: as for `score`.
            faithful: round each horizon to two decimals of a percent first, and the mean again (deviation 13).
        """
        scores = [self.score(row, h, metric, subset) for h in range(len(self.horizons_s))]
        return rounded(float(np.mean([rounded(s) for s in scores]))) if faithful else float(np.mean(scores))

    def ego_error(self, row: str) -> NDArray[Any]:
        """(H, 2) mean distance between the row's ego pose and the true one, metres and radians."""
        error: NDArray[Any] = self.pose_error[self.rows.index(row)] * 1e-6 / max(self.windows, 1)
        return error

    def plan(self, row: str, seconds: int, convention: str) -> tuple[float, float]:
        """L2 in metres and collision rate of a row at a time.

        Args:
            row: one along the world's own motion.
            seconds: until when.
            convention: "UniAD" (at that time) or "ST-P3" (mean over the steps until then).
        """
        last = round(seconds / STEP_S)
        counts = self.plans[self.rows.index(row), (last - 1 if convention == "UniAD" else 0) : last]
        micrometres, collisions = counts.mean(0) / max(self.windows, 1)
        return float(micrometres) * 1e-6, float(collisions)

    def __add__(self, other: ForecastResult) -> ForecastResult:
        if (self.rows, self.horizons_s) != (other.rows, other.horizons_s):
            raise OptionError(
                f"results of {self.rows} at {self.horizons_s} s and of {other.rows} at {other.horizons_s} s",
                "the same rows and horizons",
                "evaluate both with the same options",
            )
        return ForecastResult(
            horizons_s=self.horizons_s,
            rows=self.rows,
            counts=self.counts + other.counts,
            windows=self.windows + other.windows,
            pose_error=self.pose_error + other.pose_error,
            plans=self.plans + other.plans,
        )
