"""Whatever comes in, a named error or a proper step comes out; and after an error the episode knows nothing of it.

After each attack that was refused the environment takes the step, to the bit, that it would have taken without it.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from same import assert_exact

import ii_world_env
from ii_world_env.engine import State
from ii_world_env.env import IIWorldEnv
from ii_world_env.sb3_vec_env import IIWorldVecEnv
from ii_world_env.vector_env import IIWorldVectorEnv
from world_model.core.errors import ActionError, IIWorldError, OptionError

few = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,  # the same examples on every machine
    database=None,
    suppress_health_check=list(HealthCheck),
)
MODES = ("kinematic", "waypoints", "meta")
COUNT = 3
REFUSED = (IIWorldError, gym.error.Error, ValueError, TypeError)
"""What the vector environment documents: `reset_mask` fails as in Gymnasium's own batches."""

HUGE = st.sampled_from([1e30, -1e300, 10**400, -(2**70), float("nan"), float("inf"), -float("inf")])
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    HUGE,
    st.complex_numbers(),
    st.text(max_size=4),
    st.binary(max_size=4),
    st.sampled_from(
        [object(), {}, [], (), Fraction(1, 3), np.complex64(1 + 2j), "0.5", "nan", int, np.datetime64("2020")]
    ),
)
DTYPES = ("f2", "f4", "f8", "i1", "u8", "i8", "?", "c8", "U3", "M8[D]", "O")


def floats() -> st.SearchStrategy[float]:
    return st.one_of(st.floats(-1, 1), st.floats(), HUGE.filter(lambda value: isinstance(value, float)))


