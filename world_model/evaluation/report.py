"""Evaluation results as JSON, Markdown tables and plots; each says which data, which regime and which convention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from world_model.core.files import write_json, write_text
from world_model.core.grid import CLASS_NAMES
from world_model.evaluation.metrics import SEMANTIC, Confusion
from world_model.evaluation.result import METRICS, SUBSETS, ForecastResult, ReconstructionResult, regime_of
from world_model.evaluation.statistics import SCORES, Intervals

CONVENTIONS = (
    "All scores in percent, accumulated over the set, without visibility mask. IoU: occupied against free. mIoU: mean "
    "over the classes that occur in the ground truth or the prediction. mIoU_published: classes with IoU 0 dropped "
    "from the mean. IoU_published: ground truth of 255 counts as occupied, where IoU leaves it out (the conventions "
    "of the II-World release)."
)
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


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything one evaluation found.

    Attributes:
        title: what was evaluated on what, e.g. "synthetic, held-out".
        settings: how it was measured: name -> value, as shown.
        reconstruction: the tokenizer's scores, if measured.
        forecasting: the forecast table, if measured.
        intervals: how sure it is, where there are scenes enough.
        faithful: round means over the horizons as the release does.
    """

    title: str
    settings: dict[str, Any]
    reconstruction: ReconstructionResult | None = None
    forecasting: ForecastResult | None = None
    intervals: Intervals | None = None
    faithful: bool = False

    def save(self, folder: Path) -> list[Path]:
        """Write results.json, results.md and the plots, each atomically; returns their paths."""
        written = [folder / "results.json", folder / "results.md"]
        write_json(written[0], self.to_dict())
        write_text(written[1], self.to_markdown())
        if self.forecasting is not None:
            from world_model.evaluation.plots import plot_classes, plot_horizons, write_plot

            written += [folder / "forecast_by_horizon.png", folder / "forecast_by_class.png"]
            write_plot(written[-2], plot_horizons(self.title, self.forecasting))
            write_plot(written[-1], plot_classes(self.title, self.forecasting))
        return written

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; NaN becomes null."""
        conventions = f"{CONVENTIONS} {FAITHFUL}" if self.faithful else CONVENTIONS
        value: dict[str, Any] = {"title": self.title, "settings": self.settings, "conventions": conventions}
        if self.reconstruction is not None:
            value["reconstruction"] = {"frames": self.reconstruction.frames, **_scores(self.reconstruction.confusion)}
        if self.forecasting is not None:
            value["forecasting"] = _forecast_dict(self.forecasting, self.faithful)
            if self.intervals is not None:
                value["intervals"] = _interval_dict(self.forecasting, self.intervals)
        return value

    def to_markdown(self) -> str:
        """The tables, for people."""
        parts = [f"# Evaluation: {self.title}", _bullets(self.settings), CONVENTIONS]
        if self.reconstruction is not None:
            parts += [f"## Reconstruction ({self.reconstruction.frames} frames)", _reconstruction_table(self)]
        if self.forecasting is not None:
            result = self.forecasting
            parts.append(f"## Forecasting ({result.windows} windows: 4 past + current in)")
            parts += [FAITHFUL] if self.faithful else []
            parts += [_horizon_table(result, self.faithful)]
            if self.intervals is not None:
                note = INTERVALS.format(scenes=self.intervals.scenes)
                parts += ["### 95 % intervals over the scenes", _interval_table(result, self.intervals), note]
            parts += ["### Subsets (mean over the horizons)", _subset_table(result), "Subsets: " + SUBSET_NOTE]
            for h, seconds in enumerate(result.horizons_s):
                parts += [f"### IoU per class at {seconds:g} s", _class_table(result, h)]
            parts += [_misses(result)] if _missing(result) else []
        return "\n\n".join(parts) + "\n"


def percent(fraction: float) -> str:
    """A fraction in percent with two decimals; a dash for NaN."""
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text."""
    width = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [" | ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)) for row in [header, *rows]]
    lines.insert(1, " | ".join("-" * w for w in width))
    return "\n".join(f"| {line} |" for line in lines)


def _bullets(settings: dict[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in settings.items())


def _scores(confusion: Confusion) -> dict[str, Any]:
    per_class = dict(zip(CLASS_NAMES, confusion.per_class().tolist(), strict=True))
    values = {**{metric: getattr(confusion, metric)() for metric in METRICS}, "per_class": per_class}
    return {**_no_nan(values), "voxels": confusion.total, "voxels_ignored": int(confusion.ignored.sum())}


def _no_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _no_nan(v) for key, v in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _forecast_dict(result: ForecastResult, faithful: bool) -> dict[str, Any]:
    def row(name: str) -> dict[str, Any]:
        horizons = {}
        for h, seconds in enumerate(result.horizons_s):
            subsets = {s: {m: result.score(name, h, m, s) for m in METRICS} for s in SUBSETS}
            per_class = _scores(result.confusion(name, h))["per_class"]
            horizons[f"{seconds:g}s"] = _no_nan({**subsets, "per_class": per_class})
        mean = {s: {m: result.mean(name, m, s, faithful) for m in METRICS} for s in SUBSETS}
        told = {"regime": regime_of(name), "horizons": horizons, "mean": _no_nan(mean)}
        if name in _missing(result):
            position_m, heading_rad = result.ego_error(name).T.tolist()
            told |= {"ego_position_error_m": position_m, "ego_heading_error_rad": heading_rad}
        return told

    return {
        "windows": result.windows,
        "horizons_s": list(result.horizons_s),
        "rows": {name: row(name) for name in result.rows},
    }


def _missing(result: ForecastResult) -> list[str]:
    """Rows whose ego position is not the true one."""
    return [name for name in result.rows if regime_of(name) in ("pred-ego", "action")]


def _misses(result: ForecastResult) -> str:
    def row(name: str) -> str:
        misses = zip(result.ego_error(name), result.horizons_s, strict=True)
        return f"{name} " + ", ".join(f"{m:.2f} m and {math.degrees(a):.1f}° at {s:g} s" for (m, a), s in misses)

    return "Mean error of the ego pose at t: " + "; ".join(row(name) for name in _missing(result)) + "."


def _shown(confusions: Sequence[Confusion]) -> list[str]:
    """The metrics that tell something: IoU_published is IoU where no ground truth is 255."""
    return [m for m in METRICS if m != "iou_published" or any(c.ignored.any() for c in confusions)]


def _reconstruction_table(report: Report) -> str:
    assert report.reconstruction is not None
    confusion = report.reconstruction.confusion
    shown = _shown([confusion])
    head = table([METRICS[m] for m in shown], [[percent(getattr(confusion, m)()) for m in shown]])
    scores = confusion.per_class()
    rows = [[CLASS_NAMES[c], percent(scores[c])] for c in SEMANTIC]
    return head + "\n\n" + table(["class", "IoU"], rows)


def _horizon_table(result: ForecastResult, faithful: bool) -> str:
    horizons = range(len(result.horizons_s))
    shown = _shown([result.confusion(result.rows[0], h) for h in horizons])
    header = ["forecast", "ego poses"]
    for metric in shown:
        header += [f"{METRICS[metric]} {s:g}s" for s in result.horizons_s] + ["mean"]
    rows = []
    for name in result.rows:
        cells = [name, regime_of(name)]
        for metric in shown:
            cells += [percent(result.score(name, h, metric)) for h in horizons]
            cells.append(percent(result.mean(name, metric, faithful=faithful)))
        rows.append(cells)
    return table(header, rows)


def _subset_table(result: ForecastResult) -> str:
    header = ["forecast", *(f"{label} {s}" for s in SUBSETS for label in ("mIoU", "IoU"))]
    columns = [(metric, subset) for subset in SUBSETS for metric in ("miou", "iou")]
    rows = [[name, *(percent(result.mean(name, m, s)) for m, s in columns)] for name in result.rows]
    return table(header, rows)


def _interval_dict(result: ForecastResult, intervals: Intervals) -> dict[str, Any]:
    """(low, high) of every row, score and horizon, and of the difference from the ego warp."""

    def scores(row: str, minus: str | None) -> dict[str, Any]:
        horizons = enumerate(result.horizons_s)
        return {f"{s:g}s": {score: list(intervals.of(row, score, h, minus)) for score in SCORES} for h, s in horizons}

    rows = {row: {"score": scores(row, None), "minus ego warp": scores(row, WARP)} for row in result.rows}
    return {"scenes": intervals.scenes, "rows": rows}


def _interval_table(result: ForecastResult, intervals: Intervals) -> str:
    """Every row's own interval, and that of its lead over the ego warp."""
    header, rows = ["forecast", "s", *SCORES, *(f"{score} - {WARP}" for score in SCORES)], []
    for name in result.rows:
        for h, seconds in enumerate(result.horizons_s):
            cells = [_between(*intervals.of(name, score, h)) for score in SCORES]
            cells += ["-" if name == WARP else _between(*intervals.of(name, score, h, WARP)) for score in SCORES]
            rows.append([name, f"{seconds:g}", *cells])
    return table(header, rows)


def _between(low: float, high: float) -> str:
    return "-" if math.isnan(low) else f"{100 * low:.1f} .. {100 * high:.1f}"


def _class_table(result: ForecastResult, horizon: int) -> str:
    scores = {name: result.confusion(name, horizon).per_class() for name in result.rows}
    rows = [[CLASS_NAMES[c], *(percent(scores[name][c]) for name in result.rows)] for c in SEMANTIC]
    return table(["class", *result.rows], rows)
