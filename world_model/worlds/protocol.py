"""What a world must answer: every planner and every reward runs in each of them.

A world takes a batch of recorded clips, and then only ego motions and commands. It is functional: `step` returns a new
state and leaves the old one as it was, so any state can be kept and branched from.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from world_model.data.clips import Clips
from world_model.grid import VoxelGrid

WorldState = Any
"""A frozen dataclass of tensors, batch first, with ``clone()``, ``index(i)`` and ``expand(n)`` (see `TensorState`)."""


@runtime_checkable
class World(Protocol):
    """A simulated surrounding of the ego vehicle, batched over B independent environments.

    Attributes:
        grid: voxel grid of the occupancy.
        needs_future_labels: `reset` reads ``clips.future_occupancy``.
    """

    grid: VoxelGrid
    needs_future_labels: bool

    def reset(self, clips: Clips) -> WorldState:
        """Start at the current frame of every clip (the last of ``clips.occupancy``)."""
        ...

    def step(self, state: WorldState, curr_to_next: Tensor, command: Tensor) -> WorldState:
        """Advance by one step of 0.5 s.

        Args:
            state: what `reset` or `step` returned; it stays valid.
            curr_to_next: (B, 4, 4) float32, points of the current ego frame -> the next ego frame, metres; that is
                ``inv(next_pose) @ current_pose``.
            command: (B,) int64, 0 right, 1 left, 2 straight.
        """
        ...

    def occupancy(self, state: WorldState) -> Tensor:
        """Labels (B, X, Y, Z) uint8 around the ego, in its current frame."""
        ...
