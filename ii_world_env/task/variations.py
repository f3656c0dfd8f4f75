"""What differs from the recording at a reset: fewer agents, an event, the future of the traffic.

What a world cannot have is refused, not passed over. Legend: B environments.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from world_model.core.errors import OptionError
from world_model.data.clips import Clips
from world_model.worlds import ManyFutures, Populated, Stage, World, WorldState
from world_model.worlds.events import actors_of


def thinned(world: World, state: WorldState, drop_agents: Tensor | None, seed: Tensor | None) -> WorldState:
    """A state of a reset without a share (B,) of the other agents.

    Raises:
        OptionError: agents to drop in a world that cannot.
    """
    if drop_agents is None or not bool((drop_agents > 0).any()):
        return state
    if not isinstance(world, Populated):
        raise OptionError(
            f"drop_agents in a {type(world).__name__}",
            "a world that knows its agents, with a method drop_agents(state, share, seed)",
            "use world='simulated', or leave it out",
        )
    return world.drop_agents(state, drop_agents, _seeds(seed, len(drop_agents)))


def staged(
    world: World,
    state: WorldState,
    clips: Clips,
    event: Sequence[str | None] | None,
    seed: Tensor | None,
    speed_mps: Tensor | None,
) -> WorldState:
    """A state of a reset with events (B), laid on the recorded way.

    Raises:
        OptionError: an event in a world that cannot.
    """
    if event is None or not any(event):
        return state
    if not isinstance(world, Stage):
        raise OptionError(
            f"event={next(filter(None, event))!r} in a {type(world).__name__}",
            "a world in which events can be staged, with a method stage(state, actors)",
            "use world='geometric' or 'simulated', or leave the event out",
        )
    labels = clips.occupancy[:, -1]
    return world.stage(state, actors_of(event, _seeds(seed, len(event)), clips, labels, world.grid, speed_mps))


def with_traffic(
    world: World, state: WorldState, seed: Tensor | None, future: Sequence[str | None] | None
) -> WorldState:
    """A state of a reset with traffic as the seeds and the futures (B) asked for say.

    Raises:
        OptionError: a future of a world that has but one.
    """
    asked = future is not None and any(future)
    if isinstance(world, ManyFutures):
        if asked:
            return world.draw_traffic(state, _seeds(seed, len(future or ())), future)
        return state if seed is None else world.draw_traffic(state, seed)
    if asked:
        raise OptionError(
            f"future={next(filter(None, future or ()))!r} in a {type(world).__name__}",
            "a world with many futures, with a method draw_traffic(state, seed, futures)",
            "use world='geometric' with traffic='log-like', 'sampled' or 'aggressive', or leave the future out",
        )
    return state


def _seeds(seed: Tensor | None, count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.long, device="cpu") if seed is None else seed
