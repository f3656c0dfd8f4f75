"""What a world must answer: every planner and every reward runs in each of them.

A world takes a batch of recorded clips, and then only ego motions and commands. It is functional: `step` returns a new
state and leaves the old one as it was, so any state can be kept and branched from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from world_model.core.errors import OptionError
from world_model.core.grid import VoxelGrid
from world_model.data.clips import Clips
from world_model.models.geometric.agents.actors import Actors
from world_model.models.geometric.agents.tracks import Tracks

WorldState = Any
"""A frozen dataclass of tensors, batch first, with ``clone()``, ``index(i)`` and ``expand(n)`` (see `TensorState`)."""


@runtime_checkable
class World(Protocol):
    """A simulated surrounding of the ego vehicle, batched over B independent environments.

    Attributes:
        grid: voxel grid of the occupancy.
        needs_future_labels: `reset` reads ``clips.future_occupancy``.

    A world may also have ``device``, where its states live; one that has not is asked for its occupancy at every reset.
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


@runtime_checkable
class SelfDriving(Protocol):
    """A world that can also choose the ego's motion: what action="command" needs."""

    def drive(self, state: WorldState, command: Tensor) -> tuple[WorldState, Tensor]:
        """Advance by one step in which the ego does what the world expects of it.

        Args:
            state: stays valid.
            command: (B,) int64, 0 right, 1 left, 2 straight: where the ego is meant to go.

        Returns:
            The next state, and the motion: (B, 4, 4) float32 as ``curr_to_next`` of `World.step`.
        """
        ...


@runtime_checkable
class MotionPredicting(SelfDriving, Protocol):
    """A world whose model predicts the ego's motion in every step, also where it is given: what `generate` records."""

    def step_with_prediction(
        self, state: WorldState, command: Tensor, curr_to_next: Tensor | None = None
    ) -> tuple[WorldState, Tensor, Tensor]:
        """`World.step` along a given motion, or `SelfDriving.drive` without one, with the predicted motion.

        Args:
            state: stays valid.
            command: (B,) int64, 0 right, 1 left, 2 straight.
            curr_to_next: (B, 4, 4) float32 as for `World.step`; None takes the predicted motion.

        Returns:
            The next state; the executed motion (B, 4, 4) float32 as ``curr_to_next``; the predicted one (B, 3) float32,
            dx m, dy m in the current ego frame and dyaw rad.
        """
        ...


@runtime_checkable
class Latent(Protocol):
    """A world that thinks in token maps: what observation="tokens" needs.

    Attributes:
        token_shape: (C, Xl, Yl).
    """

    token_shape: tuple[int, int, int]

    def tokens(self, state: WorldState) -> Tensor:
        """Token maps (B, C, Xl, Yl) float32 of the current moment."""
        ...


@runtime_checkable
class SelfChecking(Protocol):
    """A world that has tested itself on the observed past: what ``info["self_check"]`` shows."""

    def self_check_figures(self, state: WorldState) -> dict[str, Tensor]:
        """What was found at the reset, (B,) float32 by name."""
        ...


@runtime_checkable
class Populated(Protocol):
    """A world whose agents can be taken out: what the variation "drop_agents" needs."""

    def drop_agents(self, state: WorldState, share: Tensor, seed: Tensor) -> WorldState:
        """The state without some of the agents.

        Args:
            state: stays valid.
            share: (B,) of the agents to drop, in [0, 1].
            seed: (B,) int64, says which.
        """
        ...


@runtime_checkable
class AgentTracking(Protocol):
    """A world that knows the other road users one by one: what `Engine.agents` asks."""

    def agents(self, state: WorldState) -> Tracks:
        """The other road users, (B, K) of each quantity in the current ego frame."""
        ...


def agents_of(world: World, state: WorldState) -> Tracks:
    """The other road users that a world tracks, (B, K) of each quantity in the current ego frame.

    Raises:
        OptionError: the world tracks no road users.
    """
    if not isinstance(world, AgentTracking):
        raise OptionError(
            f"the agents of a {type(world).__name__}",
            "a world that tracks them, with a method agents(state)",
            "use world='geometric' or 'simulated'",
        )
    with torch.inference_mode():
        return world.agents(state)


@runtime_checkable
class ManyFutures(Protocol):
    """A world whose traffic differs from seed to seed."""

    def draw_traffic(self, state: WorldState, seed: Tensor, futures: Sequence[str | None] | None = None) -> WorldState:
        """The state of a reset, with other road users as seeds (B,) int64 say: the same seed, the same future.

        Args:
            state: of a reset.
            seed: (B,) int64.
            futures: (B) "mode" or "sample" for one of the futures, None as the traffic says; only given if any is asked
                for.
        """
        ...


@runtime_checkable
class Stage(Protocol):
    """A world in which named events can happen: what the reset option "event" needs."""

    def stage(self, state: WorldState, actors: Actors) -> WorldState:
        """The state of a reset with the actors of events, see `world_model.worlds.events`."""
        ...


@runtime_checkable
class Limited(Protocol):
    """A world that does less than `World` promises, and says so: what ``info["world_limits"]`` and the tables show.

    Attributes:
        starts_from_observation: its first occupancy is what was observed.
        answers_actions: what it shows depends on the actions, beyond the place that it is seen from.
        horizon_steps: steps of 0.5 s after which it has nothing more to show.
    """

    starts_from_observation: bool
    answers_actions: bool
    horizon_steps: int


def limits_of(world: World) -> dict[str, bool | int]:
    """What a world says that it cannot do, by name; nothing for one that does all."""
    if not isinstance(world, Limited):
        return {}
    return {
        "starts_from_observation": world.starts_from_observation,
        "answers_actions": world.answers_actions,
        "horizon_steps": world.horizon_steps,
    }


def check_steps(world: World, steps: int) -> None:
    """Refuse more steps than a world has to show.

    Raises:
        OptionError: they are too many.
    """
    most = limits_of(world).get("horizon_steps", steps)
    if steps > most:
        raise OptionError(
            f"{steps} steps in a {type(world).__name__}",
            f"at most {most}: it draws that many at once and shows nothing beyond them",
            f"ask for {most} steps or fewer, or choose another world",
        )
