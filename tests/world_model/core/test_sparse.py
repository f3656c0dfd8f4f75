"""Fast scans against what they mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from world_model.core.grid import FREE, GROUND, MOVABLE, NUM_CLASSES, OBSTACLE, STATIC
from world_model.core.sparse import (
    any_in_columns,
    count_in_columns,
    member,
    members_between,
    nonzero_indices,
    occupied_indices,
    positive_indices,
    quotient,
)

LABELS = torch.from_numpy(np.random.default_rng(0).integers(0, NUM_CLASSES, (3, 6, 5, 8)).astype(np.uint8))


@pytest.mark.parametrize("labels", [LABELS, LABELS[1:, :, 1:, 2:5], LABELS[:0]])
def test_scans_list_positions_in_order(labels: torch.Tensor) -> None:
    flat = labels.flatten().tolist()
    assert occupied_indices(labels).tolist() == [n for n, label in enumerate(flat) if label != FREE]
    assert nonzero_indices(labels > 8).tolist() == [n for n, label in enumerate(flat) if label > 8]
    assert positive_indices(labels.float() - 8.5).tolist() == [n for n, label in enumerate(flat) if label > 8]


@pytest.mark.parametrize("classes", [MOVABLE, OBSTACLE, GROUND, STATIC, (0,), (FREE,), (9, 2, 5)])
def test_member_means_membership(classes: tuple[int, ...]) -> None:
    everything = torch.arange(256)
    for labels in (everything.to(torch.uint8), everything, everything.to(torch.uint8)[7::3]):
        assert member(labels, classes).tolist() == [label in classes for label in labels.tolist()]


@pytest.mark.parametrize("size", [1, 6, 8, 64, 96])
def test_quotient_is_division(size: int) -> None:
    values = torch.arange(1000)
    whole, rest = quotient(values, size)
    assert torch.equal(whole, values // size) and torch.equal(rest, values % size)


@pytest.mark.parametrize("height", [8, 10, 16, 24])
@pytest.mark.parametrize("between", [(3, 7), (0, 8), (2, 7), (0, 1), (5, 5), (4, 10)])
def test_counts_of_columns_agree_with_members(height: int, between: tuple[int, int]) -> None:
    labels = torch.from_numpy(np.random.default_rng(height).integers(0, 256, (2, 5, 6, height)).astype(np.uint8))
    for classes in ((0,), (1, 2, 3, 15, 16), (0, 11, 255)):
        wanted = member(labels[..., slice(*between)], classes).sum(-1)
        assert members_between(labels, classes, *between).tolist() == wanted.tolist()


@pytest.mark.parametrize("height", [8, 10, 16, 24])
def test_columns_are_summed_like_any_tensor(height: int) -> None:
    mask = torch.from_numpy(np.random.default_rng(height).random((3, 4, 5, height)) < 0.2)
    mask[0], mask[1] = False, True
    for part in (mask, mask[:, 1:], mask.transpose(0, 1), mask[..., ::2]):
        assert torch.equal(any_in_columns(part), part.any(-1))
        assert torch.equal(count_in_columns(part), part.sum(-1))
