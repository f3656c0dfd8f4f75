"""How well trust ranks and how true it is: a table, and a picture of both."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import STEP_S
from world_model.evaluation.trust.calibration import Calibration, quality_of
from world_model.evaluation.trust.samples import Samples
from world_model.evaluation.trust.statistics import calibration_error, interval, reliability, spearman, within


def judge(calibration: Calibration, samples: Samples, ceiling: float) -> dict[str, Any]:
    """Figures of a calibration on forecasts that it was not fitted on.

    Args:
        calibration: what to judge.
        samples: unseen forecasts; reconstructions (step 0) are left out.
        ceiling: IoU of a reconstruction, of the calibration's own samples.
    """
    rows = samples.pick(samples.step > 0)
    trust, quality = _trust(calibration, rows), quality_of(rows, ceiling)
    doubt = 1 - trust
    errors = {"1 - IoU": 1 - rows.iou, "1 - mIoU": 1 - rows.miou}
    report: dict[str, Any] = {
        "forecasts": len(rows),
        "scenes": len(np.unique(rows.scene)),
        "steps": int(rows.step.max()),
        "calibration_error": round(calibration_error(trust, quality), 4),
        "trust_range": [round(float(v), 3) for v in (trust.min(), trust.max())],
    }
    for name, error in errors.items():
        low, high = interval(doubt, error, rows.scene)
        report[name] = {
            "spearman": _round(spearman(doubt, error)),
            "interval_95": [_round(low), _round(high)],
            "within_horizon": _round(within(doubt, error, rows.step)),
            "along_the_log": _round(spearman(doubt[~rows.edited], error[~rows.edited])),
            "edited_drives": _round(spearman(doubt[rows.edited], error[rows.edited])),
            "within_horizon_along_the_log": _round(
                within(doubt[~rows.edited], error[~rows.edited], rows.step[~rows.edited])
            ),
            "steps_alone": _round(spearman(rows.step, error)),
        }
    report["by_horizon"] = [
        {
            "seconds": step * STEP_S,
            "spearman_iou": _round(spearman(doubt[at], errors["1 - IoU"][at])),
            "spearman_miou": _round(spearman(doubt[at], errors["1 - mIoU"][at])),
        }
        for step in np.unique(rows.step).tolist()
        for at in (rows.step == step,)
    ]
    report["figures_alone"] = {
        name: {
            "spearman": _round(spearman(rows.figures[:, k], errors["1 - IoU"])),
            "within_horizon": _round(within(rows.figures[:, k], errors["1 - IoU"], rows.step)),
        }
        for k, name in enumerate(rows.names)
    }
    return report


def picture(calibration: Calibration, samples: Samples, ceiling: float, title: str) -> NDArray[Any]:
    """Reliability, trust against error, and the ranking by horizon; (H, W, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = samples.pick(samples.step > 0)
    trust, quality = _trust(calibration, rows), quality_of(rows, ceiling)
    figure = Figure(figsize=(13.5, 4.4), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    figure.suptitle(title, fontsize=11)

    mean, true, spread = reliability(trust, quality)
    left.plot((0, 1), (0, 1), color="0.6", linewidth=1, linestyle="--", label="perfectly calibrated")
    left.errorbar(
        mean, true, yerr=spread, fmt="o-", color="#0a7d5a", capsize=2, linewidth=1.4, label="tenths of the forecasts"
    )
    left.set(xlabel="trust", ylabel="IoU / IoU of a reconstruction", title="Reliability (bars: spread in each tenth)")
    left.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    left.legend(loc="upper left", fontsize=8, frameon=False)

    points = middle.scatter(trust, 1 - rows.iou, c=rows.step * STEP_S, s=7, cmap="viridis", alpha=0.7, linewidths=0)
    rank = spearman(1 - trust, 1 - rows.iou)
    middle.set(xlabel="trust", ylabel="true error, 1 - IoU", title=f"Every forecast (Spearman {rank:.2f})")
    figure.colorbar(points, ax=middle, label="seconds since the observation")

    steps = np.unique(rows.step)
    for error, name, color in ((1 - rows.iou, "1 - IoU", "#0a7d5a"), (1 - rows.miou, "1 - mIoU", "#c2571a")):
        found = [spearman(1 - trust[rows.step == s], error[rows.step == s]) for s in steps]
        right.plot(steps * STEP_S, found, "o-", color=color, label=name, markersize=4)
    right.axhline(0, color="0.6", linewidth=1)
    right.set(xlabel="seconds since the observation", ylabel="Spearman of mistrust and error", ylim=(-0.2, 1))
    right.set(title="Ranking inside each horizon")
    right.legend(fontsize=8, frameon=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def table(report: dict[str, Any]) -> str:
    """The figures as Markdown."""
    low, high = report["trust_range"]
    lines = [
        f"{report['forecasts']} forecasts of {report['scenes']} scenes, up to {report['steps'] * STEP_S:g} s; "
        f"calibration error {report['calibration_error']:.3f}, trust {low}..{high}",
        "",
        "| Spearman of mistrust and true error | 1 - IoU | 1 - mIoU |",
        "|---|---|---|",
    ]
    kinds = (
        ("all forecasts", "spearman"),
        ("95 % interval over scenes", "interval_95"),
        ("inside each horizon, mean", "within_horizon"),
        ("drives along the log", "along_the_log"),
        ("... inside each horizon", "within_horizon_along_the_log"),
        ("edited drives", "edited_drives"),
        ("steps since the observation alone", "steps_alone"),
    )
    for text, name in kinds:
        cells = [report[error][name] for error in ("1 - IoU", "1 - mIoU")]
        lines.append(f"| {text} | " + " | ".join(_cell(cell) for cell in cells) + " |")
    lines += ["", "| raw figure alone, 1 - IoU | all | inside each horizon |", "|---|---|---|"]
    for name, found in report["figures_alone"].items():
        lines.append(f"| `{name}` | {_cell(found['spearman'])} | {_cell(found['within_horizon'])} |")
    return "\n".join(lines) + "\n"


def _trust(calibration: Calibration, samples: Samples) -> NDArray[Any]:
    return calibration.of_table(samples.figures[:, [samples.names.index(name) for name in calibration.names]])


def _round(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 3)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return " .. ".join(f"{v:.2f}" for v in value) if isinstance(value, list) else f"{value:.2f}"
