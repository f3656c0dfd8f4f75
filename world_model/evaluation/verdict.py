"""One table that says of a world whether it answers truthfully: what was wanted, what was found, whether it holds.

The wanted numbers were set before any figure was known. Each grades one world on held-out scenes, from the two results
that it needs: the forecasting table (`world_model.evaluate`) and counterfactual fidelity (`world_model.fidelity`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from world_model.core.errors import DataError
from world_model.core.table import Table, bullets, write_report
from world_model.evaluation.fidelity.result import WITHIN_DEG, WITHIN_M, mean_until
from world_model.evaluation.report import WARP
from world_model.evaluation.statistics import LEAST_SCENES

PUBLISHED = "ii-world"
"""The published architecture, which the other worlds are held against."""
MOVING_LEAD, PUBLISHED_LEAD = 0.05, 1.2
"""Wanted lead over the ego warp on moving voxels (mIoU), and factor over the published architecture (mIoU)."""
LEAST_OTHERS, MOST_ARM, LEAST_KEPT = 0.9, 0.5, 0.95
"""Wanted: score on perturbed over logged actions at least; score of a control arm over the truth's at most; share of an
obstacle that stays at least."""
FAR_S = (4.0, 6.0, 8.0)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the table.

    Attributes:
        world: which world is graded.
        what: the criterion.
        wanted, found: as text.
        holds: whether it does.
    """

    world: str
    what: str
    wanted: str
    found: str
    holds: bool


def grade(world: str, evaluation: dict[str, Any], fidelity: dict[str, Any]) -> list[Finding]:
    """Grade one world.

    Args:
        world: its name in both results.
        evaluation: `results.json` of `world_model.evaluate`.
        fidelity: `fidelity.json` of `world_model.fidelity`.

    Raises:
        DataError: a result lacks what is graded, or there were too few scenes.
    """
    if "intervals" not in evaluation:
        raise too_few_scenes("a forecasting table without intervals")
    try:
        return list(_Grader(world, evaluation, fidelity).findings())
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise DataError(
            f"results without {error} for the world {world!r}",
            "a forecasting table with its row gt-ego, and fidelity with all action sets and arms",
            "run `python -m world_model.verdict` into an empty folder",
        ) from error


def too_few_scenes(found: str) -> DataError:
    """The error where no interval can be given."""
    return DataError(
        found,
        f"{LEAST_SCENES} held-out scenes with windows at least, better 30: with fewer nothing is 95 % sure",
        "`python -m world_model.make_synthetic --scenes 150` holds out 30; the bundled demo scenes are 5",
    )


