"""Heights above the local ground: found on hills, exactly invertible, nothing lost."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from street import SMALL, street

from world_model.core.grid import FREE
from world_model.core.ground import CANONICAL_Z, GroundShift, ground_shift
from world_model.data.label_styles import LabelStyle, draw_terrain


def lifted(by: int) -> torch.Tensor:
    """The street, by so many voxels higher."""
    return torch.from_numpy(np.roll(street(SMALL), by, axis=2))[None]


def test_flat_ground_is_left_alone() -> None:
    labels = lifted(0)
    shift = ground_shift(labels)
    assert shift.voxels is None
    assert shift.lowered(labels) is labels
    assert shift.raised(labels, labels) is labels


def test_an_offset_is_found_everywhere() -> None:
    for by in (-2, 1, 5):
        shift = ground_shift(lifted(by))
        assert shift.voxels is not None and (shift.voxels == by).all()


def test_columns_without_ground_follow_their_surroundings() -> None:
    labels = lifted(3)
    labels[:, 30:60, 30:60] = FREE
    voxels = ground_shift(labels).voxels
    assert voxels is not None and (voxels == 3).all()


def test_no_ground_at_all_moves_nothing() -> None:
    assert ground_shift(torch.full((2, *SMALL.shape), FREE, dtype=torch.uint8)).voxels is None


def test_hills_become_level() -> None:
    plain = street(SMALL)
    for seed in range(4):
        style = LabelStyle(terrain=draw_terrain(np.random.default_rng(seed)))
        labels = torch.from_numpy(style.draw(plain, np.eye(4), 0, SMALL))[None]
        ground = ground_shift(labels).lowered(labels)[..., CANONICAL_Z - 1 : CANONICAL_Z + 2]
        known = (labels == 11).any(-1)
        assert ((ground == 11).any(-1) & known).sum() >= 0.98 * known.sum()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 17))
def test_back_and_forth_is_the_identity(seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.integers(0, FREE + 1, (2, 6, 5, 16)).astype(np.uint8))
    shift = GroundShift(voxels=torch.from_numpy(rng.integers(-most, most + 1, (2, 6, 5))))
    # What leaves the canonical range comes back from the original.
    assert torch.equal(shift.raised(shift.lowered(labels), labels), labels)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([8, 16]))
def test_whole_words_move_as_single_voxels_do(seed: int, size_z: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, FREE + 1, (1, 7, 5, size_z)).astype(np.uint8)
    voxels = rng.integers(-size_z - 1, size_z + 2, (1, 7, 5))
    shift = GroundShift(voxels=torch.from_numpy(voxels))
    lowered, raised = np.full_like(labels, FREE), labels[::-1, ::-1].copy()
    for (b, i, j), by in np.ndenumerate(voxels):
        for z in range(size_z):
            if 0 <= z + by < size_z:
                lowered[b, i, j, z] = labels[b, i, j, z + by]
            if 0 <= z - by < size_z:
                raised[b, i, j, z] = labels[b, i, j, z - by]
    given_labels = torch.from_numpy(labels)
    assert torch.equal(shift.lowered(given_labels), torch.from_numpy(lowered))
    original = torch.from_numpy(labels[::-1, ::-1].copy())
    assert torch.equal(shift.raised(given_labels, original), torch.from_numpy(raised))
