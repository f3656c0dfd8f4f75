"""Fit a calibration on forecasts whose error is known: ridge regression of the figures, then isotonic regression."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.evaluation.trust.samples import Samples
from world_model.trust.calibration import Calibration

STRENGTH = 3.0
"""Of the ridge that keeps figures which say the same from fighting each other."""


def fit(samples: Samples) -> Calibration:
    """Calibrate on forecasts whose error is known; those of step 0 say what a reconstruction reaches."""
    figures, ahead, quality = samples.columns(samples.names), samples.step > 0, quality_of(samples)
    center, scale = figures[ahead].mean(0), figures[ahead].std(0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    weight = ridge((figures[ahead] - center) / scale, quality[ahead], STRENGTH)
    # Reconstructions lie at the trustworthy end of the same scale.
    knots, trust = monotone(((figures - center) / scale) @ weight, quality)
    return Calibration(
        names=samples.names,
        center=tuple(center.tolist()),
        scale=tuple(scale.tolist()),
        weight=tuple(weight.tolist()),
        knots=tuple(knots.tolist()),
        trust=tuple(trust.clip(0, 1).tolist()),
    )


def ceiling_of(samples: Samples) -> float:
    """Mean IoU of the reconstructions: what is as good as an observation."""
    return float(samples.iou[samples.step == 0].mean())


def quality_of(samples: Samples, ceiling: float | None = None) -> NDArray[Any]:
    """(N,) what trust should be: IoU over that of a reconstruction, at most 1."""
    return np.minimum(samples.iou / (ceiling_of(samples) if ceiling is None else ceiling), 1.0)


def ridge(figures: NDArray[Any], target: NDArray[Any], strength: float) -> NDArray[np.float64]:
    """Weights (K,) of the linear map of standardised figures (N, K) that is nearest to the centred target (N,)."""
    gram = figures.T @ figures + strength * np.eye(figures.shape[1])
    return np.linalg.solve(gram, figures.T @ (target - target.mean()))


def monotone(score: NDArray[Any], target: NDArray[Any], knots: int = 12) -> tuple[NDArray[Any], NDArray[Any]]:
    """A rising piecewise linear map score -> target, fitted to bins of equally many samples (isotonic regression).

    Returns:
        (K,) rising scores and (K,) rising targets.
    """
    order = np.argsort(score, kind="stable")
    parts = np.array_split(order, min(knots, max(1, len(order) // 8)))
    blocks: list[tuple[float, float, int]] = []
    for part in parts:
        blocks.append((float(score[part].mean()), float(target[part].mean()), len(part)))
        # Pool adjacent violators: one knot for all bins among which the target does not rise.
        while len(blocks) > 1 and (blocks[-2][1] >= blocks[-1][1] or blocks[-2][0] >= blocks[-1][0]):
            (x0, y0, n0), (x1, y1, n1) = blocks[-2:]
            total = n0 + n1
            blocks[-2:] = [((x0 * n0 + x1 * n1) / total, (y0 * n0 + y1 * n1) / total, total)]
    return np.array([x for x, _, _ in blocks]), np.array([y for _, y, _ in blocks])