class _Grader:
    """The criteria; arguments as for `grade`."""

    def __init__(self, world: str, evaluation: dict[str, Any], fidelity: dict[str, Any]) -> None:
        self.world, self.evaluation, self.fidelity = world, evaluation, fidelity
        self.row = f"{world} gt-ego"

    def findings(self) -> Iterator[Finding]:
        for score, metric in (("mIoU", "miou"), ("IoU", "iou")):
            yield self._lead(score, self._forecast(self.row, metric), self._forecast(WARP, metric), 0.0)
        late = {s: v for s, v in self._forecast(self.row, "miou", "moving").items() if s >= 2}
        yield self._lead("mIoU moving", late, self._forecast(WARP, "miou", "moving"), MOVING_LEAD)
        if self.world != PUBLISHED and f"{PUBLISHED} gt-ego" in self.evaluation["forecasting"]["rows"]:
            yield self._published()
        yield self._perturbed()
        yield self._arms()
        yield self._response()
        yield self._persistence()
        if self.world != "transport":
            yield from (self._far(score, metric) for score, metric in (("mIoU", "miou"), ("IoU", "iou")))

    def _finding(self, what: str, wanted: str, found: str, holds: bool) -> Finding:
        return Finding(world=self.world, what=what, wanted=wanted, found=found, holds=holds)

    def _forecast(self, row: str, metric: str, subset: str = "all") -> dict[float, float]:
        """Horizon in seconds -> score of a row of the forecasting table."""
        horizons: dict[str, Any] = self.evaluation["forecasting"]["rows"][row]["horizons"]
        return {float(name.removesuffix("s")): found[subset][metric] for name, found in horizons.items()}

    def _lead(self, score: str, own: dict[float, float], warp: dict[float, float], wanted: float) -> Finding:
        """The lead over the ego warp at each horizon: as large as wanted, and surely above zero."""
        intervals = self.evaluation["intervals"]["rows"][self.row]["minus ego warp"]
        leads = [(own[s] - warp[s], *intervals[f"{s:g}s"][score]) for s in own]
        return self._finding(
            f"{score} over the ego warp at {', '.join(f'{s:g}' for s in own)} s",
            f"{f'{100 * wanted:+.0f} points' if wanted else 'above'}; above at 95 %",
            "; ".join(f"{100 * lead:+.1f} [{100 * low:.1f}, {100 * high:.1f}]" for lead, low, high in leads),
            all(lead >= wanted and low > 0 for lead, low, _ in leads),
        )

    def _published(self) -> Finding:
        rows = (self._forecast(f"{name} gt-ego", "miou").values() for name in (self.world, PUBLISHED))
        own, other = (float(np.mean(list(scores))) for scores in rows)
        return self._finding(
            "mIoU over the published architecture, mean 1-3 s",
            f"x {PUBLISHED_LEAD} at least",
            f"x {_ratio(own, other):.2f} ({100 * own:.1f} against {100 * other:.1f})",
            own >= PUBLISHED_LEAD * other,
        )

    def _perturbed(self) -> Finding:
        horizons, scores = self.fidelity["horizons_s"], self.fidelity["scores"][self.world]
        perturbed, logged = (mean_until(scores[name]["miou"], horizons) for name in ("perturbed", "logged"))
        part = _ratio(perturbed, logged)
        what = "mIoU on perturbed over logged actions"
        return self._finding(what, f">= {LEAST_OTHERS}", f"{part:.2f}", part >= LEAST_OTHERS)

    def _arms(self) -> Finding:
        # A world that scores nothing under the true motions has no ratio: it answers to no arm.
        arms = {
            f"{action_set}, {arm}": math.inf if found["miou"] is None else found["miou"]
            for action_set, by_arm in self.fidelity["arms"][self.world].items()
            for arm, found in by_arm.items()
        }
        found = "; ".join(f"{name} {value:.2f}" for name, value in arms.items())
        what = "control arms: mIoU over that with true motions"
        return self._finding(what, f"<= {MOST_ARM}", found, max(arms.values()) <= MOST_ARM)

    def _response(self) -> Finding:
        found = self.fidelity["response"][self.world]["all"]
        distance_m, angle_deg = (math.inf if found[n] is None else found[n] for n in ("p90_m", "p90_deg"))
        return self._finding(
            "ego response per step, nine steps in ten",
            f"within {WITHIN_M} m and {WITHIN_DEG:g}°",
            f"{distance_m:.3f} m, {angle_deg:.3f}°",
            distance_m <= WITHIN_M and angle_deg <= WITHIN_DEG,
        )

    def _persistence(self) -> Finding:
        """Whether obstacles stay; without a vehicle ahead in any scene it is unknown, which is no yes."""
        kept = self.fidelity["persistence"].get(self.world, {}).get("overall")
        return self._finding(
            "an obstacle that is driven at stays, 3 s",
            f">= {LEAST_KEPT:.0%} of the simulator's",
            "not measured: no vehicle stands ahead in these scenes" if kept is None else f"{kept:.1%}",
            kept is not None and kept >= LEAST_KEPT,
        )

    def _far(self, score: str, metric: str) -> Finding:
        places = [self.fidelity["horizons_s"].index(s) for s in FAR_S]
        own, warp = (self.fidelity["scores"][name]["logged"][metric] for name in (self.world, "transport"))
        return self._finding(
            f"no collapse: {score} at {', '.join(f'{s:g}' for s in FAR_S)} s",
            "not below the warp",
            "; ".join(_against(own[p], warp[p]) for p in places),
            all(own[p] >= warp[p] for p in places),
        )


def _against(own: float, other: float) -> str:
    """Two scores in percent, with as many digits as it takes to see which is higher."""
    pairs = ((f"{100 * own:.{digits}f}", f"{100 * other:.{digits}f}") for digits in (1, 2, 3))
    return next((f"{a} against {b}" for a, b in pairs if a != b), f"{100 * own:.1f}, equal")


def _ratio(part: float, whole: float) -> float:
    """Something over nothing is infinite; nothing over nothing is NaN, which reaches no threshold."""
    return part / whole if whole else math.inf if part else math.nan


def write_verdict(folder: Path, title: str, findings: Sequence[Finding], sources: dict[str, str]) -> list[Path]:
    """Write verdict.md and verdict.json, each atomically; returns their paths."""
    rows = [[f.world, f.what, f.wanted, f.found, "yes" if f.holds else "**no**"] for f in findings]
    table = Table(["world", "what", "wanted", "found", "holds"], rows, aligned=True)
    text = f"# How true is the world? {title}\n\n{bullets(sources)}\n\n{table.markdown()}\n"
    values = {"title": title, "sources": sources, "findings": [asdict(f) for f in findings]}
    return write_report(folder, "verdict", values, text)[::-1]
