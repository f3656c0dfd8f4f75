"""What is fitted is calibrated, ranks forecasts, and is reported as it is."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from trust_samples import made_up

from world_model.evaluation.statistics import spearman
from world_model.evaluation.trust.fitting import fit, monotone, quality_of, ridge
from world_model.evaluation.trust.report import calibration_error, markdown, plot_trust, score


def test_ridge_and_monotone_map() -> None:
    rng = np.random.default_rng(0)
    figures = rng.normal(size=(400, 3))
    assert np.allclose(ridge(figures, figures @ (1.0, -2.0, 0.0) + 5, 1e-6), (1, -2, 0), atol=0.05)
    score = rng.uniform(size=400)
    x, y = monotone(score, np.round(score * 4) / 4 + 0.3 * rng.normal(size=400))
    assert (np.diff(x) > 0).all() and (np.diff(y) > 0).all() and len(x) > 2
    flat, one = monotone(score, -score)
    assert len(flat) == len(one) == 1 and one[0] == pytest.approx(-score.mean())


def test_a_fitted_trust_is_calibrated_and_ranks() -> None:
    train, test = made_up(seed=0), made_up(seed=1)
    calibration = fit(train)
    later = test.pick(test.step > 0)
    trust = calibration.of_table(later.columns(calibration.names))
    assert trust.min() >= 0 and trust.max() <= 1
    assert spearman(trust, later.iou) > 0.9
    assert calibration_error(trust, quality_of(later, 0.8 * 0.95)) < 0.08
    columns = {name: torch.tensor(later.figures[:, k]) for k, name in enumerate(later.names)}
    assert np.allclose(calibration.of(columns).numpy(), trust, atol=1e-4)
    report = score(calibration, test, 0.76)
    assert report["1 - IoU"]["spearman"] == pytest.approx(spearman(1 - trust, 1 - later.iou), abs=1e-3)
    assert report["forecasts"] == len(later) and len(report["by_horizon"]) == 6
    assert "bad" in markdown(report) and json.dumps(report)
    axes = plot_trust(calibration, test, 0.76, "test").axes
    assert len(axes) == 4 and len(axes[1].collections[0].get_offsets()) == len(later)
