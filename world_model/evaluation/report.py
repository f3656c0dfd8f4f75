"""Evaluation results as JSON, Markdown tables and plots; each says which data, which regime and which convention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from world_model.evaluation.forecasting import REGIME, SUBSETS, ForecastResult
from world_model.evaluation.metrics import SEMANTIC, Confusion
from world_model.evaluation.reconstruction import ReconstructionResult
from world_model.files import atomic_write, write_json, write_text
from world_model.grid import CLASS_COLORS, CLASS_NAMES

METRICS = {"miou": "mIoU", "miou_published": "mIoU_published", "iou": "IoU"}
CONVENTIONS = (
    "All scores in percent, accumulated over the set. IoU: occupied against free. mIoU: mean over the classes that "
    "occur in the ground truth or the prediction. mIoU_published: classes with IoU 0 dropped from the mean (the "
    "convention of the II-World release). No visibility mask."
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything one evaluation found.

    Attributes:
        title: what was evaluated on what, e.g. "synthetic, held-out".
        settings: how it was measured: name -> value, as shown.
        reconstruction: the tokenizer's scores, if measured.
        forecasting: the forecast table, if measured.
    """

    title: str
    settings: dict[str, Any]
    reconstruction: ReconstructionResult | None = None
    forecasting: ForecastResult | None = None

    def save(self, folder: Path) -> list[Path]:
        """Write results.json, results.md and the plots, each atomically; returns their paths."""
        written = [folder / "results.json", folder / "results.md"]
        write_json(written[0], self.to_dict())
        write_text(written[1], self.to_markdown())
        if self.forecasting is not None:
            written += [folder / "forecast_by_horizon.png", folder / "forecast_by_class.png"]
            _write_figure(written[-2], _plot_horizons(self.title, self.forecasting))
            _write_figure(written[-1], _plot_classes(self.title, self.forecasting))
        return written

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; NaN becomes null."""
        value: dict[str, Any] = {"title": self.title, "settings": self.settings, "conventions": CONVENTIONS}
        if self.reconstruction is not None:
            value["reconstruction"] = {"frames": self.reconstruction.frames, **_scores(self.reconstruction.confusion)}
        if self.forecasting is not None:
            value["forecasting"] = _forecast_dict(self.forecasting)
        return value

    def to_markdown(self) -> str:
        """The tables, for people."""
        parts = [f"# Evaluation: {self.title}", _bullets(self.settings), CONVENTIONS]
        if self.reconstruction is not None:
            parts += [f"## Reconstruction ({self.reconstruction.frames} frames)", _reconstruction_table(self)]
        if self.forecasting is not None:
            result = self.forecasting
            parts.append(f"## Forecasting ({result.windows} windows: 4 past + current in)")
            parts += [_horizon_table(result), "### Subsets (mean over the horizons)", _subset_table(result)]
            parts += ["Subsets: " + SUBSET_NOTE, "### IoU per class at the last horizon", _class_table(result)]
            if "model pred-ego" in result.rows:
                error = ", ".join(
                    f"{m / max(result.windows, 1):.2f} m at {s:g} s"
                    for m, s in zip(result.ego_error_m, result.horizons_s, strict=True)
                )
                parts.append(f"Ego position error of pred-ego (mean distance at t): {error}.")
        return "\n\n".join(parts) + "\n"


SUBSET_NOTE = (
    "static and movable compare only these classes; moving counts only voxels within 0.5 m of annotated objects faster "
    "than 0.5 m/s, and movable classes in them."
)


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
    return {**_no_nan(values), "voxels": confusion.total}


def _no_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _no_nan(v) for key, v in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _forecast_dict(result: ForecastResult) -> dict[str, Any]:
    def row(name: str) -> dict[str, Any]:
        horizons = {}
        for h, seconds in enumerate(result.horizons_s):
            subsets = {s: {m: result.score(name, h, m, s) for m in METRICS} for s in SUBSETS}
            per_class = _scores(result.confusion(name, h))["per_class"]
            horizons[f"{seconds:g}s"] = _no_nan({**subsets, "per_class": per_class})
        return {"regime": REGIME[name], "horizons": horizons}

    error = (result.ego_error_m / max(result.windows, 1)).tolist() if "model pred-ego" in result.rows else None
    return {
        "windows": result.windows,
        "horizons_s": list(result.horizons_s),
        "rows": {name: row(name) for name in result.rows},
        "pred_ego_position_error_m": error,
    }


def _reconstruction_table(report: Report) -> str:
    assert report.reconstruction is not None
    confusion = report.reconstruction.confusion
    head = table(list(METRICS.values()), [[percent(getattr(confusion, m)()) for m in METRICS]])
    scores = confusion.per_class()
    rows = [[CLASS_NAMES[c], percent(scores[c])] for c in SEMANTIC]
    return head + "\n\n" + table(["class", "IoU"], rows)


def _horizon_table(result: ForecastResult) -> str:
    header = ["forecast", "ego poses"]
    header += [f"{label} {s:g}s" for label in METRICS.values() for s in [*result.horizons_s]]
    header += ["mIoU mean", "IoU mean"]
    rows = []
    for name in result.rows:
        cells = [percent(result.score(name, h, m)) for m in METRICS for h in range(len(result.horizons_s))]
        rows.append([name, REGIME[name], *cells, *(percent(result.mean(name, m)) for m in ("miou", "iou"))])
    return table(header, rows)


def _subset_table(result: ForecastResult) -> str:
    header = ["forecast", *(f"{label} {s}" for s in SUBSETS for label in ("mIoU", "IoU"))]
    columns = [(metric, subset) for subset in SUBSETS for metric in ("miou", "iou")]
    rows = [[name, *(percent(result.mean(name, m, s)) for m, s in columns)] for name in result.rows]
    return table(header, rows)


def _class_table(result: ForecastResult) -> str:
    last = len(result.horizons_s) - 1
    scores = {name: result.confusion(name, last).per_class() for name in result.rows}
    rows = [[CLASS_NAMES[c], *(percent(scores[name][c]) for name in result.rows)] for c in SEMANTIC]
    return table([f"class at {result.horizons_s[-1]:g}s", *result.rows], rows)


def _write_figure(path: Path, figure: Any) -> None:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    with atomic_write(path) as stream:
        stream.write(buffer.getvalue())


def _new_figure(width: float, height: float) -> Any:
    # A Figure without pyplot draws with Agg, needs no display and leaves the user's backend alone.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _plot_horizons(title: str, result: ForecastResult) -> Any:
    figure = _new_figure(9, 4)
    for axis, metric in zip(figure.subplots(1, 2), ("miou", "iou"), strict=True):
        for name in result.rows:
            scores = [100 * result.score(name, h, metric) for h in range(len(result.horizons_s))]
            model = name.startswith("model")
            axis.plot(result.horizons_s, scores, "o-" if model else "s--", lw=2.2 if model else 1.2, label=name)
        axis.set(xlabel="horizon (s)", ylabel=f"{METRICS[metric]} (%)", ylim=(0, None), xticks=result.horizons_s)
        axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.suptitle(f"Forecast by horizon: {title}, {result.windows} windows", fontsize=10)
    return figure


def _plot_classes(title: str, result: ForecastResult) -> Any:
    figure = _new_figure(11, 4)
    axis = figure.subplots()
    shown = [r for r in result.rows if r not in ("tokenizer", "model pred-ego")]
    last, width = len(result.horizons_s) - 1, 0.8 / len(shown)
    for i, name in enumerate(shown):
        scores = 100 * np.nan_to_num(result.confusion(name, last).per_class()[list(SEMANTIC)])
        axis.bar(np.arange(len(SEMANTIC)) + (i - (len(shown) - 1) / 2) * width, scores, width, label=name)
    axis.set_xticks(range(len(SEMANTIC)), [CLASS_NAMES[c] for c in SEMANTIC], rotation=40, ha="right", fontsize=8)
    for tick, c in zip(axis.get_xticklabels(), SEMANTIC, strict=True):
        tick.set_color([0.7 * v / 255 for v in CLASS_COLORS[c]])
    axis.set_ylabel("IoU (%)")
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8)
    figure.suptitle(f"Forecast by class at {result.horizons_s[-1]:g} s: {title}", fontsize=10)
    return figure
