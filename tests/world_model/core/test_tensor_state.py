"""States of tensors: what they say of themselves."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from world_model.core.tensor_state import TensorState


@dataclass(frozen=True, kw_only=True)
class Inner(TensorState):
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class Outer(TensorState):
    inner: Inner
    pose: Tensor
    decoded: Tensor | None = None


def test_a_state_prints_shapes_not_numbers() -> None:
    state = Outer(inner=Inner(labels=torch.zeros(2, 3, dtype=torch.uint8)), pose=torch.ones(2, 3))
    assert repr(state) == "Outer(inner=Inner(labels=uint8(2, 3)), pose=float32(2, 3), decoded=None)"
    assert repr(state.index(0)).count("(1, 3)") == 2


def states() -> Outer:
    return Outer(inner=Inner(labels=torch.arange(6).view(3, 2)), pose=torch.rand(3, 2), decoded=torch.ones(3))


def assert_same(a: Outer, b: Outer) -> None:
    assert torch.equal(a.inner.labels, b.inner.labels) and torch.equal(a.pose, b.pose)
    assert (a.decoded is None) == (b.decoded is None)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_chunks_join_to_the_whole(size: int) -> None:
    parts = states().chunks(size)
    assert max(len(part.pose) for part in parts) <= size
    assert_same(Outer.cat(parts), states_with(parts))


def states_with(parts: list[Outer]) -> Outer:
    """The slow twin of `cat`."""
    return Outer(
        inner=Inner(labels=torch.cat([p.inner.labels for p in parts])),
        pose=torch.cat([p.pose for p in parts]),
        decoded=torch.ones(3),
    )


def test_put_is_the_counterpart_of_index_and_leaves_the_state_as_it_was() -> None:
    state = states()
    new = state.index([2, 0])
    mixed = state.put([0, 1], new)
    assert_same(mixed.index([0, 1]), new)
    assert_same(mixed.index(2), state.index(2))
    assert torch.equal(state.inner.labels, torch.arange(6).view(3, 2))
