"""Planners of a user's own, by import path."""

from __future__ import annotations

from torch import Tensor

from agents.planners.scripted import StandStill
from ii_world_env.engine import State


class Broken(StandStill):
    """Fails at its first action."""

    name = "broken"

    def act(self, state: State) -> Tensor:
        raise RuntimeError("out of order")
