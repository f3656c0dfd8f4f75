"""What the benchmark has found, as figures: scores by horizon, ego response, persistence, control arms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import STEP_S
from world_model.evaluation.fidelity.actions import ACTION_SETS
from world_model.evaluation.fidelity.scene import CONTROL_ARMS
from world_model.evaluation.metrics import Confusion

TRUTH = "ground truth"
"""Row of what is found in the ground truth itself."""
WITHIN_M, WITHIN_DEG = 0.2, 1.0
"""An answer to a motion is right within these."""
Counts = dict[str, NDArray[Any]]
"""What is counted of a world in one experiment on one scene: plain arrays, which can be stored and added up."""


@dataclass(frozen=True, kw_only=True)
class EgoResponse:
    """How a world moved the static scene, against the executed motion.

    Attributes:
        steps: how many were measured.
        median_m, p90_m, median_deg, p90_deg: error per step.
        within: share of the steps right within 0.2 m and 1 degree.
        gain, turn_gain: found over executed displacement and turn (least squares): 1 answers fully, 0 not at all.
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
    def of(cls, pairs: NDArray[Any]) -> EgoResponse:
        """From (N, 2, 3) motions found and executed; a step at which nothing was found is infinitely wrong."""
        found, executed = pairs[:, 0], pairs[:, 1]
        known = np.isfinite(found).all(1)
        turn = (found[:, 2] - executed[:, 2] + math.pi) % (2 * math.pi) - math.pi
        error_m = np.where(known, np.hypot(*(found - executed)[:, :2].T), np.inf)
        error_deg = np.where(known, np.degrees(np.abs(turn)), np.inf)
        return cls(
            steps=len(pairs),
            median_m=_quantile(error_m, 0.5),
            p90_m=_quantile(error_m, 0.9),
            median_deg=_quantile(error_deg, 0.5),
            p90_deg=_quantile(error_deg, 0.9),
            within=float(((error_m <= WITHIN_M) & (error_deg <= WITHIN_DEG)).mean()) if len(pairs) else math.nan,
            gain=_gain(found[known, :2], executed[known, :2]),
            turn_gain=_gain(found[known, 2], executed[known, 2]),
        )


@dataclass(frozen=True, kw_only=True)
class WorldResult:
    """What was counted of one world, summed over scenes.

    Attributes:
        name: of the world.
        tables: (H, 19, 18) by experiment.
        response: (N, 2, 3) motions found and executed, by action set.
        kept: (M, K, 3) of `chases.still_there`.
    """

    name: str
    tables: dict[str, NDArray[Any]] = field(default_factory=dict)
    response: dict[str, NDArray[Any]] = field(default_factory=dict)
    kept: NDArray[Any] = field(default_factory=lambda: np.zeros((0, 0, 3), np.int64))

    def add(self, experiment: str, counts: Counts) -> WorldResult:
        """With the counts of one more scene."""
        tables, response, kept = dict(self.tables), dict(self.response), self.kept
        if "counts" in counts:
            tables[experiment] = tables.get(experiment, 0) + counts["counts"]
        if "response" in counts:
            pairs = counts["response"].reshape(-1, 2, 3)
            response[experiment] = np.concatenate((response.get(experiment, pairs[:0]), pairs))
        if "kept" in counts:
            kept = np.concatenate((kept, counts["kept"])) if len(kept) else counts["kept"]
        return replace(self, tables=tables, response=response, kept=kept)

    def scores(self, experiment: str, metric: str) -> NDArray[np.float64]:
        """(H) scores of an experiment as fractions; ``metric`` is "miou" or "iou"."""
        return np.array([getattr(Confusion(table), metric)() for table in self.tables[experiment]])

    def arm_ratios(self, horizons_s: Sequence[float]) -> dict[str, dict[str, dict[str, float]]]:
        """By action set, arm and metric: score over the score under the true motions, mean up to 3 s."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for actions in (name for name in ACTION_SETS if name in self.tables):
            for arm in (arm for arm in CONTROL_ARMS if f"{actions}, {arm}" in self.tables):
                pairs = {m: [self.scores(e, m) for e in (f"{actions}, {arm}", actions)] for m in ("miou", "iou")}
                ratios = {m: mean_until(_ratio(*pair), horizons_s) for m, pair in pairs.items()}
                found.setdefault(actions, {})[arm] = ratios
        return found

    def responses(self) -> dict[str, EgoResponse]:
        """Figures of "all" action sets together, and of each."""
        if not self.response:
            return {}
        pairs = {"all": np.concatenate(list(self.response.values())), **self.response}
        return {name: EgoResponse.of(found) for name, found in pairs.items()}

    def persistence(self) -> dict[float, tuple[float, float, int]]:
        """By second: share of the true obstacle voxels that are still there (within one voxel, exactly), and the number
        of these voxels; only while the ego has not reached the vehicle."""
        each, found = max(1, round(1 / STEP_S)), {}
        for begin in range(0, self.kept.shape[1], each):
            total, near, exact = self.kept[:, begin : begin + each].sum((0, 1)).tolist()
            found[(begin + each) * STEP_S] = (_share(near, total), _share(exact, total), int(total))
        return found

    @property
    def kept_overall(self) -> float:
        """Share of the true obstacle voxels that are still there within one voxel, over all seconds."""
        total, near, _ = self.kept.sum((0, 1)).tolist() if self.kept.size else (0, 0, 0)
        return _share(near, total)


def mean_until(scores: NDArray[Any], horizons_s: Sequence[float], seconds: float = 3.0) -> float:
    """Mean of the scores up to a horizon."""
    chosen = [s for s, h in zip(scores, horizons_s, strict=True) if h <= seconds]
    return float(np.mean(chosen)) if chosen else math.nan


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Element by element, NaN where the whole is 0."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)


def _quantile(values: NDArray[Any], share: float) -> float:
    return float(np.quantile(values, share, method="higher")) if len(values) else math.nan


def _gain(found: NDArray[Any], executed: NDArray[Any]) -> float:
    return _share(float((found * executed).sum()), float((executed**2).sum()))


def _share(part: float, total: float) -> float:
    return part / total if total else math.nan
