"""Registration of labels: known motions are found in the labels alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from world_model.core.geometry import se2_matrix, warp_voxels
from world_model.core.grid import FREE, MOVABLE
from world_model.data.clips import load_frame
from world_model.data.demo import demo_root
from world_model.data.index import SceneIndex
from world_model.evaluation.fidelity.registration import recover_motion


@pytest.fixture(scope="module")
def street() -> Tensor:
    """(1, X, Y, Z) a recorded frame of a synthetic scene."""
    return load_frame(SceneIndex.load(demo_root()), 12)[None]


def moved(labels: Tensor, motion: tuple[float, float, float]) -> Tensor:
    """The labels as an ego sees them that has moved so."""
    return warp_voxels(labels, se2_matrix(*torch.tensor(motion, dtype=torch.float64)[:, None]))


@pytest.mark.parametrize(
    "motion", [(0.0, 0.0, 0.0), (2.0, 0.0, 0.0), (6.71, -0.35, 0.09), (1.0, 0.17, -0.3), (-1.2, 0.0, 0.02)]
)
def test_a_known_motion_is_found_far_below_a_voxel(street: Tensor, motion: tuple[float, float, float]) -> None:
    (found,) = recover_motion(street, moved(street, motion)).tolist()
    assert math.dist(found[:2], motion[:2]) < 0.05
    assert math.degrees(abs(found[2] - motion[2])) < 0.3


def test_what_can_move_says_nothing(street: Tensor) -> None:
    after = moved(street, (2.0, 0.0, 0.0))
    without = after.clone()
    without[torch.isin(after, torch.tensor(MOVABLE))] = FREE
    assert not torch.equal(after, without)
    assert torch.equal(recover_motion(street, after), recover_motion(street, without))


def test_a_batch_equals_its_singles(street: Tensor) -> None:
    after = torch.cat([moved(street, (x, 0.0, 0.05)) for x in (0.5, 3.0)])
    together = recover_motion(street.expand(2, -1, -1, -1), after)
    apart = torch.cat([recover_motion(street, one[None]) for one in after])
    assert torch.allclose(together, apart, atol=1e-3)


def test_nothing_is_found_in_nothing(street: Tensor) -> None:
    assert torch.isnan(recover_motion(street, torch.full_like(street, FREE))).all()
    assert recover_motion(street[:0], street[:0]).shape == (0, 3)
