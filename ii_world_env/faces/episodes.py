"""N episodes side by side in one engine: what the single, the vector and the SB3 environment have in common.

One model forward per step for all of them; a reset encodes only the episodes that begin anew, in one batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray
from torch import Tensor

from ii_world_env.ego.actions import real_numbers
from ii_world_env.engine import CAUSES, Engine, EngineConfig, State
from ii_world_env.engine import StepResult as EngineResult
from ii_world_env.faces import forks
from ii_world_env.faces.config import EnvConfig
from ii_world_env.faces.infos import NOTHING_NEAR_S, Columns
from ii_world_env.faces.render import draw_moment
from ii_world_env.faces.resets import NoEpisode, kept_state
from ii_world_env.faces.starts import StartStates
from ii_world_env.observations.build import build_observation, check_observed, needs_before
from ii_world_env.scenes import Start, conditions, open_scenes
from ii_world_env.state.state import terminates
from ii_world_env.task.rewards import check_finite, reward_function
from ii_world_env.task.trust import Pessimistic, check_pessimism, trust_of
from world_model.core.grid import STEP_S
from world_model.worlds import SelfChecking, build_world, limits_of, resolve_world, untouched_gpu
from world_model.worlds.provenance import provenance, same_source, weights_source
from world_model.worlds.traffic import DRAWN

TIME_LIMIT = len(CAUSES)
"""Number of a truncation by ``max_episode_steps``, which the engine knows nothing of."""
ENDS = (None, *CAUSES[1:], "time_limit")
"""``info["end"]`` by number."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
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

    Attributes:
        ends: (N,) int64 how each episode has ended, index into `ENDS`; 0 while it runs.
    """

    def __init__(
        self, config: EnvConfig, count: int = 1, *, limit: int | None = None, keep_paths: bool = False
    ) -> None:
        forks.single_thread_after_fork()
        self.config, self.count, self.limit = config, count, limit
        # A process that only makes an environment (to ask for its spaces, or to fork workers) leaves the GPU alone.
        self._waits_for_gpu = untouched_gpu(config.device) and ":" not in config.world
        self._assemble("cpu" if self._waits_for_gpu else config.device)
        self.world_name = resolve_world(config.world, config.checkpoint)
        self.scenes = open_scenes(
            data_root=config.data_root,
            index=config.index,
            split=config.split,
            horizon=config.horizon,
            dataset=config.dataset,
        )
        self.scenes.seeded = config.traffic in DRAWN
        mode = self._engine.action_mode
        self.action_space: spaces.Space[Any] = (
            spaces.Discrete(len(mode.choices)) if mode.choices else spaces.Box(-1.0, 1.0, mode.shape, np.float32)
        )
        self.observation_space = self.observation.space()
        self.ends = np.zeros(count, np.int64)
        self._state: State | None = None
        self._starts = StartStates(config.kept_mib)
        self._reward = np.zeros(count)
        self._source, self._scene_names = self.scenes.source, [""] * count
        self._weights_source = weights_source(config.world, config.checkpoint)
        if not same_source(self._weights_source, self.scenes.index.source):
            _warn_of_transfer(str(self._weights_source), self._source)
        self._frames = np.zeros(count, np.int64)
        self._paths: list[list[Tensor]] | None = [[] for _ in range(count)] if keep_paths else None
        self._observed_fits = False
        self._term_names: list[str] | None = None

    def _assemble(self, device: str) -> None:
        """World, engine and observation on a device."""
        config = self.config
        world = build_world(
            config.world,
            checkpoint=config.checkpoint,
            device=device,
            dtype=config.dtype,
            faithful=config.faithful,
            self_check=config.self_check,
            traffic=config.traffic,
            agents=config.agents,
        )
        self._limits = limits_of(world)
        trust, reward = trust_of(world, config.checkpoint), reward_function(config.reward)
        check_pessimism(config.pessimism, config.least_trust, trust)
        if config.pessimism:
            reward = Pessimistic(reward=reward, pessimism=config.pessimism)
        names = ("action", "horizon", "finite_horizon", "least_trust")
        settings = EngineConfig(**{name: getattr(config, name) for name in names})
        self._engine = Engine(world, settings, reward, trust)
        mode = self._engine.action_mode
        self.observation = build_observation(config.observation, world, mode, settings.footprint, config.horizon)
        self._engine.remembers = needs_before(self.observation)

    @property
    def engine(self) -> Engine:
        """The engine on its device: a GPU is used from here, or from the first reset, on."""
        if self._waits_for_gpu:
            self._assemble(self.config.device)
            self._waits_for_gpu = False
        return self._engine

    @property
    def state(self) -> State:
        """The engine's state of all N.

        Raises:
            NoEpisode: before the first reset.
        """
        if self._state is None:
            raise NoEpisode("There is no episode yet: call reset() first")
        return self._state

    @property
    def begun(self) -> bool:
        """Whether there are episodes: after a reset, and until `clear`."""
        return self._state is not None

    def clear(self) -> None:
        """Drop all episodes."""
        self._state = None
        self.ends[:] = 0

    @contextmanager
    def restore_on_error(self) -> Iterator[None]:
        """Whatever fails inside, all episodes are where they were: a step is taken whole or not at all."""
        kept = self._state, self.ends, self._reward, list(self._scene_names), self._frames.copy()
        self.ends, self._reward = self.ends.copy(), self._reward.copy()
        paths = None if self._paths is None else [list(path) for path in self._paths]
        try:
            yield
        except BaseException:
            self._state, self.ends, self._reward, self._scene_names, self._frames = kept
            self._paths = paths
            raise

    def begin(self, rngs: Sequence[np.random.Generator], options: Sequence[Mapping[str, Any] | None]) -> State:
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
        forks.single_thread_after_fork()
        if any(isinstance(chosen, Mapping) and "state" in chosen for chosen in options):
            return self._ready(kept_state(options, self.engine, self._state))
        before = [rng.bit_generator.state for rng in rngs]
        try:
            starts = [self.scenes.choose(rng, chosen) for rng, chosen in zip(rngs, options, strict=True)]
            return self._ready(self._starts.states(starts, self._reset))
        except BaseException:
            for rng, state in zip(rngs, before, strict=True):
                rng.bit_generator.state = state
            raise

    def _reset(self, starts: Sequence[Start]) -> State:
        world = self.engine.world  # from the first reset on, a GPU is used
        clips = self.scenes.load(starts, self._engine.frames_ahead, world.needs_future_labels, world.grid)
        return self._engine.reset(clips, **conditions(starts))

    def check_rows(self, rows: Sequence[int]) -> None:
        """Refuse to begin with only some of the N.

        Raises:
            ResetNeeded: the rest of the N has no state yet.
        """
        if self._state is None and len(rows) != self.count:
            raise ResetNeeded("Cannot reset some of the environments before all of them were reset once")

    def set_states(self, rows: Sequence[int], states: State) -> Columns:
        """Let some of the N go on from other states.

        Args:
            rows: (R,) which ones, all of them the first time.
            states: R states, see `begin`.

        Returns:
            Infos of these R.

        Raises:
            ResetNeeded: the rest of the N has no state yet.
        """
        self.check_rows(rows)
        rows = list(rows)
        self._state = states if len(rows) == self.count else self._ready(self.state.put(rows, states))
        self.ends[rows], self._reward[rows] = states.cause.cpu().numpy(), 0.0
        for i, (row, scene, frame) in enumerate(zip(rows, states.scene.tolist(), states.frame.tolist(), strict=True)):
            self._scene_names[row] = self.scenes.name(scene)
            self._frames[row] = frame - self.scenes.index.frames(scene).start
            if self._paths is not None:
                self._paths[row] = [states.pose[i : i + 1]]
        return self._columns(rows, states, None)[0]

    def step(self, actions: Tensor) -> StepResult:
        """Drive one step everywhere, also where an episode has ended; those rows mean nothing and stay ended.

        Args:
            actions: from `actions`.
        """
        if forks.pending:  # asked here, so that a step of any other process enters one file less
            forks.single_thread_after_fork()
        state, result = self._engine.advance(self.state, actions)
        self._state = self._ready(state)
        if self._paths is not None:
            for row, path in zip(self._paths, result.path, strict=True):
                row.append(path)
        infos, ends = self._columns(range(self.count), state, result)
        # Summed in double precision from the very numbers that are reported, so that they add up exactly.
        reward = np.zeros(self.count)
        for name in result.terms:
            term = infos["reward_terms"][name]  # type: ignore[call-overload]  # a dict of columns
            check_finite(name, np.where(self.ends > 0, 0.0, term))  # rows that have ended mean nothing
            reward = reward + term
        self.ends, self._reward = np.where(self.ends > 0, self.ends, ends), reward
        terminated = terminates(ends, self.config.finite_horizon)
        return StepResult(reward=reward.copy(), terminated=terminated, truncated=(ends > 0) & ~terminated, infos=infos)

    def actions(self, values: Any, ignored: NDArray[Any] | None = None) -> Tensor:
        """Actions of N agents, checked for the engine.

        Args:
            values: (N, *shape) array.
            ignored: (N,) bool, rows whose action does not matter and may be anything.

        Raises:
            ActionError: wrong shape, or values that no action space holds; names the environments.
        """
        mode = self._engine.action_mode
        array = real_numbers(values, (self.count, *mode.shape), mode.name)
        if ignored is not None:
            array[ignored] = 0.0
        return mode.checked(torch.from_numpy(array), self.count, self.state.pose.device)

    def action(self, value: Any) -> Tensor:
        """The action of the only agent; see `actions`."""
        mode = self._engine.action_mode
        array = real_numbers(value, mode.shape, mode.name)[None]
        return mode.checked(torch.from_numpy(array), 1, self.state.pose.device)

    def observe(self, rows: Sequence[int] | None = None) -> Any:
        """Observations (N, ...) or of some rows, new arrays in a dict or alone."""
        state = self.state if rows is None else self.state.index(list(rows))
        observed = self.observation.observe(state)
        if not self._observed_fits:
            check_observed(self.config.observation, observed, self.observation_space, len(state.pose))
            self._observed_fits = True
        if isinstance(observed, dict):
            return {name: _host(value) for name, value in observed.items()}
        return _host(observed)

    def occupancy(self, i: int | slice) -> NDArray[Any]:
        """The forecast occupancy (X, Y, Z) uint8 of one episode in its current ego frame, or (N, X, Y, Z); a copy.

        Where nothing has needed it yet, all N are decoded and kept.
        """
        forks.single_thread_after_fork()
        self._state = self._engine.with_occupancy(self.state)
        return _host(self._state.labels[i])

    def picture(self, i: int) -> NDArray[Any]:
        """Bird's eye, perspective, path, route and a line of text; (430, 960, 3) uint8 for the Occ3D grid."""
        driven = torch.cat(self._paths[i]) if self._paths is not None else self.state.pose[i : i + 1]
        end = (ENDS[self.ends[i]] or "").replace("_", " ").upper()
        return draw_moment(
            self.occupancy(i),
            self._engine,
            self.state.index(i),
            driven,
            place=f"{self._scene_names[i]}  frame {self._frames[i]}",
            ending=f"reward {self._reward[i]:+.2f}{end and '   ' + end}   [{self._source}]",
        )

    def _ready(self, state: State) -> State:
        """A state as the observation needs it: the only place that decodes for it."""
        state = self._engine.with_occupancy(state) if self.observation.needs_occupancy else state
        return self._engine.with_before(state)

    def _columns(
        self, rows: Sequence[int], state: State, result: EngineResult | None
    ) -> tuple[Columns, NDArray[np.int64]]:
        """Infos of some of the N, and their ends by number. All numbers come from the device in one copy."""
        base = (state.steps, state.speed_mps, state.progress_m, state.route.goal_m)
        zero, cause = torch.zeros_like(state.speed_mps), torch.zeros_like(state.cause)
        # The same keys after a reset as after a step: dataframes and recorders of data sets take no others.
        facts, terms = {"lateral_m": zero}, dict.fromkeys(self._terms(state), zero)
        if self._engine.needs_occupancy:
            facts["time_to_collision_s"] = torch.full_like(zero, NOTHING_NEAR_S)
        if self._engine.trust is not None:
            facts["trust"] = torch.ones_like(zero)
        if result is not None:
            terms, cause, facts["lateral_m"] = result.terms, result.cause, result.outcome.lateral_m
            if result.outcome.contact is not None:
                time_s = result.outcome.contact.time_to_collision_s.double().round(decimals=1)
                facts["time_to_collision_s"] = time_s.clamp(max=NOTHING_NEAR_S)
            if result.outcome.trust is not None:
                facts["trust"] = result.outcome.trust
        world = self._engine.world
        checks = world.self_check_figures(state.world) if isinstance(world, SelfChecking) else {}
        values = (*base, cause, *facts.values(), *terms.values(), *checks.values())
        numbers = torch.stack([n.double() for n in values])
        table = torch.cat((numbers, state.pose.T.double())).cpu().numpy()
        steps, speed, progress, goal, causes, *rest = table
        ends = causes.astype(np.int64)
        if self.limit is not None and result is not None:
            ends[(ends == 0) & (steps >= self.limit)] = TIME_LIMIT
        columns: Columns = {
            "data_source": [self._source] * len(rows),
            "weights_source": [self._weights_source] * len(rows),
            "world": [self.world_name] * len(rows),
            "scene": [self._scene_names[row] for row in rows],
            "frame": self._frames[list(rows)],
            "time_s": STEP_S * steps,
            "ego_pose": table[-3:].T.astype(np.float32),
            "speed_mps": speed,
            "progress_m": progress,
            "goal_m": goal,
            "end": [ENDS[number] for number in ends],
        }
        columns["reward_terms"] = dict(zip(terms, rest[len(facts) :], strict=False))
        columns |= zip(facts, rest, strict=False)
        if checks:
            columns["self_check"] = dict(zip(checks, rest[len(facts) + len(terms) :], strict=False))
        if self._limits:
            columns["world_limits"] = {name: np.full(len(rows), value) for name, value in self._limits.items()}
        return columns, ends

    def _terms(self, state: State) -> list[str]:
        """Names of the reward terms: those of a step in which the ego stays where it is. Asked once."""
        if self._term_names is None:
            try:
                self._term_names = self._engine.term_names(state)
            except Exception:  # a reward of a user's own that fails will say so at the first step
                self._term_names = []
        return self._term_names


@cache  # once per process and pair
def _warn_of_transfer(weights: str, data: str) -> None:
    logging.getLogger("ii_world_env").warning(
        "%s: forecasts on data that the weights were not trained on are less true; "
        'train on such data, or choose world="transport" or "replay", which have no weights',
        provenance([weights], data),
    )


def _host(value: Tensor) -> NDArray[Any]:
    """A copy on the host: on a CPU ``.cpu()`` would share memory with the state."""
    return np.array(value.cpu().numpy())
