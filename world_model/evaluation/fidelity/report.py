"""The benchmark's results as JSON, Markdown, plots and a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from world_model.core.files import write_json, write_text
from world_model.evaluation.fidelity.drives import ACTION_SETS
from world_model.evaluation.fidelity.result import TRUTH, ResponseFigures, WorldResult, mean_until, ratio

ARM_NAMES = ("frozen", "shuffled")
NOTES = (
    "Scores in percent, accumulated over all drives, all voxels of the grid. IoU: occupied against free; mIoU: mean "
    "over the classes that occur. Each world is told exactly the motions that the truth is told."
)
ARM_NOTE = (
    "A world that answers actions must lose most of its score when it is told that the ego stands (frozen) or drives "
    "as in another scene (shuffled) while the truth goes on. Ratio: score of the arm over the score when told the "
    "truth, mean up to 3 s."
)
RESPONSE_NOTE = (
    "Motion of the static scene between consecutive forecasts, found by registration of the labels alone, against the "
    "motion the world was told, after 0.5, 1.5 and 3 s. The row of the truth is the floor of the registration. "
    "Within: share of the steps right within 0.2 m and 1 degree. Gain: found over driven (1 answers fully, 0 not at "
    "all)."
)
CHASE_NOTE = (
    "Driving for 3 s at a vehicle that stands ahead: share of the obstacle voxels of this vehicle that the truth shows "
    "and that the world still has an obstacle at (within one voxel; exactly there), until the ego reaches it."
)
LOG_ONLY = (
    "These data are recordings, not a simulator: what would have happened under other actions is not known. Only "
    "logged actions, their control arms and the ego response to them are measured; the other action sets and obstacle "
    "persistence need synthetic scenes."
)


@dataclass(frozen=True, kw_only=True)
class FidelityReport:
    """Everything one run found.

    Attributes:
        title: what was measured on what.
        settings: how: name -> value, as shown.
        horizons_s: of the scores.
        worlds: the worlds, and the truth (`TRUTH`) as one more row of the ego response.
        counterfactual: whether the truth is known for actions that were not logged.
    """

    title: str
    settings: dict[str, Any]
    horizons_s: tuple[float, ...]
    worlds: tuple[WorldResult, ...]
    counterfactual: bool

    @property
    def judged(self) -> list[WorldResult]:
        """The worlds under test."""
        return [world for world in self.worlds if world.name != TRUTH]

    def save(self, folder: Path) -> list[Path]:
        """Write fidelity.json, fidelity.md and the plots, each atomically; returns their paths."""
        from world_model.evaluation.fidelity.plots import plot_persistence, plot_response, plot_scores
        from world_model.evaluation.plots import write_plot

        written = [folder / "fidelity.json", folder / "fidelity.md", folder / "scores.png", folder / "response.png"]
        write_json(written[0], self.to_dict())
        write_text(written[1], self.to_markdown())
        write_plot(written[2], plot_scores(self))
        write_plot(written[3], plot_response(self))
        if any(world.kept.size for world in self.judged):
            written.append(folder / "persistence.png")
            write_plot(written[-1], plot_persistence(self))
        return written

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; NaN and infinity become null."""
        value = {
            "title": self.title,
            "settings": self.settings,
            "horizons_s": list(self.horizons_s),
            "counterfactual": self.counterfactual,
            "scores": {
                w.name: {t: {m: w.scores(t, m).tolist() for m in ("miou", "iou")} for t in w.tables}
                for w in self.judged
            },
            "arms": {w.name: arm_ratios(w, self.horizons_s) for w in self.judged},
            "response": {w.name: {n: asdict(f) for n, f in w.responses().items()} for w in self.worlds},
            "persistence": {
                w.name: {
                    "chases": len(w.kept),
                    "overall": w.kept_overall,
                    "by_second": {f"{s:g}": dict(zip(("near", "exact", "voxels"), v, strict=True)) for s, v in found},
                }
                for w in self.judged
                if (found := list(w.persistence().items()))
            },
        }
        clean: dict[str, Any] = _clean(value)
        return clean

    def to_markdown(self) -> str:
        """The tables, for people."""
        parts = [f"# Counterfactual fidelity: {self.title}", _bullets(self.settings), NOTES]
        parts += [] if self.counterfactual else [LOG_ONLY]
        parts += ["## Summary", self._summary()]
        for name, metric in (("mIoU", "miou"), ("IoU", "iou")):
            parts += [f"## {name} by horizon", self._scores(metric)]
        parts += ["## Control arms", ARM_NOTE, self._arms(), "## Ego response", RESPONSE_NOTE, self._responses()]
        if any(world.kept.size for world in self.judged):
            parts += ["## Obstacle persistence", CHASE_NOTE, self._persistence()]
        return "\n\n".join(parts) + "\n"

    def _summary(self) -> str:
        header = ["world", "mIoU logged", "mIoU others", "others / logged", "frozen", "shuffled"]
        header += ["ego response median", "persistence"]
        return _table(header, [self._summary_row(world) for world in self.judged])

    def _summary_row(self, world: WorldResult) -> list[str]:
        base = mean_until(world.scores("logged", "miou"), self.horizons_s) if "logged" in world.tables else math.nan
        others = [mean_until(world.scores(n, "miou"), self.horizons_s) for n in ACTION_SETS[1:] if n in world.tables]
        mean = float(np.mean(others)) if others else math.nan
        arms = arm_ratios(world, self.horizons_s).get("logged", {})
        every = world.responses().get("all")
        answer = "-" if every is None else f"{every.median_m:.2f} m, {every.median_deg:.2f}°"
        share = [_two(arms.get(arm, {}).get("miou", math.nan)) for arm in ARM_NAMES]
        kept = _percent(world.kept_overall)
        return [
            world.name,
            _percent(base),
            _percent(mean),
            _two(mean / base if base else math.nan),
            *share,
            answer,
            kept,
        ]

    def _scores(self, metric: str) -> str:
        header = ["world", "actions", *(f"{h:g} s" for h in self.horizons_s), "mean to 3 s"]
        rows = []
        for world in self.judged:
            for task in world.tables:
                scores = world.scores(task, metric)
                rows.append([world.name, task, *map(_percent, scores), _percent(mean_until(scores, self.horizons_s))])
        return _table(header, rows)

    def _arms(self) -> str:
        rows = [
            [world.name, drive, arm, _two(found["miou"]), _two(found["iou"])]
            for world in self.judged
            for drive, arms in arm_ratios(world, self.horizons_s).items()
            for arm, found in arms.items()
        ]
        return _table(["world", "actions", "arm", "mIoU ratio", "IoU ratio"], rows)

    def _responses(self) -> str:
        header = ["world", "actions", "steps", "median m", "p90 m", "median °", "p90 °", "within", "gain", "turn gain"]
        rows = [[w.name, n, *_response_cells(f)] for w in self.worlds for n, f in w.responses().items()]
        return _table(header, rows)

    def _persistence(self) -> str:
        seconds = sorted({s for world in self.judged for s in world.persistence()})
        header = ["world", "drives", *(f"{s:g} s" for s in seconds), "all", *(f"{s:g} s exactly" for s in seconds)]
        rows = []
        for world in self.judged:
            found = world.persistence()
            near, exact = ([_percent(found[s][n]) if s in found else "-" for s in seconds] for n in (0, 1))
            rows.append([world.name, str(len(world.kept)), *near, _percent(world.kept_overall), *exact])
        return _table(header, rows)


def arm_ratios(world: WorldResult, horizons_s: Sequence[float]) -> dict[str, dict[str, dict[str, float]]]:
    """By action set and arm: score over the score when told the truth, mean up to 3 s."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for drive in ACTION_SETS:
        for arm in ARM_NAMES:
            if drive in world.tables and (task := f"{drive}, {arm}") in world.tables:
                found.setdefault(drive, {})[arm] = {
                    metric: mean_until(ratio(world.scores(task, metric), world.scores(drive, metric)), horizons_s)
                    for metric in ("miou", "iou")
                }
    return found


def _response_cells(found: ResponseFigures) -> list[str]:
    errors = [f"{v:.3f}" for v in (found.median_m, found.p90_m, found.median_deg, found.p90_deg)]
    return [str(found.steps), *errors, _percent(found.within), _two(found.gain), _two(found.turn_gain)]


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.1f}"


def _two(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _bullets(settings: dict[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in settings.items())


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join("---" for _ in header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _clean(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_clean(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
