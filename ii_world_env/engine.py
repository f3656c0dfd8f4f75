"""The engine: state in, state out, batched over B environments. It knows no gymnasium and keeps nothing between calls.

    world   = build_world("transport")
    engine  = Engine(world)
    state   = engine.reset(load_clips(index, frames, future=engine.frames_ahead))
    state, out = engine.step(state, actions)          # one model forward for all B
    plans   = engine.rollout(state.expand(64), plans)  # score 64 plans per environment

Legend: B environments, A components of an action, F recorded future frames, H steps of a plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ii_world_env.ego import route
from ii_world_env.ego.actions import ACTION_MODES, ActionMode, normal_noise
from ii_world_env.ego.footprint import solid_columns
from ii_world_env.state.observed import motion_at, observed_before, observed_ground
from ii_world_env.state.state import CAUSES, TERMINATIONS, State, terminates
from ii_world_env.task.config import EngineConfig
from ii_world_env.task.outcome import TTC_S, Outcome, end_of, outcome_of
from ii_world_env.task.rewards import RewardFunction, check_terms, default, reward_needs_occupancy
from ii_world_env.task.trust import TrustFunction
from ii_world_env.task.variations import staged, thinned, with_traffic
from world_model.core.errors import ActionError, ConfigError, OptionError
from world_model.core.geometry import compose, invert_pose, planar_pose, se2_matrix
from world_model.core.grid import STEP_S
from world_model.core.vehicle import MAX_SPEED_MPS, Motion, along
from world_model.data.clips import Clips
from world_model.models.geometric.agents.tracks import Tracks
from world_model.worlds import SelfDriving, World, WorldState, agents_of, check_steps

__all__ = ["CAUSES", "TERMINATIONS", "TTC_S", "Engine", "EngineConfig", "PlanScores", "State", "StepResult"]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step gave.

    Attributes:
        terms: (B,) float32 terms of the reward by name.
        cause: (B,) int64 why the episode ends with this step, index into `CAUSES`; 0: it does not.
        outcome: the facts behind them.
        path: (B, S, 3) driven x, y, yaw of the substeps, in the start frame.
        finite_horizon: the horizon terminates, see `EngineConfig`.
    """

    terms: dict[str, Tensor]
    cause: Tensor
    outcome: Outcome
    path: Tensor
    finite_horizon: bool = False

    @property
    def reward(self) -> Tensor:
        """(B,) float32, the sum of the terms."""
        return torch.stack(list(self.terms.values())).sum(0)

    @property
    def terminated(self) -> Tensor:
        """(B,) bool."""
        return terminates(self.cause, self.finite_horizon)

    @property
    def truncated(self) -> Tensor:
        """(B,) bool; never together with ``terminated``."""
        return (self.cause > 0) & ~self.terminated


@dataclass(frozen=True, kw_only=True)
class PlanScores:
    """What whole plans gave.

    Attributes:
        reward: (B, H) float32, 0 after the end of an episode.
        alive: (B, H) bool, the episode still ran before this step.
        cause: (B,) int64, why the episode ended, index into `CAUSES` (0: it did not).
        state: after the last step, also where the episode ended earlier.
    """

    reward: Tensor
    alive: Tensor
    cause: Tensor
    state: State

    @property
    def total(self) -> Tensor:
        """(B,) sum of rewards."""
        return self.reward.sum(1)


