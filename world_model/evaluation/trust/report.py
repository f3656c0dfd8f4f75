"""How well trust ranks and how true it is: figures, a table, and a plot of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import STEP_S
from world_model.core.table import Table, decimal
from world_model.evaluation.plots import new_figure
from world_model.evaluation.statistics import Floats, spearman, spearman_interval, spearman_within
from world_model.evaluation.trust.fitting import quality_of
from world_model.evaluation.trust.samples import Samples
from world_model.trust.calibration import Calibration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = {
    "all forecasts": "spearman",
    "95 % interval over scenes": "interval_95",
    "inside each horizon, mean": "within_horizon",
    "drives along the log": "along_the_log",
    "... inside each horizon": "within_horizon_along_the_log",
    "edited drives": "edited_drives",
    "steps since the observation alone": "steps_alone",
}
"""Lines of the table of rank correlations, with their names in `score`."""


def score(calibration: Calibration, samples: Samples, ceiling: float) -> dict[str, Any]:
    """Figures of a calibration on forecasts that it was not fitted on.

    Args:
        calibration: what to score.
        samples: unseen forecasts; reconstructions (step 0) are left out.
        ceiling: IoU of a reconstruction, of the calibration's own samples.
    """
    rows = samples.pick(samples.step > 0)
    trust, log = calibration.of_table(rows.columns(calibration.names)), ~rows.edited
    doubt, errors = 1 - trust, {"1 - IoU": 1 - rows.iou, "1 - mIoU": 1 - rows.miou}

    def ranking(error: NDArray[Any]) -> dict[str, Any]:
        return {
            "spearman": _round(spearman(doubt, error)),
            "interval_95": [_round(end) for end in spearman_interval(doubt, error, rows.scene)],
            "within_horizon": _round(spearman_within(doubt, error, rows.step)),
            "along_the_log": _round(spearman(doubt[log], error[log])),
            "edited_drives": _round(spearman(doubt[~log], error[~log])),
            "within_horizon_along_the_log": _round(spearman_within(doubt[log], error[log], rows.step[log])),
            "steps_alone": _round(spearman(rows.step, error)),
        }

    def at_horizon(step: int) -> dict[str, Any]:
        at = rows.step == step
        iou, miou = (_round(spearman(doubt[at], error[at])) for error in errors.values())
        return {"seconds": step * STEP_S, "spearman_iou": iou, "spearman_miou": miou}

    def alone(figure: NDArray[Any]) -> dict[str, Any]:
        error = errors["1 - IoU"]
        within = spearman_within(figure, error, rows.step)
        return {"spearman": _round(spearman(figure, error)), "within_horizon": _round(within)}

    return {
        "forecasts": len(rows),
        "scenes": len(np.unique(rows.scene)),
        "steps": int(rows.step.max()),
        "calibration_error": round(calibration_error(trust, quality_of(rows, ceiling)), 4),
        "trust_range": [round(float(v), 3) for v in (trust.min(), trust.max())],
        **{name: ranking(error) for name, error in errors.items()},
        "by_horizon": [at_horizon(step) for step in np.unique(rows.step).tolist()],
        "figures_alone": {name: alone(rows.figures[:, k]) for k, name in enumerate(rows.names)},
    }


def reliability(trust: NDArray[Any], quality: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """Ten bins of equally many samples.

    Returns:
        (K,) mean trust, (K,) mean true quality, (K,) its standard deviation inside the bin.
    """
    parts = np.array_split(np.argsort(trust, kind="stable"), min(10, len(trust)))
    mean, true, spread = np.array([(trust[p].mean(), quality[p].mean(), quality[p].std()) for p in parts]).T
    return mean, true, spread


def calibration_error(trust: NDArray[Any], quality: NDArray[Any]) -> float:
    """Mean over `reliability` bins of the distance between trust and true quality."""
    mean, true, _ = reliability(trust, quality)
    return float(np.abs(mean - true).mean())


def markdown(report: dict[str, Any]) -> str:
    """The figures of `score` as Markdown."""
    low, high = report["trust_range"]
    ranking = [[text, *(_cell(report[e][name]) for e in ("1 - IoU", "1 - mIoU"))] for text, name in ROWS.items()]
    alone = [
        [f"`{n}`", *(_cell(f[c]) for c in ("spearman", "within_horizon"))] for n, f in report["figures_alone"].items()
    ]
    parts = (
        f"{report['forecasts']} forecasts of {report['scenes']} scenes, up to {report['steps'] * STEP_S:g} s; "
        f"calibration error {report['calibration_error']:.3f}, trust {low}..{high}",
        Table(["Spearman of mistrust and true error", "1 - IoU", "1 - mIoU"], ranking).markdown(),
        Table(["raw figure alone, 1 - IoU", "all", "inside each horizon"], alone).markdown(),
    )
    return "\n\n".join(parts) + "\n"


def plot_trust(calibration: Calibration, samples: Samples, ceiling: float, title: str) -> Figure:
    """Reliability, trust against error, and the ranking by horizon; arguments as for `score`."""
    rows = samples.pick(samples.step > 0)
    trust = calibration.of_table(rows.columns(calibration.names))
    figure = new_figure(13.5, 4.4, title)
    left, middle, right = figure.subplots(1, 3)

    mean, true, spread = reliability(trust, quality_of(rows, ceiling))
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
    return figure


def _round(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 3)


def _cell(value: Any) -> str:
    return " .. ".join(map(decimal, value)) if isinstance(value, list) else decimal(value)
