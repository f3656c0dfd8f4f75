"""N episodes side by side in one engine: what the single, the vector and the SB3 environment have in common.

One model forward per step for all of them; a reset encodes only the episodes that begin anew, in one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray
from torch import Tensor

from ii_world_env.engine import CAUSES, Engine, EngineConfig, State, StepOutput
from ii_world_env.faces.config import EnvConfig
from ii_world_env.faces.infos import Columns
from ii_world_env.faces.render import compose_frame
from ii_world_env.faces.spaces import action_space, observation_space
from ii_world_env.observations import modes as observations
from ii_world_env.scenes import conditions, open_scenes
from ii_world_env.state.outcome import TERMINATIONS, Outcome
from ii_world_env.state.route import points_at
from ii_world_env.task.rewards import check_finite, reward_function
from ii_world_env.task.trust import Pessimistic, check_pessimism, trust_of
from world_model.core.errors import ActionError, OptionError
from world_model.core.planar import into
from world_model.core.tensor_state import difference
from world_model.worlds import build_world, resolve_world

TIME_LIMIT = "time_limit"
"""Cause of a truncation by ``max_episode_steps``, which is no business of the engine."""


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """What one step gave, on the host.

    Attributes:
        reward: (N,) float64. terminated, truncated: (N,) bool.
        infos: columns of all N.
    """

    reward: NDArray[Any]
    terminated: NDArray[Any]
    truncated: NDArray[Any]
    infos: Columns


class Episodes:
    """N episodes of one world.

    Args:
        config: world, data, modes.
        count: N.
        limit: truncate after so many steps, whatever the horizon; the destination stays where the horizon puts it.
        keep_paths: remember the driven paths, for pictures.
    """

    def __init__(
        self, config: EnvConfig, count: int = 1, *, limit: int | None = None, keep_paths: bool = False
    ) -> None:
        self.config, self.count, self.limit = config, count, limit
        world = build_world(
            config.world,
            checkpoint=config.checkpoint,
            device=config.device,
            dtype=config.dtype,
            faithful=config.faithful,
        )
        self.world_name = resolve_world(config.world, config.checkpoint)
        trust, reward = trust_of(world, config.checkpoint), reward_function(config.reward)
        check_pessimism(config.pessimism, config.least_trust, trust)
        self.engine = Engine(
            world,
            EngineConfig(action=config.action, horizon=config.horizon, least_trust=config.least_trust),
            Pessimistic(reward=reward, pessimism=config.pessimism) if config.pessimism else reward,
            trust,
        )
        self.scenes = open_scenes(
            data_root=config.data_root,
            index=config.index,
            split=config.split,
            horizon=config.horizon,
            dataset=config.dataset,
        )
        self.action_space: spaces.Space = action_space(config.action)
        world = self.engine.world
        self.observation_space = observation_space(config.observation, config.action, world.grid, world)
        self.ended = np.zeros(count, np.bool_)
        self._state: State | None = None
        self._reward = np.zeros(count)
        self._limited = np.zeros(count, np.bool_)
        self._paths: list[list[Tensor]] | None = [[] for _ in range(count)] if keep_paths else None

    @property
    def state(self) -> State:
        """The engine's state of all N.

        Raises:
            ResetNeeded: before the first reset.
        """
        if self._state is None:
            raise ResetNeeded("Cannot go on before reset() was called")
        return self._state

    @property
    def begun(self) -> bool:
        """Whether there are episodes: after a reset, and until `forget`."""
        return self._state is not None

    def forget(self) -> None:
        """Drop all episodes."""
        self._state = None
        self.ended[:] = False

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Whatever fails inside, all episodes are where they were: a step is taken whole or not at all."""
        kept = self._state, self.ended.copy(), self._reward.copy(), self._limited.copy()
        paths = None if self._paths is None else [list(path) for path in self._paths]
        try:
            yield
        except BaseException:
            self._state, self.ended, self._reward, self._limited = kept
            self._paths = paths
            raise

    def fresh(self, rngs: Sequence[np.random.Generator], options: Sequence[Mapping[str, Any] | None]) -> State:
        """States of R episodes that begin, encoded in one batch; changes nothing but the generators.

        After an error the generators are where they were: the next episodes are those that would have come.

        Args:
            rngs: (R,) one generator for each.
            options: (R,) where and how each begins, see `Scenes.choose`; or ``{"state": state}`` to go on from a kept
                state of R environments, the same for all.

        Raises:
            OptionError: an option that does not fit.
            DataError: labels are missing or damaged.
        """
        if any(isinstance(chosen, Mapping) and "state" in chosen for chosen in options):
            return self._kept(options)
        before = [rng.bit_generator.state for rng in rngs]
        try:
            starts = [self.scenes.choose(rng, chosen) for rng, chosen in zip(rngs, options, strict=True)]
            world = self.engine.world
            clips = self.scenes.load(starts, self.engine.frames_ahead, world.needs_future_labels, world.grid)
            return self._shown(self.engine.reset(clips, **conditions(starts)))
        except BaseException:
            for rng, state in zip(rngs, before, strict=True):
                rng.bit_generator.state = state
            raise

    def check_rows(self, rows: Sequence[int]) -> None:
        """Refuse to begin with only some of the N.

        Raises:
            ResetNeeded: others of the N have no state yet.
        """
        if self._state is None and len(rows) != self.count:
            raise ResetNeeded("Cannot reset some of the environments before all of them were reset once")

    def place(self, rows: Sequence[int], fresh: State) -> Columns:
        """Let some of the N go on from other states.

        Args:
            rows: (R,) which ones, all of them the first time.
            fresh: R states.

        Returns:
            Infos of these R.

        Raises:
            ResetNeeded: others of the N have no state yet.
        """
        self.check_rows(rows)
        rows = list(rows)
        self._state = fresh if len(rows) == self.count else self.state.put(rows, fresh)
        self.ended[rows] = fresh.cause.cpu().numpy() > 0
        self._reward[rows], self._limited[rows] = 0.0, False
        if self._paths is not None:
            for i, row in enumerate(rows):
                self._paths[row] = [fresh.pose[i : i + 1]]
        return self._columns(fresh, None)

    def step(self, actions: Tensor) -> Stepped:
        """Drive one step everywhere, also where an episode has ended; those rows mean nothing and stay ended.

        Args:
            actions: from `actions`.
        """
        state, out = self.engine.step(self.state, actions)
        self._state = self._shown(state)
        if self._paths is not None:
            for row, path in zip(self._paths, out.path, strict=True):
                row.append(path)
        infos = self._columns(self._state, out)
        # Summed in double precision from the very numbers that are reported, so that they add up exactly.
        reward = np.zeros(self.count)
        for name, term in infos["reward_terms"].items():  # type: ignore[union-attr]
            check_finite(name, np.where(self.ended, 0.0, term))  # rows that have ended mean nothing
            reward = reward + term
        cause = np.array([0 if end is None else CAUSES.index(end) for end in infos["end"]])
        terminated, truncated = (cause > 0) & (cause <= TERMINATIONS), cause > TERMINATIONS
        self._limited = self._over_limit(infos) & (cause == 0)
        for row in np.flatnonzero(self._limited):
            infos["end"][row] = TIME_LIMIT
        truncated = truncated | self._limited
        self.ended, self._reward = self.ended | terminated | truncated, reward.copy()
        return Stepped(reward=reward, terminated=terminated, truncated=truncated, infos=infos)

    def actions(self, values: Any, ignored: NDArray[Any] | None = None) -> Tensor:
        """Actions of N agents as the engine takes them.

        Args:
            values: (N, *shape) array.
            ignored: (N,) bool, rows whose action does not matter and may be anything.

        Raises:
            ActionError: wrong shape, or values that no action space holds; names the environments.
        """
        wanted, mode = (self.count, *self.engine.action_mode.shape), self.engine.action_mode
        array = _numbers(values, wanted, mode.name)
        if ignored is not None:
            array[ignored] = 0.0
        good = np.isfinite(array)
        if mode.discrete:
            good &= (array == np.round(array)) & (array >= 0) & (array < len(mode.choices))
        bad = np.flatnonzero(~good.reshape(self.count, -1).all(1))
        if len(bad):
            which = "" if self.count == 1 else f" in environment {', '.join(map(str, bad))}"
            found = f"actions that are not finite or not allowed{which}: {array[bad].tolist()}"
            raise ActionError(found, mode.meaning, "look for NaN in the policy")
        if mode.discrete:
            return torch.from_numpy(array.astype(np.int64))
        # Before float32, in which a large number would turn infinite.
        return torch.from_numpy(array.clip(-1, 1).astype(np.float32))

    def action(self, value: Any) -> Tensor:
        """The action of the only agent; see `actions`."""
        return self.actions(_numbers(value, self.engine.action_mode.shape, self.engine.action_mode.name)[None])

    def observe(self, rows: Sequence[int] | None = None) -> Any:
        """Observations (N, ...) or of some rows, fresh arrays in a dict or alone."""
        self._state = self._shown(self.state)
        state = self._state if rows is None else self._state.index(list(rows))
        seen = observations.observe(self.config.observation, state, self.engine.world, self.engine.config.footprint)
        return {name: _host(value) for name, value in seen.items()} if isinstance(seen, dict) else _host(seen)

    def occupancy(self, i: int | slice) -> NDArray[Any]:
        """The forecast occupancy (X, Y, Z) uint8 of one episode in its current ego frame, or (N, X, Y, Z); a copy.

        Where nobody has needed it yet, all N are decoded and kept.
        """
        self._state = self.engine.decoded(self.state)
        return _host(self._state.labels[i])

    def picture(self, i: int) -> NDArray[Any]:
        """Bird's eye, perspective, path, route and a line of text; (430, 960, 3) uint8 for the Occ3D grid."""
        state = self.state.index(i)
        ahead = torch.arange(0.0, 60.0, 2.0, device=state.pose.device)[None] + state.progress_m[:, None]
        route = into(state.pose, points_at(state.route, ahead))
        driven = torch.cat(self._paths[i]) if self._paths is not None else state.pose
        path = into(state.pose, driven[None, :, :2])
        goal = into(state.pose, points_at(state.route, state.route.goal_m[:, None]))
        if float(state.route.goal_m[0]) < self.engine.config.shortest_goal_m:
            goal = torch.full_like(goal, float("nan"))
        return compose_frame(
            self.occupancy(i),
            self.engine.world.grid,
            path_m=path[0].cpu().numpy(),
            route_m=route[0].cpu().numpy(),
            goal_m=goal[0, 0].cpu().numpy(),
            text=self._caption(i),
        )

    def _kept(self, options: Sequence[Mapping[str, Any] | None]) -> State:
        """A kept state out of the reset options."""
        first = options[0] if isinstance(options[0], Mapping) else {}
        state, wanted = first.get("state"), f"a State of {len(options)} environments and no other option"
        if len(first) > 1 or not isinstance(state, State):
            found = f"state of type {type(state).__name__}" if len(first) == 1 else f"options {list(first)}"
            raise OptionError(found, wanted, "keep env.unwrapped.state, or State.load() one")
        mode, grid = self.engine.action_mode, self.engine.world.grid
        fits = (len(options), *grid.shape), (len(options), mode.width)
        seen = (*state.ground.shape, grid.shape[2]) if state.decoded is None else tuple(state.decoded.shape)
        found_shapes = seen, tuple(state.last_action.shape)
        if found_shapes != fits:
            raise OptionError(
                f"a state with labels {found_shapes[0]} and actions {found_shapes[1]}",
                f"{wanted}: labels {fits[0]}, actions {fits[1]}",
                "index() or expand() it, or make the environment as it was when the state was kept",
            )
        if self._state is not None and (other := difference(self._state, state)):
            raise OptionError(
                f"the state of another environment: {other}", wanted, "keep it from an environment made like this one"
            )
        return state

    def _shown(self, state: State) -> State:
        """A state as the observation needs it."""
        needed = observations.OBSERVATION_MODES[self.config.observation].needs_labels
        return self.engine.decoded(state) if needed else state

    def _over_limit(self, infos: Columns) -> NDArray[Any]:
        if self.limit is None:
            return np.zeros(self.count, np.bool_)
        return np.asarray(infos["time_s"]) >= 0.5 * self.limit

    def _columns(self, state: State, out: StepOutput | None) -> Columns:
        """What is known about this moment. All numbers come from the device in one copy."""
        cause = torch.zeros_like(state.cause) if out is None else out.cause
        numbers = [state.steps, state.scene, state.frame, cause, state.speed_mps, state.progress_m, state.route.goal_m]
        if out is not None:
            numbers += [out.outcome.lateral_m, *out.terms.values()]
            numbers += _looked(out.outcome).values()
        table = torch.cat((torch.stack([n.double() for n in numbers], -1), state.pose.double()), -1).cpu().numpy()
        steps, scene, frame, ends, speed, progress, goal, *rest = table.T
        scenes = scene.astype(int).tolist()
        first = np.array([self.scenes.index.frames(number).start for number in scenes])
        columns: Columns = {
            "data_source": [self.scenes.source] * len(table),
            "world": [self.world_name] * len(table),
            "scene": [self.scenes.name(number) for number in scenes],
            "frame": frame.astype(np.int64) - first,
            "time_s": 0.5 * steps,
            "ego_pose": table[:, -3:].astype(np.float32),
            "speed_mps": speed.copy(),
            "progress_m": progress.copy(),
            "goal_m": goal.copy(),
            "end": [CAUSES[int(number)] if number else None for number in ends],
        }
        if out is not None:
            columns["reward_terms"] = {name: rest[1 + i].copy() for i, name in enumerate(out.terms)}
            columns["lateral_m"] = rest[0].copy()
            columns |= {name: rest[1 + len(out.terms) + i].copy() for i, name in enumerate(_looked(out.outcome))}
        return columns

    def _caption(self, i: int) -> str:
        state = self.state.index(i)
        scene = int(state.scene[0])
        frame = int(state.frame[0]) - self.scenes.index.frames(scene).start
        cause = TIME_LIMIT if self._limited[i] else CAUSES[int(state.cause[0])] if int(state.cause[0]) else ""
        end = f"   {cause.replace('_', ' ').upper()}" if cause else ""
        return (
            f"{self.scenes.name(scene)}  frame {frame}  +{0.5 * int(state.steps[0]):.1f} s   "
            f"{float(state.speed_mps[0]) * 3.6:.0f} km/h   {float(state.progress_m[0]):.0f} of "
            f"{float(state.route.goal_m[0]):.0f} m   reward {self._reward[i]:+.2f}{end}   [{self.scenes.source}]"
        )


