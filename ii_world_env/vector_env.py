"""Many environments in one batch: Gymnasium's vector interface to the engine, one model forward per step for all."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from ii_world_env.engine import Engine, State
from ii_world_env.env import IIWorldEnv, check_render_mode, plain_spec
from ii_world_env.faces.config import EnvConfig
from ii_world_env.faces.episodes import Episodes
from ii_world_env.faces.infos import Columns, merge, split_rows, take
from ii_world_env.faces.resets import Seeds, autoreset_mode_of, check_count, reset_mask, seeds_of
from ii_world_env.scenes import Scenes
from world_model.core.errors import OptionError

Step = tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]


class IIWorldVectorEnv(VectorEnv[Any, Any, NDArray[Any]]):
    """
    ## Description
    N environments of `IIWorldEnv` in one process, with one copy of the weights and one model forward per step:

        envs = gym.make_vec("IIWorld-nuScenes-v0", num_envs=8)

    Every environment has a random generator of its own, so that its episodes do not depend on its place in the batch.
    Numbers agree with those of single environments up to the rounding of batched arithmetic
    (docs/results/conformance.md).

    ## Action Space
    That of `IIWorldEnv`, batched: `Box(-1, 1, (N, 2), float32)` by default, `MultiDiscrete` for discrete actions. N
    float32 or int64 actions in, all of them checked before anything moves.

    ## Observation Space
    That of `IIWorldEnv`, batched: every array gets a leading axis N. Arrays are new at every call.

    ## Rewards
    (N,) float64, each the sum of the environment's `infos["reward_terms"]`; see `IIWorldEnv`.

    ## Starting State
    As in `IIWorldEnv`. `reset(seed=)` takes one integer for seed, seed + 1, ..., or one for each environment;
    `options["reset_mask"]`, a (N,) bool array, names the environments that reset.

    ## Episode End
    As in `IIWorldEnv`, and after `max_episode_steps` as `time_limit`. Environments that reset are encoded together in
    one batch; all other episodes go on. `autoreset_mode` is a `gymnasium.vector.AutoresetMode` or its value:

    | Value                | After an episode has ended                                                            |
    |----------------------|---------------------------------------------------------------------------------------|
    | "NextStep" (default) | the next `step` ignores the action and returns the first observation, with reward 0    |
    | "SameStep"           | `step` returns the next first observation; the last one is in `infos["final_obs"]`     |
    | "Disabled"           | `reset(options={"reset_mask": mask})` is yours to call; stepping raises `ResetNeeded`  |

    Infos are arrays (N, ...) by key `k`, with a bool mask `_k` of the environments that have it; dicts are nested the
    same way.

    ## Arguments
    Those of `IIWorldEnv`, and:

    | Name                | Default    | Meaning                                                                       |
    |---------------------|------------|-------------------------------------------------------------------------------|
    | `num_envs`          | 1          | N                                                                             |
    | `autoreset_mode`    | "NextStep" | see above                                                                     |
    | `max_episode_steps` | None       | truncate after so many steps, as `TimeLimit` would                            |
    | `render_mode`       | None       | "rgb_array": `render` returns a tuple of N pictures                           |

    ## Version History
    * v0: first version.

    Raises:
        ActionError: actions of a wrong shape, or not finite; the message names the environments. Nothing has changed.
        ResetNeeded: a step before the first reset, or after an end without autoreset.
        ClosedEnvironmentError: reset, step or render after close.
    """

    _spec: EnvSpec | None = None

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        check_count("num_envs", num_envs)
        if max_episode_steps is not None:
            check_count("max_episode_steps", max_episode_steps)
        check_render_mode(render_mode)
        self.autoreset_mode = autoreset_mode_of(autoreset_mode)
        self.metadata = {**IIWorldEnv.metadata, "autoreset_mode": self.autoreset_mode}
        self.num_envs, self.render_mode = num_envs, render_mode
        self.episodes = Episodes(
            EnvConfig.of(options), num_envs, limit=max_episode_steps, keep_paths=render_mode is not None
        )
        self.scenes = self.episodes.scenes
        self.single_action_space = self.episodes.action_space
        self.single_observation_space = self.episodes.observation_space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.envs = [SubEnvironment(self, i) for i in range(num_envs)]
        self._rngs, self._rng_seeds = map(list, zip(*(seeding.np_random() for _ in range(num_envs)), strict=True))

    @property  # type: ignore[misc]  # Gymnasium's has a setter; these belong to the seeds
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of every environment."""
        return tuple(self._rngs)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of every generator."""
        return tuple(self._rng_seeds)

    @property
    def spec(self) -> EnvSpec | None:
        """How the environments were made, see `IIWorldEnv.spec`."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = plain_spec(spec)

    @property
    def engine(self) -> Engine:
        """What drives: state in, state out; the door to search (docs/howto/search.md)."""
        return self.episodes.engine

    @property
    def state(self) -> State:
        """The engine's state of all environments; see `IIWorldEnv.state`."""
        return self.episodes.state

    @property
    def occupancy(self) -> NDArray[Any]:
        """The forecast occupancy (N, X, Y, Z) uint8, each in its current ego frame, a copy."""
        return self.episodes.occupancy(slice(None))

    def reset(self, *, seed: Seeds = None, options: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin new episodes in all environments, or in those that a mask names.

        Args:
            seed: an integer for seed, seed + 1, ..., or one for each environment; None goes on with the generators.
            options: as in `IIWorldEnv`, the same for all that reset; ``reset_mask``, a (N,) bool array, names them;
                ``state``, a `State` with one row for each of them, goes on from a kept one.

        Raises:
            OptionError: an option that does not fit. The episodes go on then, with the generators where they were.
            gymnasium.error.Error, ValueError: seeds that are no whole numbers >= 0, or too few; likewise.
        """
        if options is not None and not isinstance(options, Mapping):
            raise OptionError(f"reset options of type {type(options).__name__}", "a dict", "give names and values")
        chosen = dict(options or {})
        mask = reset_mask(chosen.pop("reset_mask"), self.num_envs) if "reset_mask" in chosen else None
        rows = list(range(self.num_envs)) if mask is None else np.flatnonzero(mask).tolist()
        return self.reset_rows(rows, seeds_of(seed, self.num_envs), [chosen] * len(rows))

    def reset_rows(
        self, rows: Sequence[int], seeds: Sequence[int | None], options: Sequence[Mapping[str, Any] | None]
    ) -> tuple[Any, dict[str, Any]]:
        """Begin new episodes in some environments, each with options of its own.

        Args:
            rows: (R,) which environments.
            seeds: (N,) for all environments; used only for those that reset.
            options: (R,) for each that resets.

        Returns:
            Observations of all, infos of those that were reset.

        Raises:
            OptionError, DataError: as `Episodes.begin`; all episodes go on where they were.
        """
        self._check_open()
        self.episodes.check_rows(rows)
        # Kept only once everything has gone well: after an error the episodes go on with the generators they had.
        generators, numbers = list(self._rngs), list(self._rng_seeds)
        for row in rows:
            if seeds[row] is not None:
                generators[row], numbers[row] = seeding.np_random(seeds[row])
        infos = self.episodes.set_states(rows, self.episodes.begin([generators[row] for row in rows], options))
        self._rngs, self._rng_seeds = generators, numbers
        return self.episodes.observe(), merge({}, infos, rows, self.num_envs)

    def set_generators(self, generators: Sequence[np.random.Generator], seeds: Sequence[int]) -> None:
        """Give every environment a generator, and the seed that it began with: to go on with a saved run."""
        self._rngs, self._rng_seeds = list(generators), list(seeds)

    def step(self, actions: Any) -> Step:
        """Drive one step of 0.5 s in every environment.

        Args:
            actions: (N, ...), an element of ``action_space``.

        Returns:
            Observations, (N,) float64 rewards, (N,) bool terminated, (N,) bool truncated, infos.

        Raises:
            DataError: an episode that was due to begin cannot be read. No environment has taken the step, in any
                autoreset mode: the same call works once the file is back.
        """
        self._check_open()
        if not self.episodes.begun:
            raise ResetNeeded("Cannot call step() before reset()")
        with self.episodes.restore_on_error():
            return self._step(actions)

    def render(self) -> tuple[NDArray[Any], ...] | None:
        """One picture for each environment, as in `IIWorldEnv.render`; None without a render mode."""
        self._check_open()
        if self.render_mode is None:
            logging.getLogger(__name__).warning(
                'render() does nothing: make the environments with render_mode="rgb_array"'
            )
            return None
        return tuple(self.episodes.picture(i) for i in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        """Drop all episodes."""
        self.episodes.clear()

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method, or read an attribute, of every `SubEnvironment`."""
        found = [getattr(env, name) for env in self.envs]
        return tuple(value(*args, **kwargs) if callable(value) else value for value in found)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Read an attribute of every `SubEnvironment`."""
        return tuple(getattr(env, name) for env in self.envs)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of every `SubEnvironment`: one value for each in a list or tuple, or one for all.

        Raises:
            ValueError: a list of another length.
        """
        if not isinstance(values, (list, tuple)):
            values = [values] * self.num_envs
        if len(values) != self.num_envs:
            raise ValueError(f"{len(values)} values of {name} for {self.num_envs} environments")
        for env, value in zip(self.envs, values, strict=True):
            setattr(env, name, value)

    def _step(self, actions: Any) -> Step:
        """Drive the running environments, and begin the episodes that the autoreset mode wants now."""
        ended = self.episodes.ends > 0
        if ended.any() and self.autoreset_mode is not AutoresetMode.NEXT_STEP:
            raise ResetNeeded(
                f"The episodes of environment {', '.join(map(str, np.flatnonzero(ended)))} have ended: "
                'call reset(options={"reset_mask": mask}) first'
            )
        tensor = self.episodes.actions(actions, ignored=ended)
        rows, running = np.flatnonzero(ended).tolist(), np.flatnonzero(~ended).tolist()
        states = self._begin(rows) if rows else None
        reward, columns = np.zeros(self.num_envs), Columns()
        terminated, truncated = np.zeros((2, self.num_envs), np.bool_)
        if running:
            result = self.episodes.step(tensor)
            reward, columns = np.where(ended, 0.0, result.reward), result.infos
            terminated, truncated = result.terminated & ~ended, result.truncated & ~ended
        infos: dict[str, Any] = {}
        over = np.flatnonzero(terminated | truncated).tolist()
        if over and self.autoreset_mode is AutoresetMode.SAME_STEP:
            rows, running = over, np.flatnonzero(~(terminated | truncated)).tolist()
            last = {"final_obs": split_rows(self.episodes.observe(rows), len(rows)), "final_info": take(columns, rows)}
            merge(infos, last, rows, self.num_envs)
            states = self._begin(rows)
        merge(infos, take(columns, running), running, self.num_envs)
        if states is not None:
            merge(infos, self.episodes.set_states(rows, states), rows, self.num_envs)
        return self.episodes.observe(), reward, terminated, truncated, infos

    def _begin(self, rows: Sequence[int]) -> State:
        return self.episodes.begin([self._rngs[row] for row in rows], [None] * len(rows))

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("Cannot go on after close(): make the environments again")


class SubEnvironment:
    """One environment of a batch as `get_attr`, `set_attr` and `call` reach it. It cannot be stepped alone.

    Attributes that are set here stay with it. What it reads of the batch cannot be set: ``state`` (a batch of one),
    ``occupancy``, ``np_random`` and ``np_random_seed`` are its own; ``engine``, ``scenes``, ``render_mode``, ``spec``
    are the batch's.
    """

    def __init__(self, owner: IIWorldVectorEnv, row: int) -> None:
        self._owner, self._row = owner, row
        self.action_space, self.observation_space = owner.single_action_space, owner.single_observation_space
        self.metadata, self.unwrapped = dict(IIWorldEnv.metadata), self

    def render(self) -> NDArray[Any] | None:
        """Its picture, or None without a render mode."""
        return None if self._owner.render_mode is None else self._owner.episodes.picture(self._row)

    def get_wrapper_attr(self, name: str) -> Any:
        """An attribute, as of a wrapped environment."""
        return getattr(self, name)

    @property
    def state(self) -> State:
        """See `IIWorldEnv.state`."""
        return self._owner.state.index(self._row)

    @property
    def occupancy(self) -> NDArray[Any]:
        """See `IIWorldEnv.occupancy`."""
        return self._owner.episodes.occupancy(self._row)

    @property
    def np_random(self) -> np.random.Generator:
        """Its generator."""
        return self._owner.np_random[self._row]

    @property
    def np_random_seed(self) -> int:
        """The seed of its generator."""
        return self._owner.np_random_seed[self._row]

    @property
    def engine(self) -> Engine:
        """The batch's engine."""
        return self._owner.engine

    @property
    def scenes(self) -> Scenes:
        """The batch's scenes."""
        return self._owner.scenes

    @property
    def render_mode(self) -> str | None:
        """The batch's render mode."""
        return self._owner.render_mode

    @property
    def spec(self) -> EnvSpec | None:
        """How the batch was made."""
        return self._owner.spec
