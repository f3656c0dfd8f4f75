"""Evaluation results as JSON, Markdown tables and plots; each says which data, which regime and which convention."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from world_model.core.grid import CLASS_NAMES
from world_model.core.table import Table, bullets, json_values, percent, write_report
from world_model.evaluation.metrics import SEMANTIC, Confusion
from world_model.evaluation.plots import plot_classes, plot_horizons, write_plot
from world_model.evaluation.result import METRICS, SUBSETS, ForecastResult, ReconstructionResult, regime_of
from world_model.evaluation.statistics import SCORES, Intervals

CONVENTIONS = (
    "All scores in percent, accumulated over the set, {mask}. IoU: occupied against free. mIoU: mean "
    "over the classes that occur in the ground truth or the prediction. mIoU_published: classes with IoU 0 dropped "
    "from the mean. IoU_published: ground truth of 255 counts as occupied, where IoU leaves it out (the conventions "
    "of the II-World release)."
)
MASKED = {"none": "without visibility mask"}
FAITHFUL = "Means over the horizons are rounded as the release rounds: each horizon to two decimals, then the mean."
SUBSET_NOTE = (
    "static and movable compare only these classes; moving counts only voxels within 0.5 m of annotated objects faster "
    "than 0.5 m/s, and movable classes in them."
)

INTERVALS = (
    "{scenes} scenes, drawn 1,000 times with replacement; the same draws for all rows, so the columns with a minus are "
    "of paired differences: a row is above the ego warp where both ends are."
)
WARP = "ego warp"
PLANS = (
    "The ego as the world itself expects it under the logged command of each step, against the recorded drive, at the "
    "LiDAR's place. UniAD: the value at that time; ST-P3: the mean over all steps until then. Collisions in percent of "
    "windows, with vehicles and people on a raster of 0.5 m; where the true drive collides nothing counts."
)
PLAN_CONVENTIONS, PLAN_S = ("UniAD", "ST-P3"), (1, 2, 3)
OCCWORLD_SCORE = "mIoU in OccWorld's convention (a class that the ground truth does not hold counts as IoU 1): "


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything one evaluation found.

    Attributes:
        title: what was evaluated on what, e.g. "synthetic, held-out".
        settings: how it was measured: name -> value, as text.
        reconstruction: the tokenizer's scores, if measured.
        forecasting: the forecast table, if measured.
        intervals: how sure it is, where there are scenes enough.
        faithful: round means over the horizons as the release does.
        mask: what part of a frame was scored: none (all of it), camera or lidar.
    """

    title: str
    settings: dict[str, Any]
    reconstruction: ReconstructionResult | None = None
    forecasting: ForecastResult | None = None
    intervals: Intervals | None = None
    faithful: bool = False
    mask: str = "none"

    @property
    def conventions(self) -> str:
        """What the scores are."""
        return CONVENTIONS.format(mask=MASKED.get(self.mask, f"inside the {self.mask} mask of the scored frame"))

    def save(self, folder: Path) -> list[Path]:
        """Write results.json, results.md and the plots, each atomically; returns their paths."""
        written = write_report(folder, "results", self.to_dict(), self.to_markdown())
        if self.forecasting is not None:
            for name, plot in (("horizon", plot_horizons), ("class", plot_classes)):
                figure = plot(self.title, self.forecasting)
                written.append(write_plot(folder / f"forecast_by_{name}.png", figure))
        return written

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; NaN becomes null."""
        conventions = f"{self.conventions} {FAITHFUL}" if self.faithful else self.conventions
        value: dict[str, Any] = {"title": self.title, "settings": self.settings, "conventions": conventions}
        if self.reconstruction is not None:
            value["reconstruction"] = {"frames": self.reconstruction.frames, **_scores(self.reconstruction.confusion)}
        if self.forecasting is not None:
            value["forecasting"] = _forecast_dict(self.forecasting, self.faithful)
        value = json_values(value)
        if self.forecasting is not None and self.intervals is not None:
            value["intervals"] = _interval_dict(self.forecasting, self.intervals)
        return value

    def to_markdown(self) -> str:
        """The tables, for people."""
        parts = [f"# Evaluation: {self.title}", bullets(self.settings), self.conventions]
        if self.reconstruction is not None:
            parts += [f"## Reconstruction ({self.reconstruction.frames} frames)"]
            parts += _reconstruction_tables(self.reconstruction.confusion)
        if self.forecasting is not None:
            result = self.forecasting
            parts.append(f"## Forecasting ({result.windows} windows: 4 past + current in)")
            parts += [FAITHFUL] if self.faithful else []
            parts += [_horizon_table(result, self.faithful)]
            parts += [_occworld_scores(result)] if any("occworld" in row for row in result.rows) else []
            if self.intervals is not None:
                note = INTERVALS.format(scenes=self.intervals.scenes)
                parts += ["### 95 % intervals over the scenes", _interval_table(result, self.intervals), note]
            parts += ["### Subsets (mean over the horizons)", _subset_table(result), "Subsets: " + SUBSET_NOTE]
            for h, seconds in enumerate(result.horizons_s):
                parts += [f"### IoU per class at {seconds:g} s", _class_table(result, h)]
            parts += [_pose_errors(result)] if _with_pose_error(result) else []
            parts += ["### Planning", _plan_table(result), PLANS] if _planning(result) else []
        return "\n\n".join(parts) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return Table(header, rows, aligned=True).markdown()


def _scores(confusion: Confusion) -> dict[str, Any]:
    values = {**{metric: getattr(confusion, metric)() for metric in METRICS}, "per_class": _per_class(confusion)}
    return {**values, "voxels": confusion.total, "voxels_ignored": int(confusion.ignored.sum())}


def _per_class(confusion: Confusion) -> dict[str, float]:
    return dict(zip(CLASS_NAMES, confusion.per_class().tolist(), strict=True))


def _forecast_dict(result: ForecastResult, faithful: bool) -> dict[str, Any]:
    def by_subset(score: Callable[[str, str], float]) -> dict[str, Any]:
        return {subset: {metric: score(metric, subset) for metric in METRICS} for subset in SUBSETS}

    def row(name: str) -> dict[str, Any]:
        horizons = {
            f"{seconds:g}s": {
                **by_subset(partial(result.score, name, h)),
                "per_class": _per_class(result.confusion(name, h)),
            }
            for h, seconds in enumerate(result.horizons_s)
        }
        mean = by_subset(partial(result.mean, name, faithful=faithful))
        occworld = [result.confusion(name, h).miou_occworld() for h in range(len(result.horizons_s))]
        values = {"regime": regime_of(name), "horizons": horizons, "mean": mean, "miou_occworld": occworld}
        if name in _with_pose_error(result):
            position_m, heading_rad = result.ego_error(name).T.tolist()
            values |= {"ego_position_error_m": position_m, "ego_heading_error_rad": heading_rad}
        if name in _planning(result):
            values["planning"] = _plan_dict(result, name)
        return values

    rows = {name: row(name) for name in result.rows}
    return {"windows": result.windows, "horizons_s": list(result.horizons_s), "rows": rows}


def _with_pose_error(result: ForecastResult) -> list[str]:
    """Rows whose ego position is not the true one."""
    return [name for name in result.rows if regime_of(name) in ("pred-ego", "action")]


def _planning(result: ForecastResult) -> dict[str, list[int]]:
    """Rows along a world's own motion, with the times that their plans reach."""
    times = [s for s in PLAN_S if s <= result.horizons_s[-1]]
    return {name: times for name in result.rows if times and regime_of(name) == "pred-ego"}