def _looked(outcome: Outcome) -> dict[str, Tensor]:
    """Facts that only some steps have, by the name in the infos."""
    facts = {}
    if outcome.contact is not None:
        facts["time_to_collision_s"] = outcome.contact.time_to_collision_s.double().round(decimals=1)
    if outcome.trust is not None:
        facts["trust"] = outcome.trust
    return facts


def _host(value: Tensor) -> NDArray[Any]:
    """A copy on the host: on a CPU ``.cpu()`` would share memory with the state."""
    return np.array(value.cpu().numpy())


def _numbers(values: Any, shape: tuple[int, ...], mode: str) -> NDArray[Any]:
    """A float64 copy of actions.

    Raises:
        ActionError: no numbers, or of another shape.
    """
    try:
        array = np.array(values)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ActionError(f"action {values!r}", f"numbers of shape {shape}", "give an array") from error
    # Numbers in words, complex numbers and dates would go through a cast to float, too.
    if array.dtype.kind not in "biuf":
        raise ActionError(
            f"an action of type {array.dtype}: {values!r}", f"real numbers of shape {shape}", "give an array"
        )
    if array.shape != shape:
        raise ActionError(
            f"an action of shape {array.shape}", f"shape {shape} for action={mode!r}", "see the action space"
        )
    with np.errstate(over="ignore"):  # what is too large for float64 becomes infinite, and is refused as that
        return array.astype(np.float64)
