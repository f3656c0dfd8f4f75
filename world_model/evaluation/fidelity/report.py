"""The benchmark's results as JSON, Markdown and plots."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from world_model.core.table import Table, bullets, decimal, json_values, percent, write_report
from world_model.evaluation.fidelity.actions import ACTION_SETS
from world_model.evaluation.fidelity.plots import plot_persistence, plot_response, plot_scores
from world_model.evaluation.fidelity.result import TRUTH, WorldResult, mean_until
from world_model.evaluation.fidelity.scene import CONTROL_ARMS
from world_model.evaluation.plots import write_plot

NOTES = (
    "Scores in percent, accumulated over all drives, all voxels of the grid. IoU: occupied against free; mIoU: mean "
    "over the classes that occur. Each world is conditioned on exactly the motions that the truth executes."
)
ARM_NOTE = (
    "A world that answers actions must lose most of its score when it is conditioned on an ego that stands (frozen) or "
    "drives as in another scene (shuffled) while the truth goes on. Ratio: score of the arm over the score under the "
    "true motions, mean up to 3 s."
)
RESPONSE_NOTE = (
    "Motion of the static scene between consecutive forecasts, found by registration of the labels alone, against the "
    "conditioning motion, after 0.5, 1.5 and 3 s. The row of the truth is the floor of the registration. "
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
        settings: how: name -> value, as text.
        horizons_s: of the scores.
        worlds: the candidates, and the ground truth (`TRUTH`) as one more row of the ego response.
        counterfactual: whether the truth is known for actions that were not logged.
    """

    title: str
    settings: dict[str, Any]
    horizons_s: tuple[float, ...]
    worlds: tuple[WorldResult, ...]
    counterfactual: bool

    @property
    def candidates(self) -> list[WorldResult]:
        """The worlds under test."""
        return [world for world in self.worlds if world.name != TRUTH]

    @property
    def chased(self) -> list[WorldResult]:
        """The candidates whose obstacle persistence was measured."""
        return [world for world in self.candidates if world.kept.size]

    def save(self, folder: Path) -> list[Path]:
        """Write fidelity.json, fidelity.md and the plots, each atomically; returns their paths."""
        plots = {
            "scores": plot_scores(self.title, self.horizons_s, self.candidates),
            "response": plot_response(self.title, self.worlds),
        }
        if self.chased:
            plots["persistence"] = plot_persistence(self.title, self.chased)
        written = write_report(folder, "fidelity", self.to_dict(), self.to_markdown())
        return written + [write_plot(folder / f"{name}.png", figure) for name, figure in plots.items()]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; NaN and infinity become null."""

        def scores(world: WorldResult) -> dict[str, Any]:
            return {e: {m: world.scores(e, m).tolist() for m in ("miou", "iou")} for e in world.tables}

        def persistence(world: WorldResult) -> dict[str, Any]:
            found = world.persistence().items()
            seconds = {f"{s:g}": dict(zip(("near", "exact", "voxels"), v, strict=True)) for s, v in found}
            return {"chases": len(world.kept), "overall": world.kept_overall, "by_second": seconds}

        value: dict[str, Any] = json_values(
            {
                "title": self.title,
                "settings": self.settings,
                "horizons_s": list(self.horizons_s),
                "counterfactual": self.counterfactual,
                "scores": {w.name: scores(w) for w in self.candidates},
                "arms": {w.name: w.arm_ratios(self.horizons_s) for w in self.candidates},
                "response": {w.name: {n: asdict(f) for n, f in w.responses().items()} for w in self.worlds},
                "persistence": {w.name: persistence(w) for w in self.candidates if w.persistence()},
            }
        )
        return value

    def to_markdown(self) -> str:
        """The tables, for people."""
        parts = [f"# Counterfactual fidelity: {self.title}", bullets(self.settings), NOTES]
        parts += [] if self.counterfactual else [LOG_ONLY]
        parts += ["## Summary", self._summary()]
        for name, metric in (("mIoU", "miou"), ("IoU", "iou")):
            parts += [f"## {name} by horizon", self._scores(metric)]
        parts += ["## Control arms", ARM_NOTE, self._arms(), "## Ego response", RESPONSE_NOTE, self._responses()]
        if self.chased:
            parts += ["## Obstacle persistence", CHASE_NOTE, self._persistence()]
        return "\n\n".join(parts) + "\n"

    def _summary(self) -> str:
        rows = []
        for world in self.candidates:
            means = {n: mean_until(world.scores(n, "miou"), self.horizons_s) for n in ACTION_SETS if n in world.tables}
            logged = means.pop("logged", math.nan)
            others = float(np.mean(list(means.values()))) if means else math.nan
            arms = world.arm_ratios(self.horizons_s).get("logged", {})
            answer = world.responses().get("all")
            rows.append(
                [
                    world.name,
                    percent(logged, 1),
                    percent(others, 1),
                    decimal(others / logged if logged else math.nan),
                    *(decimal(arms.get(arm, {}).get("miou")) for arm in CONTROL_ARMS),
                    "-" if answer is None else f"{answer.median_m:.2f} m, {answer.median_deg:.2f}°",
                    percent(world.kept_overall, 1),
                ]
            )
        header = ["world", "mIoU logged", "mIoU others", "others / logged", *CONTROL_ARMS]
        return Table([*header, "ego response median", "persistence"], rows).markdown()

    def _scores(self, metric: str) -> str:
        rows = []
        for world in self.candidates:
            for name in world.tables:
                scores = world.scores(name, metric)
                cells = [percent(score, 1) for score in (*scores, mean_until(scores, self.horizons_s))]
                rows.append([world.name, name, *cells])
        return Table(["world", "actions", *(f"{h:g} s" for h in self.horizons_s), "mean to 3 s"], rows).markdown()

    def _arms(self) -> str:
        rows = [
            [world.name, actions, arm, decimal(found["miou"]), decimal(found["iou"])]
            for world in self.candidates
            for actions, arms in world.arm_ratios(self.horizons_s).items()
            for arm, found in arms.items()
        ]
        return Table(["world", "actions", "arm", "mIoU ratio", "IoU ratio"], rows).markdown()

    def _responses(self) -> str:
        header = ["world", "actions", "steps", "median m", "p90 m", "median °", "p90 °", "within", "gain", "turn gain"]
        rows = []
        for world in self.worlds:
            for name, f in world.responses().items():
                errors = [f"{error:.3f}" for error in (f.median_m, f.p90_m, f.median_deg, f.p90_deg)]
                gains = [percent(f.within, 1), decimal(f.gain), decimal(f.turn_gain)]
                rows.append([world.name, name, str(f.steps), *errors, *gains])
        return Table(header, rows).markdown()

    def _persistence(self) -> str:
        seconds = sorted({s for world in self.candidates for s in world.persistence()})
        rows = []
        for world in self.candidates:
            found = world.persistence()
            near, exact = ([percent(found[s][n], 1) if s in found else "-" for s in seconds] for n in (0, 1))
            rows.append([world.name, str(len(world.kept)), *near, percent(world.kept_overall, 1), *exact])
        header = ["world", "drives", *(f"{s:g} s" for s in seconds), "all", *(f"{s:g} s exactly" for s in seconds)]
        return Table(header, rows).markdown()