def _plan_dict(result: ForecastResult, name: str) -> dict[str, Any]:
    def at(convention: str, seconds: int) -> dict[str, float]:
        return dict(zip(("l2_m", "collision"), result.plan(name, seconds, convention), strict=True))

    return {c: {f"{s}s": at(c, s) for s in _planning(result)[name]} for c in PLAN_CONVENTIONS}


def _plan_table(result: ForecastResult) -> str:
    rows, times = [], list[int]()
    for name, times in _planning(result).items():
        for convention in PLAN_CONVENTIONS:
            plans = [result.plan(name, s, convention) for s in times]
            rows.append([name, convention, *(f"{m:.2f}" for m, _ in plans), *(f"{100 * c:.2f}" for _, c in plans)])
    return _table(
        ["forecast", "convention", *(f"L2 {s}s m" for s in times), *(f"collision {s}s %" for s in times)], rows
    )


def _pose_errors(result: ForecastResult) -> str:
    def row(name: str) -> str:
        errors = zip(result.ego_error(name), result.horizons_s, strict=True)
        return f"{name} " + ", ".join(f"{m:.2f} m and {math.degrees(a):.1f}° at {s:g} s" for (m, a), s in errors)

    return "Mean error of the ego pose at t: " + "; ".join(map(row, _with_pose_error(result))) + "."


