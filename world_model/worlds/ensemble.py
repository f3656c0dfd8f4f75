"""Several worlds side by side: the first gives the occupancy, its distance from the rest measures the uncertainty.

After the ensembles of PETS (Chua et al., NeurIPS 2018) and the penalty on their disagreement (MOPO, Yu et al., NeurIPS
2020): models that were trained apart agree where data made them, and differ where nothing did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from world_model.core.errors import ConfigError
from world_model.core.grid import FREE
from world_model.core.tensor_state import TensorState
from world_model.data.clips import Clips
from world_model.models.geometric.agents.actors import Actors
from world_model.models.geometric.agents.tracks import Tracks
from world_model.worlds.protocol import World, WorldState


@dataclass(frozen=True, kw_only=True)
class Members(TensorState):
    """The states of the members, one after the other.

    Attributes:
        state: of this member.
        others: the members after it; None after the last.
    """

    state: WorldState
    others: Members | None = None


@dataclass(frozen=True, kw_only=True)
class EnsembleState(TensorState):
    """B ensembles.

    Attributes:
        members: states of all members.
        labels: (B, X, Y, Z) uint8 occupancy of the first member.
        disagreement: (B,) float32 mean over the other members: fraction of differing voxels among those that either of
            the two has occupied; 0 equal, 1 nothing in common.
    """

    members: Members
    labels: Tensor
    disagreement: Tensor


class EnsembleWorld:
    """Members that execute the same motions.

    Args:
        members: at least two worlds of one grid; the first one gives occupancy and tokens.

    Raises:
        ConfigError: fewer than two members, or different grids.
    """

    def __init__(self, members: Sequence[World]) -> None:
        grids = {member.grid for member in members}
        if len(members) < 2 or len(grids) != 1:
            raise ConfigError(
                f"{len(members)} members with {len(grids)} grids",
                "two or more members of one grid",
                "give checkpoints that were trained on the same grid",
            )
        self.members, self.grid = tuple(members), members[0].grid
        self.needs_future_labels = any(member.needs_future_labels for member in members)
        # An ensemble has the abilities of its first member: callers check these attributes before they use them.
        if hasattr(members[0], "token_shape"):
            self.token_shape: tuple[int, int, int] = members[0].token_shape
        if hasattr(members[0], "drive"):
            self.drive = self._drive
        if hasattr(members[0], "agents"):
            self.agents = self._agents
        if hasattr(members[0], "draw_traffic"):
            self.draw_traffic = self._draw_traffic
        if all(hasattr(member, "stage") for member in members):
            self.stage = self._stage

    @property
    def device(self) -> torch.device | None:
        """Where the states live; None where the first member has no such attribute."""
        return getattr(self.members[0], "device", None)

    def reset(self, clips: Clips) -> EnsembleState:
        """Start every member at the current frames of the clips."""
        return self._joined([member.reset(clips) for member in self.members])

    def step(self, state: EnsembleState, curr_to_next: Tensor, command: Tensor) -> EnsembleState:
        pairs = zip(self.members, _listed(state.members), strict=True)
        return self._joined([member.step(own, curr_to_next, command) for member, own in pairs])

    def _drive(self, state: EnsembleState, command: Tensor) -> tuple[EnsembleState, Tensor]:
        """The first member chooses the motion, all execute it."""
        first, *others = _listed(state.members)
        leader: Any = self.members[0]
        own, executed = leader.drive(first, command)
        pairs = zip(self.members[1:], others, strict=True)
        return self._joined([own, *(member.step(s, executed, command) for member, s in pairs)]), executed

    def _draw_traffic(
        self, state: EnsembleState, seed: Tensor, futures: Sequence[str | None] | None = None
    ) -> EnsembleState:
        """The same seeds for every member."""
        worlds: Any = self.members
        pairs = zip(worlds, _listed(state.members), strict=True)
        asked = (seed,) if futures is None else (seed, futures)
        drawn = [world.draw_traffic(own, *asked) if hasattr(world, "draw_traffic") else own for world, own in pairs]
        return replace(state, members=_linked(drawn))

    def _stage(self, state: EnsembleState, actors: Actors) -> EnsembleState:
        """The same events in every member."""
        worlds: Any = self.members
        pairs = zip(worlds, _listed(state.members), strict=True)
        return self._joined([world.stage(own, actors) for world, own in pairs])

    def _agents(self, state: EnsembleState) -> Tracks:
        """Those of the first member."""
        first: Any = self.members[0]
        found: Tracks = first.agents(state.members.state)
        return found

    def occupancy(self, state: EnsembleState) -> Tensor:
        return state.labels

    def tokens(self, state: EnsembleState) -> Tensor:
        """The first member's token maps."""
        first: Any = self.members[0]
        tokens: Tensor = first.tokens(state.members.state)
        return tokens

    def _joined(self, states: list[WorldState]) -> EnsembleState:
        labels, *others = (member.occupancy(own) for member, own in zip(self.members, states, strict=True))
        apart = torch.stack([disagreement(labels, other) for other in others]).mean(0)
        return EnsembleState(members=_linked(states), labels=labels, disagreement=apart)


def disagreement(labels: Tensor, others: Tensor) -> Tensor:
    """(B,) share of voxels of different classes among those that are occupied in either of two (B, X, Y, Z)."""
    either = (labels != FREE) | (others != FREE)
    differ = (labels != others).flatten(1).sum(1)
    return differ / either.flatten(1).sum(1).clamp(min=1)


def _linked(states: Sequence[WorldState]) -> Members:
    others = _linked(states[1:]) if len(states) > 1 else None
    return Members(state=states[0], others=others)


def _listed(members: Members | None) -> list[WorldState]:
    return [] if members is None else [members.state, *_listed(members.others)]
