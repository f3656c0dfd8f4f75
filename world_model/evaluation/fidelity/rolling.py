"""Drive a world along given motions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from world_model.core.errors import DataError
from world_model.evaluation.fidelity.drives import Plan
from world_model.worlds.protocol import World, WorldState


@torch.no_grad()
def roll(
    world: World, start: WorldState, told: Plan, steps: Sequence[int], trail: list[WorldState] | None = None
) -> dict[int, Tensor]:
    """Drive from B states along B plans.

    Args:
        world: which world.
        start: B states.
        told: the motions that the world is told.
        steps: the steps whose occupancy is wanted; 0 is the start.
        trail: takes the states, the start first.

    Returns:
        Occupancy (B, X, Y, Z) uint8 on the CPU by step.

    Raises:
        DataError: the world's occupancy is not labels of its grid.
    """
    first = _occupancy(world, start, len(told.motion))
    shown = {0: first.cpu()} if 0 in steps else {}
    state = start
    if trail is not None:
        trail.append(start)
    for k in range(max(steps)):
        state = world.step(state, told.curr_to_next[:, k].to(first.device), told.command[:, k].to(first.device))
        if trail is not None:
            trail.append(state)
        if k + 1 in steps:
            shown[k + 1] = _occupancy(world, state, len(told.motion)).cpu()
    return shown


def _occupancy(world: World, state: WorldState, batch: int) -> Tensor:
    labels = world.occupancy(state)
    expected = (batch, *world.grid.shape)
    if tuple(labels.shape) != expected:
        raise DataError(
            f"{type(world).__name__} made occupancy of shape {tuple(labels.shape)}",
            f"{expected}",
            "return labels of the world's own grid",
        )
    return labels