def _metrics_of(confusions: Sequence[Confusion]) -> list[str]:
    """The metrics that say something: IoU_published is IoU where no ground truth is 255."""
    return [m for m in METRICS if m != "iou_published" or any(c.ignored.any() for c in confusions)]


def _reconstruction_tables(confusion: Confusion) -> list[str]:
    metrics, scores = _metrics_of([confusion]), confusion.per_class()
    head = _table([METRICS[m] for m in metrics], [[percent(getattr(confusion, m)()) for m in metrics]])
    return [head, _table(["class", "IoU"], [[CLASS_NAMES[c], percent(scores[c])] for c in SEMANTIC])]


def _horizon_table(result: ForecastResult, faithful: bool) -> str:
    horizons = range(len(result.horizons_s))
    metrics = _metrics_of([result.confusion(result.rows[0], h) for h in horizons])
    header = ["forecast", "ego poses"]
    for metric in metrics:
        header += [f"{METRICS[metric]} {s:g}s" for s in result.horizons_s] + ["mean"]
    rows = []
    for name in result.rows:
        cells = [name, regime_of(name)]
        for metric in metrics:
            cells += [percent(result.score(name, h, metric)) for h in horizons]
            cells.append(percent(result.mean(name, metric, faithful=faithful)))
        rows.append(cells)
    return _table(header, rows)


def _occworld_scores(result: ForecastResult) -> str:
    def row(name: str) -> str:
        scores = (percent(result.confusion(name, h).miou_occworld()) for h in range(len(result.horizons_s)))
        return f"{name} {' / '.join(scores)}"

    return OCCWORLD_SCORE + "; ".join(map(row, result.rows)) + "."


def _subset_table(result: ForecastResult) -> str:
    columns = [(metric, subset) for subset in SUBSETS for metric in ("miou", "iou")]
    rows = [[name, *(percent(result.mean(name, m, s)) for m, s in columns)] for name in result.rows]
    return _table(["forecast", *(f"{METRICS[m]} {s}" for m, s in columns)], rows)


def _interval_dict(result: ForecastResult, intervals: Intervals) -> dict[str, Any]:
    """(low, high) of every row, score and horizon, and of the difference from the ego warp."""

    def scores(row: str, minus: str | None) -> dict[str, Any]:
        horizons = enumerate(result.horizons_s)
        return {f"{s:g}s": {score: list(intervals.of(row, score, h, minus)) for score in SCORES} for h, s in horizons}

    rows = {row: {"score": scores(row, None), "minus ego warp": scores(row, WARP)} for row in result.rows}
    return {"scenes": intervals.scenes, "rows": rows}


def _interval_table(result: ForecastResult, intervals: Intervals) -> str:
    """The interval of every row, and that of its lead over the ego warp."""
    header, rows = ["forecast", "s", *SCORES, *(f"{score} - {WARP}" for score in SCORES)], []
    for name in result.rows:
        for h, seconds in enumerate(result.horizons_s):
            cells = [_interval(*intervals.of(name, score, h)) for score in SCORES]
            cells += ["-" if name == WARP else _interval(*intervals.of(name, score, h, WARP)) for score in SCORES]
            rows.append([name, f"{seconds:g}", *cells])
    return _table(header, rows)


def _interval(low: float, high: float) -> str:
    return "-" if math.isnan(low) else f"{100 * low:.1f} .. {100 * high:.1f}"


def _class_table(result: ForecastResult, horizon: int) -> str:
    scores = [result.confusion(name, horizon).per_class() for name in result.rows]
    return _table(["class", *result.rows], [[CLASS_NAMES[c], *(percent(s[c]) for s in scores)] for c in SEMANTIC])