class Engine:
    """Driving in a world.

    Args:
        world: what surrounds the ego.
        config: how episodes run.
        reward: from the facts of a step to named terms.
        trust: optional forecast trust, see `TrustFunction`.
        needs_occupancy: decode the occupancy at every step and find contacts in it; None as the reward needs it.
            Without it no episode ends by a collision or off the road.

    Attributes:
        remembers: keep in every state what stood where one step earlier (`State.solid_before`), for observations of how
            others move. Set it before the first reset.

    Raises:
        ConfigError: an action mode in which the world drives, in a world that cannot.
        OptionError: a horizon beyond what the world has to show.
    """

    def __init__(
        self,
        world: World,
        config: EngineConfig | None = None,
        reward: RewardFunction | None = None,
        trust: TrustFunction | None = None,
        needs_occupancy: bool | None = None,
    ) -> None:
        self.world = world
        self.config = config or EngineConfig()
        check_steps(world, self.config.horizon)
        self.reward = reward or default()
        self.trust = trust
        self.needs_occupancy = reward_needs_occupancy(self.reward) if needs_occupancy is None else needs_occupancy
        self.remembers = False
        self.action_mode: ActionMode = ACTION_MODES[self.config.action]
        if self.action_mode.move is None and not isinstance(world, SelfDriving):
            raise ConfigError(
                f"action={self.config.action!r} in a {type(world).__name__}",
                "a world that can choose the ego's motion itself, with a method drive(state, command)",
                "use world='ii-world', or another action mode",
            )

    @property
    def frames_ahead(self) -> int:
        """Recorded future frames that clips should have: one and a half horizons, for those who drive faster."""
        return self.config.horizon + (self.config.horizon + 1) // 2

    @torch.inference_mode()
    def occupancy(self, state: State) -> Tensor:
        """(B, X, Y, Z) uint8 occupancy of a state, decoded now if nothing has needed it yet."""
        return self.world.occupancy(state.world) if state.decoded is None else state.decoded

    def with_occupancy(self, state: State) -> State:
        """The same state with its occupancy, so that it is decoded once for everything that reads it."""
        return state if state.decoded is not None else replace(state, decoded=self.occupancy(state))

    def with_before(self, state: State) -> State:
        """The same state, with the tensors of the moment before if the engine remembers it, even where it is unknown;
        without them if not."""
        if self.remembers == (state.solid_before is not None):
            return state
        if not self.remembers:
            return replace(state, solid_before=None, pose_before=None)
        unknown = torch.full_like(state.pose, float("nan"))
        return replace(state, solid_before=torch.zeros_like(state.ground, dtype=torch.uint8), pose_before=unknown)

    def agents(self, state: State) -> Tracks:
        """The other road users, see `agents_of`."""
        return agents_of(self.world, state.world)

    decoded = with_occupancy
    """The earlier name of `with_occupancy`."""

    @torch.inference_mode()
    def reset(
        self,
        clips: Clips,
        speed_mps: Tensor | None = None,
        command: Tensor | None = None,
        action_noise: Tensor | None = None,
        drop_agents: Tensor | None = None,
        seed: Tensor | None = None,
        event: Sequence[str | None] | None = None,
        future: Sequence[str | None] | None = None,
    ) -> State:
        """Start at the current frames of clips.

        Args:
            clips: with at least one future frame; `frames_ahead` of them are best.
            speed_mps: (B,) start speeds, NaN for the recorded one.
            command: (B,) commands for the whole episode, -1 for the recorded ones.
            action_noise: (B,) standard deviation of the noise on every component of an action; None is 0.
            drop_agents: (B,) share of the other agents that are taken out, in worlds that can; None is 0.
            seed: (B,) int64, of the noise, of which agents go, of events, and of drawn traffic; None is 0.
            event: (B) names of `world_model.worlds.events.EVENTS`, each None where nothing is staged.
            future: (B) "mode" or "sample" of traffic that has many futures, each None as the traffic says.

        Raises:
            OptionError: no future frame, agents to drop or an event in a world that cannot, noise on discrete actions,
                a future of a world that has but one.
        """
        if clips.ego_to_global.shape[1] < clips.past + 2:
            raise OptionError(
                "clips without a future frame", "at least one", "load them with future=engine.frames_ahead"
            )
        if action_noise is not None and bool((action_noise > 0).any()) and self.action_mode.choices:
            raise OptionError(
                f"action_noise with action={self.config.action!r}", "a continuous action mode", "leave the noise out"
            )
        world = thinned(self.world, self.world.reset(clips), drop_agents, seed)
        world = staged(self.world, world, clips, event, seed, speed_mps)
        world = with_traffic(self.world, world, seed, future)
        labels = self.world.occupancy(world) if self.needs_occupancy else None
        # A world that does not say where its states live is asked for its occupancy.
        own = getattr(self.world, "device", None)
        device = self.world.occupancy(world).device if own is None else torch.device(own)
        batch, current = len(clips.occupancy), clips.past
        motion = motion_at(clips, current)
        before = motion_at(clips, max(current - 1, 0))
        speed = motion[:, 0].clamp(0, MAX_SPEED_MPS)
        if speed_mps is not None:
            speed = torch.where(speed_mps.isnan(), speed, speed_mps.float())
        commands = clips.command[:, current:]
        if command is not None:
            commands = torch.where(command[:, None] < 0, commands, command[:, None])
        zero = torch.zeros(batch, dtype=torch.float32, device=device)
        return State(
            world=world,
            decoded=labels,
            ground=observed_ground(clips, self.world.grid, self.config.footprint).to(device),
            pose=torch.zeros(batch, 3, dtype=torch.float32, device=device),
            speed_mps=speed.to(device),
            accel_mps2=((motion[:, 0] - before[:, 0]) / STEP_S).to(device),
            lateral_mps2=(speed * motion[:, 2]).to(device),
            yaw_rate_rps=motion[:, 2].to(device),
            last_action=torch.zeros(batch, self.action_mode.width, dtype=torch.float32, device=device),
            commands=commands.to(device),
            route=route.route_of(clips, self.config.horizon).map(lambda value: value.to(device)),
            progress_m=zero,
            steps=torch.zeros(batch, dtype=torch.long, device=device),
            cause=torch.zeros(batch, dtype=torch.long, device=device),
            scene=torch.tensor(clips.scene, device=device),
            frame=torch.tensor(clips.frame, device=device),
            noise=zero if action_noise is None else action_noise.float().to(device),
            seed=torch.zeros(batch, dtype=torch.long, device=device) if seed is None else seed.to(device),
            **self._observed_before(clips, device),
        )

    def _observed_before(self, clips: Clips, device: torch.device) -> dict[str, Tensor]:
        """What stood where in the observed frame before the current one, where it lies one step before it."""
        if not self.remembers:
            return {}
        solid, pose = observed_before(clips, self.world.grid, self.config.footprint)
        return {"solid_before": solid.to(device), "pose_before": pose.to(device)}

    @torch.inference_mode()
    def observe(self, state: State, labels: Tensor, poses: Tensor) -> State:
        """A state of this engine's world where the car of another engine is: to plan in one world, drive in another.

        Args:
            state: (B) of an engine with the same grid and action mode; its route, motion and counters stay.
            labels: (B, P, X, Y, Z) uint8 what was observed, oldest first, each in its own ego frame; the last is now.
            poses: (B, P, 3) where, in the start frame of ``state``.

        Raises:
            OptionError: shapes that do not belong together.
            DataError: a world that knows only recorded scenes.
        """
        batch, count = state.batch, labels.shape[1] if labels.ndim == 5 else 0
        if labels.shape != (batch, count, *self.world.grid.shape) or poses.shape != (batch, count, 3) or not count:
            raise OptionError(
                f"labels {tuple(labels.shape)} and poses {tuple(poses.shape)}",
                f"({batch}, P, {', '.join(map(str, self.world.grid.shape))}) and ({batch}, P, 3) with P >= 1",
                "give one pose for each observed frame",
            )
        motion = torch.stack((state.speed_mps, torch.zeros_like(state.speed_mps), state.yaw_rate_rps), -1)
        now = state.steps.clamp(max=state.commands.shape[1] - 1)
        clips = Clips(
            occupancy=labels.cpu(),
            ego_to_global=se2_matrix(*poses.double().unbind(-1)).cpu(),
            command=state.commands.gather(1, now[:, None]).expand(-1, count).cpu(),
            motion=motion[:, None].expand(-1, count, -1).cpu(),
            dt_s=torch.full((batch, count - 1), STEP_S, device="cpu"),
            valid=torch.ones(batch, count, dtype=torch.bool, device="cpu"),
            scene=state.scene.tolist(),
            frame=state.frame.tolist(),
        )
        world = self.world.reset(clips)
        return replace(state, world=world, decoded=self.world.occupancy(world) if self.needs_occupancy else None)

    @torch.inference_mode()
    def step(self, state: State, actions: Tensor) -> tuple[State, StepResult]:
        """Drive one step of 0.5 s in every environment.

        Args:
            state: stays valid and unchanged.
            actions: (B, A) or (B, *shape) floats in [-1, 1], values outside are clipped; (B,) choices if discrete.

        Raises:
            ActionError: wrong shape, values that are not finite, or no such choice.
        """
        return self.advance(state, self.action_mode.checked(actions, state.batch, state.pose.device))

    @torch.inference_mode()
    def advance(self, state: State, actions: Tensor) -> tuple[State, StepResult]:
        """As `step`, with actions that `ActionMode.checked` has returned."""
        if self.needs_occupancy or self.remembers:
            state = self.with_occupancy(state)
        world, motion = self.drive(state, actions)
        after, lateral = self.arrive(state, actions, world, motion)
        result = self.score(state, motion, after, lateral)
        return after.with_cause(torch.where(state.cause > 0, state.cause, result.cause)), result

    def drive(self, state: State, actions: Tensor) -> tuple[WorldState, Motion]:
        """Move the ego and let the world answer: the one model forward of a step."""
        if self.action_mode.move is None:
            assert isinstance(self.world, SelfDriving)  # see the constructor
            world, curr_to_next = self.world.drive(state.world, actions[:, 0])
            return world, along(planar_pose(invert_pose(curr_to_next.float())), state.speed_mps)
        if not self.action_mode.choices:
            noise = state.noise[:, None] * normal_noise(state.seed, state.steps, actions.shape[1])
            actions = (actions + noise).clamp(-1, 1)
        motion = self.action_mode.move(actions, state)
        number = state.steps.clamp(max=state.commands.shape[1] - 1)
        command = state.commands.gather(1, number[:, None])[:, 0]
        return self.world.step(state.world, invert_pose(se2_matrix(*motion.path[:, -1].unbind(-1))), command), motion

    def arrive(self, state: State, actions: Tensor, world: WorldState, motion: Motion) -> tuple[State, Tensor]:
        """The state after a motion, its episodes still running, and the offset (B,) from the route in metres."""
        pose = compose(state.pose, motion.path[:, -1])
        progress, lateral = route.project(state.route, pose[:, :2], state.progress_m)
        after = replace(
            state,
            world=world,
            decoded=self.world.occupancy(world) if self.needs_occupancy else None,
            pose=pose,
            speed_mps=motion.speed_mps,
            accel_mps2=motion.accel_mps2,
            lateral_mps2=motion.speed_mps * motion.yaw_rate_rps,
            yaw_rate_rps=motion.yaw_rate_rps,
            last_action=self.action_mode.remember(actions),
            progress_m=progress,
            steps=state.steps + 1,
            solid_before=self._solid(state) if self.remembers else None,
            pose_before=state.pose if self.remembers else None,
        )
        return after, lateral

    def _solid(self, state: State) -> Tensor:
        return solid_columns(self.with_occupancy(state).level_labels, self.world.grid, self.config.footprint)

    def score(self, state: State, motion: Motion, after: State, lateral_m: Tensor) -> StepResult:
        """Reward terms and ends of a step from one state to another.

        Raises:
            OptionError: the reward returned anything but named (B,) tensors.
        """
        trust = None if self.trust is None else self.trust(after.world)
        grid = self.world.grid
        outcome = outcome_of(state, motion, after, lateral_m, trust, grid, self.config, self.needs_occupancy)
        terms = self.reward(outcome)
        check_terms(terms, len(lateral_m))
        path = compose(state.pose[:, None].expand_as(motion.path), motion.path)
        cause, finite = end_of(after, outcome, self.config), self.config.finite_horizon
        return StepResult(terms=terms, cause=cause, outcome=outcome, path=path, finite_horizon=finite)

    @torch.inference_mode()
    def term_names(self, state: State) -> list[str]:
        """Names of the reward terms, asked of a step that goes nowhere; the world is not called.

        Raises:
            OptionError: the reward returned anything but named (B,) tensors.
        """
        if self.needs_occupancy:
            state = self.with_occupancy(state)
        mode = self.action_mode
        still = torch.zeros(len(state.pose), mode.size, device=state.pose.device)
        if mode.move is None:
            motion = along(torch.zeros_like(state.pose), state.speed_mps)
        else:
            motion = mode.move(still.long() if mode.choices else still, state)
        return list(self.score(state, motion, state, torch.zeros_like(state.speed_mps)).terms)

    def rollout(self, state: State, actions: Tensor) -> PlanScores:
        """Drive whole plans (B, H, A) and add up their rewards; see `step`. An episode that has ended earns nothing."""
        if not isinstance(actions, Tensor) or actions.ndim < 2 or not actions.shape[1]:
            found = f"shape {tuple(actions.shape)}" if isinstance(actions, Tensor) else f"type {type(actions).__name__}"
            raise ActionError(f"plans of {found}", "a tensor (B, H, A) with H >= 1", "stack one action per step")
        cause, rewards, alive = state.cause, [], []
        for step in range(actions.shape[1]):
            state, result = self.step(state, actions[:, step])
            running = cause == 0
            alive.append(running)
            rewards.append(torch.where(running, result.reward, 0.0))
            cause = torch.where(running, result.cause, cause)
        return PlanScores(reward=torch.stack(rewards, 1), alive=torch.stack(alive, 1), cause=cause, state=state)
