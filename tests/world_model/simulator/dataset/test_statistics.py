"""Fast statistics against the ordinary ways of doing the same."""

from __future__ import annotations

import numpy as np

from world_model.core.grid import FREE, NUM_CLASSES, OCC3D
from world_model.simulator.dataset.statistics import levels_in, overlap, warp
from world_model.simulator.sensing.labels import Labels


def random_labels(seed: int) -> Labels:
    rng = np.random.default_rng(seed)
    semantics = np.where(rng.random(OCC3D.shape) < 0.05, rng.integers(0, 17, OCC3D.shape), FREE).astype(np.uint8)
    masks = [(rng.random(OCC3D.shape) < 0.2).astype(np.uint8) for _ in range(2)]
    return Labels(semantics, *masks)


def test_overlap_counts_every_voxel() -> None:
    a, b = random_labels(2).semantics, random_labels(3).semantics
    b[:100] = a[:100]
    same, union = overlap(a, b)
    for c in range(NUM_CLASSES - 1):
        assert same[c] == ((a == c) & (b == c)).sum() and union[c] == ((a == c) | (b == c)).sum()
    assert same[FREE] == ((a != FREE) & (b != FREE)).sum() and union[FREE] == ((a != FREE) | (b != FREE)).sum()


def test_levels_are_summed_column_by_column() -> None:
    mask = random_labels(4).mask_camera
    assert (levels_in(mask) == mask.sum(2).reshape(-1)).all()


def test_a_quarter_turn_and_a_shift_are_exact() -> None:
    labels, here, there = random_labels(5).semantics, np.eye(4), np.eye(4)
    there[0, 3] = 10 * OCC3D.voxel_m + 0.01
    moved = warp(labels, here, there)
    assert (moved[:-10] == labels[10:]).all() and (moved[-10:] == FREE).all()
    turned = np.eye(4)
    turned[:2, :2] = [[0, -1], [1, 0]]
    assert (warp(labels, here, turned) == np.rot90(labels, -1, axes=(0, 1))).mean() > 0.98
