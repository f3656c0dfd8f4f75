"""What the benchmark has found, as figures: scores by horizon, ego response, persistence, control arms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import STEP_S
from world_model.evaluation.fidelity.measure import Counts
from world_model.evaluation.metrics import Confusion

TRUTH = "ground truth"
"""Row of what the truth itself is found to do."""
WITHIN_M, WITHIN_DEG = 0.2, 1.0
"""An answer to a motion is right within these."""


@dataclass(frozen=True, kw_only=True)
class ResponseFigures:
    """How a world moved the static scene, against what it was told.

    Attributes:
        steps: how many were measured.
        median_m, p90_m, median_deg, p90_deg: error per step.
        within: share of the steps right within 0.2 m and 1 degree.
        gain, turn_gain: found over driven displacement and turn (least squares): 1 answers fully, 0 not at all.
    """

    steps: int
    median_m: float
    p90_m: float
    median_deg: float
    p90_deg: float
    within: float
    gain: float
    turn_gain: float

    @classmethod
    def of(cls, pairs: NDArray[Any]) -> ResponseFigures:
        """From (N, 2, 3) motions found and driven; a step at which nothing was found is infinitely wrong."""
        found, driven = pairs[:, 0], pairs[:, 1]
        known = np.isfinite(found).all(1)
        turn = (found[:, 2] - driven[:, 2] + math.pi) % (2 * math.pi) - math.pi
        away = np.where(known, np.hypot(*(found - driven)[:, :2].T), np.inf)
        wrong = np.where(known, np.degrees(np.abs(turn)), np.inf)
        return cls(
            steps=len(pairs),
            median_m=_quantile(away, 0.5),
            p90_m=_quantile(away, 0.9),
            median_deg=_quantile(wrong, 0.5),
            p90_deg=_quantile(wrong, 0.9),
            within=float(((away <= WITHIN_M) & (wrong <= WITHIN_DEG)).mean()) if len(pairs) else math.nan,
            gain=_gain(found[known, :2], driven[known, :2]),
            turn_gain=_gain(found[known, 2], driven[known, 2]),
        )


@dataclass(frozen=True, kw_only=True)
class WorldResult:
    """What was counted of one world, summed over scenes.

    Attributes:
        name: of the world.
        tables: (H, 19, 18) by task.
        response: (N, 2, 3) motions found and driven, by action set.
        kept: (M, K, 3) of `chases.still_there`.
    """

    name: str
    tables: dict[str, NDArray[Any]] = field(default_factory=dict)
    response: dict[str, NDArray[Any]] = field(default_factory=dict)
    kept: NDArray[Any] = field(default_factory=lambda: np.zeros((0, 0, 3), np.int64))

    def add(self, task: str, counts: Counts) -> WorldResult:
        """With the counts of one more scene."""
        tables, response, kept = dict(self.tables), dict(self.response), self.kept
        if "counts" in counts:
            tables[task] = tables[task] + counts["counts"] if task in tables else counts["counts"]
        if "response" in counts:
            pairs = counts["response"].reshape(-1, 2, 3)
            response[task] = np.concatenate((response[task], pairs)) if task in response else pairs
        if "kept" in counts:
            kept = np.concatenate((kept, counts["kept"])) if len(kept) else counts["kept"]
        return WorldResult(name=self.name, tables=tables, response=response, kept=kept)

    def scores(self, task: str, metric: str) -> NDArray[Any]:
        """(H) scores of a task as fractions; ``metric`` is "miou" or "iou"."""
        return np.array([getattr(Confusion(table), metric)() for table in self.tables[task]])

    def responses(self) -> dict[str, ResponseFigures]:
        """Figures of every action set, and of "all" of them."""
        if not self.response:
            return {}
        every = np.concatenate(list(self.response.values()))
        return {"all": ResponseFigures.of(every), **{n: ResponseFigures.of(p) for n, p in self.response.items()}}

    def persistence(self) -> dict[float, tuple[float, float, int]]:
        """By second: share of the true obstacle voxels that are still there (within one voxel, exactly), and the number
        of these voxels; only while the ego has not reached the vehicle."""
        steps = self.kept.shape[1]
        each = max(1, round(1 / STEP_S))
        found = {}
        for begin in range(0, steps, each):
            total, near, exact = self.kept[:, begin : begin + each].sum((0, 1)).tolist()
            found[(begin + each) * STEP_S] = (_share(near, total), _share(exact, total), int(total))
        return found

    @property
    def kept_overall(self) -> float:
        """Share of the true obstacle voxels that are still there within one voxel, over all seconds."""
        total, near, _ = self.kept.sum((0, 1)).tolist() if self.kept.size else (0, 0, 0)
        return _share(near, total)


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[Any]:
    """Element by element, NaN where the whole is 0."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)


def mean_until(scores: NDArray[Any], horizons_s: Sequence[float], seconds: float = 3.0) -> float:
    """Mean of the scores up to a horizon."""
    chosen = [s for s, h in zip(scores, horizons_s, strict=True) if h <= seconds]
    return float(np.mean(chosen)) if chosen else math.nan


def _quantile(values: NDArray[Any], share: float) -> float:
    return float(np.quantile(values, share, method="higher")) if len(values) else math.nan


def _gain(found: NDArray[Any], driven: NDArray[Any]) -> float:
    return _share(float((found * driven).sum()), float((driven**2).sum()))


def _share(part: float, total: float) -> float:
    return part / total if total else math.nan
