"""What a planner is: a state of the engine in, an action out, for B environments at once."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ii_world_env.engine import State


class Planner(Protocol):
    """Chooses actions.

    Attributes:
        name: shown in tables.
    """

    name: str

    def reset(self, state: State) -> None:
        """Forget earlier episodes; ``state`` is the first of the new ones."""
        ...

    def act(self, state: State) -> Tensor:
        """Actions (B, A) in [-1, 1] for the current states."""
        ...


def moment(state: State) -> Tensor:
    """(B, 3) int64 which step of which episode each row is in: scene, frame where it began, steps."""
    return torch.stack((state.scene, state.frame, state.steps), -1)


def follows(before: Tensor, state: State) -> Tensor:
    """(B,) bool whether a state is the step after a `moment`: only there may a planner use what it remembers."""
    return (before + before.new_tensor((0, 0, 1)) == moment(state)).all(1)
