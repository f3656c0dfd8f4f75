"""What a planner is: a state of the engine in, an action out, for B environments at once."""

from __future__ import annotations

from typing import Protocol

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
