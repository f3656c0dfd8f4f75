"""Forecasts of made up quality, for tests of what is fitted on them."""

from __future__ import annotations

import numpy as np

from world_model.evaluation.trust.samples import Samples


def made_up(count: int = 600, seed: int = 0) -> Samples:
    """Forecasts of 10 scenes whose quality follows from two of three figures, one of them the wrong way round."""
    rng = np.random.default_rng(seed)
    step = rng.integers(0, 7, count)
    figures = rng.normal(size=(count, 3))
    figures[step == 0, 0] -= 3
    quality = 1 / (1 + np.exp(figures[:, 0] - 2 * figures[:, 1] / 4))
    iou = (0.8 * quality + 0.02 * rng.normal(size=count)).clip(0, 1)
    return Samples(
        names=("bad", "good", "noise"),
        figures=figures * (1, 10, 100) + (0, 5, -7),
        iou=iou,
        miou=iou * 0.7,
        scene=rng.integers(0, 10, count),
        frame=np.arange(count),
        step=step,
        edited=rng.random(count) < 0.5,
    )
