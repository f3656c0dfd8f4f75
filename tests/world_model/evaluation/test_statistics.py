"""Intervals over scenes: they agree with scores computed one by one, narrow with agreement, and pair their draws.

Rank correlation: monotone maps have 1, and what ranks between groups alone ranks nothing inside them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from world_model.evaluation.metrics import Confusion
from world_model.evaluation.result import SUBSETS, ForecastResult
from world_model.evaluation.statistics import (
    LEAST_SCENES,
    SCORES,
    bootstrap,
    interval_95,
    mean_interval,
    ranks,
    resampled,
    spearman,
    spearman_interval,
    spearman_within,
)

ROWS = ("ego warp", "other")


def histograms(scenes: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 50, (scenes, 2, 3, 2, 19, 18))
    counts[..., range(18), range(18)] += rng.integers(0, 400, (scenes, 2, 3, 2, 18))
    return counts


def test_draws_are_scores_of_resampled_scenes() -> None:
    counts, draws = histograms(6), 40
    found = bootstrap(ROWS, counts, seed=3, draws=draws)
    assert found is not None and found.draws.shape == (draws, len(SCORES), 2, 3)
    times = np.random.default_rng(3).multinomial(6, np.full(6, 1 / 6), draws)
    for d in (0, 17, 39):
        total = (times[d][:, None, None, None, None, None] * counts).sum(0)
        result = replace(ForecastResult.zero(ROWS, (1.0, 2.0, 3.0), windows=1), counts=total)
        for r, row in enumerate(ROWS):
            for h in range(3):
                want = [result.score(row, h, "miou"), result.score(row, h, "iou")]
                want.append(Confusion(total[r, h, 1]).miou(SUBSETS["moving"]))
                np.testing.assert_allclose(found.draws[d, :, r, h], want, rtol=1e-12)


def test_scenes_that_agree_leave_no_doubt_and_differences_are_paired() -> None:
    one = histograms(1)
    alike = bootstrap(ROWS, np.repeat(one, 8, 0))
    assert alike is not None
    low, high = alike.of("other", "mIoU", 1)
    assert high - low < 1e-12
    # A row that is better by the same margin in scenes of very different difficulty is surely better.
    counts = histograms(12, seed=1)
    counts[:, :, :, :, 0, 17] *= np.arange(1, 13)[:, None, None, None] ** 3
    counts[:, 1] = counts[:, 0]
    counts[:, 1, ..., range(17), range(17)] += 40
    found = bootstrap(ROWS, counts)
    assert found is not None
    own, base = found.of("other", "IoU", 0), found.of("ego warp", "IoU", 0)
    assert own[0] < base[1], "the intervals overlap"
    assert found.of("other", "IoU", 0, minus="ego warp")[0] > 0


def test_too_few_scenes_give_no_interval_and_empty_ones_do_not_count() -> None:
    counts = histograms(LEAST_SCENES)
    assert bootstrap(ROWS, counts) is not None
    counts[0] = 0
    assert bootstrap(ROWS, counts) is None


def test_rank_correlation() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 9.0])).tolist() == [1.5, 0, 1.5, 3]
    rng = np.random.default_rng(0)
    a = rng.normal(size=50)
    assert spearman(a, np.exp(a)) == pytest.approx(1) and spearman(a, -(a**3)) == pytest.approx(-1)
    assert abs(spearman(a, rng.normal(size=50))) < 0.4
    assert np.isnan(spearman(a, np.ones(50)))
    # What ranks between two groups alone ranks nothing inside them.
    group = np.repeat((0, 1), 25)
    assert spearman(group + 0.01 * a, group.astype(float)) > 0.8
    assert abs(spearman_within(group + 0.01 * a, group + 0.01 * rng.normal(size=50), group)) < 0.5
    low, high = spearman_interval(a, a + 0.5 * rng.normal(size=50), np.arange(50) // 5)
    assert low < spearman(a, a) and 0 < low < high <= 1


def test_whole_scenes_are_drawn() -> None:
    picks = resampled(7, 50, seed=2)
    assert picks.shape == (50, 7) and set(picks.ravel().tolist()) == set(range(7))
    low, high = interval_95(np.arange(1001.0))
    assert (low, high) == (25, 975)


def test_the_mean_counts_samples_and_its_interval_scenes() -> None:
    scenes = [np.array([[1.0, 5.0]]), np.array([[2.0, 5.0], [3.0, 5.0]]), np.array([[9.0, 5.0]])]
    (mean, low, high), same = mean_interval(scenes)
    assert mean == 15 / 4 and 1 <= low < mean < high <= 9
    assert same == (5, 5, 5)