def hostile_actions(shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    """Good and bad values in the right shape, all types in all shapes, tensors, lists and things."""
    right = npst.arrays(np.float64, shape, elements=floats())
    shapes = st.one_of(st.just(shape), npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    typed = st.one_of(*(npst.arrays(dtype, shapes) for dtype in DTYPES[:-1]))
    tensors = right.map(torch.from_numpy)
    with_gradient = right.map(lambda value: torch.tensor(value, dtype=torch.float32, requires_grad=True))
    halves = right.map(lambda value: torch.from_numpy(value).bfloat16())
    lists = st.recursive(ODD, lambda inner: st.lists(inner, max_size=4), max_leaves=8)
    return st.one_of(right, typed, tensors, with_gradient, halves, lists, right.map(lambda value: value.tolist()))


def options_of(keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Dicts with known and unknown keys and any values, and things that are no dicts."""
    names = st.sampled_from(["scene", "frame", "command", "speed_mps", "variation", "state", "weather", 3, None])
    near = st.sampled_from(["street-0", 0, -1, 4, 10**9, "left", 2, 3.5, 19.0, -0.0, np.int64(5), np.float32(2)])
    variation = st.dictionaries(
        st.sampled_from(["speed_mps", "command", "action_noise", "drop_agents", "fog"]),
        st.one_of(near, ODD),
        max_size=2,
    )
    values = st.one_of(near, ODD, variation)
    return st.one_of(st.dictionaries(st.one_of(names, keys), values, min_size=1, max_size=2), ODD)


SEEDS = st.one_of(st.integers(-5, 2**80), ODD)


def settings_of(data: Path, **options: Any) -> dict[str, Any]:
    return {"world": "small_worlds:Learned", "data_root": str(data), "device": "cpu", "horizon": 6, **options}


def single(data: Path, **options: Any) -> IIWorldEnv:
    return IIWorldEnv(**settings_of(data, **options))


def batch(data: Path, **options: Any) -> IIWorldVectorEnv:
    envs = gym.make_vec(ii_world_env.ENV_ID, num_envs=COUNT, **settings_of(data, **options))
    assert isinstance(envs, IIWorldVectorEnv)
    return envs


def harmless(env: Any) -> Any:
    return np.zeros(env.action_space.shape, env.action_space.dtype)


class Subject:
    """An environment under attack, put back to the same moment before each; and what a step from there gives."""

    def __init__(self, env: IIWorldEnv | IIWorldVectorEnv) -> None:
        self.env = env
        env.reset(seed=1)
        self.kept, self.generators = env.state, self._generators()
        self.expected = env.step(harmless(env))
        if isinstance(env, IIWorldVectorEnv):
            assert not env.episodes.ends.any(), "nothing is drawn in this step"

    def begin(self) -> Any:
        self.env.reset(options={"state": self.kept})
        self.generators = self._generators()
        return self.env

    def assert_undisturbed(self) -> None:
        """The same state, generators and seeds, and the same step from here."""
        assert self.env.state is self.kept and self._generators() == self.generators
        assert not self.env.episodes.ends.any()
        step = self.env.step(harmless(self.env))
        assert_exact(step[0], self.expected[0])
        for ours, before in zip(step[1:4], self.expected[1:4], strict=True):
            assert np.array_equal(ours, before)

    def _generators(self) -> list[Any]:
        rngs = [self.env.np_random] if isinstance(self.env, IIWorldEnv) else list(self.env.np_random)
        return [self.env.np_random_seed, *(rng.bit_generator.state for rng in rngs)]


@pytest.fixture(scope="module", params=MODES)
def driver(request: pytest.FixtureRequest, tiny_data: Path) -> Subject:
    return Subject(single(tiny_data, action=request.param))


@pytest.fixture(scope="module", params=["NextStep", "SameStep", "Disabled"])
def drivers(request: pytest.FixtureRequest, tiny_data: Path) -> Subject:
    return Subject(batch(tiny_data, autoreset_mode=request.param))


@few
@given(data=st.data())
def test_actions(driver: Subject, data: st.DataObject) -> None:
    env = driver.begin()
    try:
        seen, reward, *_ = env.step(data.draw(hostile_actions(env.action_space.shape)))
    except ActionError as error:
        assert "Expected" in str(error)
        driver.assert_undisturbed()
    else:
        assert env.observation_space.contains(seen) and np.isfinite(reward)


@few
@given(data=st.data())
def test_actions_of_a_batch(drivers: Subject, data: st.DataObject) -> None:
    envs = drivers.begin()
    try:
        seen, reward, *_ = envs.step(data.draw(hostile_actions(envs.action_space.shape)))
    except ActionError as error:
        assert "Expected" in str(error)
        drivers.assert_undisturbed()
    else:
        assert envs.observation_space.contains(seen) and np.isfinite(reward).all()


@few
@given(options=options_of(ODD.filter(lambda key: key.__hash__ is not None)), seed=st.one_of(st.none(), SEEDS))
def test_options_and_seeds(driver: Subject, options: Any, seed: Any) -> None:
    env = driver.begin()
    try:
        seen, _ = env.reset(seed=seed, options=options)
    except (OptionError, gym.error.Error):
        driver.assert_undisturbed()
    else:
        assert env.observation_space.contains(seen) and env.state.batch == 1


MASKS = st.one_of(ODD, npst.arrays(np.bool_, st.integers(0, 4)), npst.arrays(np.bool_, COUNT))


@few
@given(
    options=st.one_of(options_of(st.just("weather")), st.fixed_dictionaries({"reset_mask": MASKS})),
    seed=st.one_of(SEEDS, st.lists(SEEDS, min_size=2, max_size=4)),
)
def test_options_and_seeds_of_a_batch(drivers: Subject, options: Any, seed: Any) -> None:
    envs = drivers.begin()
    try:
        seen, _ = envs.reset(seed=seed, options=options)
    except REFUSED:
        drivers.assert_undisturbed()
    else:
        assert envs.observation_space.contains(seen) and envs.state.batch == COUNT


def test_an_error_after_the_draw_gives_the_draw_back(tiny_data: Path) -> None:
    """The scene is drawn before its frame is found wrong, and all seeds before one of them is."""
    one, many = Subject(single(tiny_data)), Subject(batch(tiny_data))
    for subject in (one, many):
        for options in ({"frame": 10**6}, {"variation": {"drop_agents": 0.5}}):
            for seed in (None, 9):
                env = subject.begin()
                with pytest.raises(OptionError):
                    env.reset(seed=seed, options=options)
                subject.assert_undisturbed()
    envs = many.begin()
    with pytest.raises(gym.error.Error, match=r"[Ss]eed"):
        envs.reset(seed=[8, 9, -1])
    many.assert_undisturbed()


MODES_AND_NAMES = ("world", "split", "dataset", "action", "observation", "reward", "device", "dtype", "render_mode")
KEYWORDS = (*MODES_AND_NAMES, "checkpoint", "index", "data_root", "horizon", "pessimism", "least_trust", "weather")


@few
@given(keyword=st.sampled_from(KEYWORDS), value=ODD.filter(lambda value: not callable(value)))
def test_keywords(tiny_data: Path, keyword: str, value: Any) -> None:
    """A value that fits makes an environment, any other a named error."""
    if keyword in ("index", "data_root") and value is None:
        return  # the demo scenes, on another grid
    try:
        env = IIWorldEnv(**settings_of(tiny_data, **{keyword: value}))
    except (IIWorldError, gym.error.Error) as error:
        assert str(error)
    else:
        assert getattr(env.episodes.config, keyword, value) == value


@pytest.mark.parametrize("keyword", ["world", "reward"])
@pytest.mark.parametrize("path", [":", ":name", ".module:name", "street:no_such", "no such module:name", "os:sep"])
def test_import_paths(tiny_data: Path, keyword: str, path: str) -> None:
    with pytest.raises(OptionError, match=keyword):
        IIWorldEnv(**settings_of(tiny_data, **{keyword: path}))


def test_states_of_other_environments_are_refused(tiny_data: Path, small_data: Path) -> None:
    subject = Subject(single(tiny_data))
    others = [
        single(tiny_data, horizon=4),
        single(tiny_data, action="delta"),
        single(small_data, world="small_worlds:Transport"),
    ]
    strangers = []
    for other in others:
        other.reset(seed=0)
        strangers.append(other.state)
    kept = subject.kept
    strangers += [replace(kept, pose=kept.pose.double()), replace(kept, commands=kept.commands[:, :2])]
    for stranger in (*strangers, State, kept.world):
        env = subject.begin()
        with pytest.raises(OptionError, match="state"):
            env.reset(options={"state": stranger})
        subject.assert_undisturbed()


@few
@given(data=st.data())
def test_the_engine(driver: Subject, data: st.DataObject) -> None:
    engine, state = driver.env.engine, driver.kept.expand(2)
    shape = engine.action_mode.shape
    call = data.draw(st.sampled_from([engine.step, engine.rollout]))
    try:
        call(state, data.draw(st.one_of(hostile_actions((2, *shape)), hostile_actions((2, 1, *shape)))))
    except ActionError as error:
        assert "Expected" in str(error)


def test_out_of_turn(tiny_data: Path) -> None:
    """Before the first reset, in the middle, after the end, after closing, and closing again."""
    env = single(tiny_data, horizon=2)
    with pytest.raises(ResetNeeded):
        env.step(harmless(env))
    env.close()
    env.reset(seed=0)
    env.step(harmless(env))
    _, info = env.reset(seed=0)
    assert info["time_s"] == 0 and info["end"] is None
    ends = [env.step(harmless(env))[3] for _ in range(2)]
    assert ends == [False, True]
    ended = env.state
    for _ in range(2):
        with pytest.raises(ResetNeeded, match="ended"):
            env.step(harmless(env))
        assert env.state is ended
    for _ in range(2):
        env.close()
        for call in (lambda: env.step(harmless(env)), lambda: env.state, lambda: env.occupancy):
            with pytest.raises(ResetNeeded):
                call()
    env.reset()
    env.step(harmless(env))


def test_out_of_turn_for_sb3(tiny_data: Path) -> None:
    venv = IIWorldVecEnv(2, **settings_of(tiny_data))
    venv.reset()
    with pytest.raises(ActionError):
        venv.step_wait()  # nothing was asked for
    venv.vector.episodes.clear()
    with pytest.raises(ResetNeeded):
        venv.step(np.zeros((2, 2)))
    venv.reset()
    venv.step(np.zeros((2, 2)))
    venv.close()
    venv.close()
    with pytest.raises(gym.error.ClosedEnvironmentError):
        venv.step(np.zeros((2, 2)))
