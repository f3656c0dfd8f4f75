"""States of tensors: what they say of themselves."""

from __future__ import annotations

from dataclasses import dataclass

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
