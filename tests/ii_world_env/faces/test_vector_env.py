"""The native vector environment against Gymnasium's own `SyncVectorEnv` of single environments, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from same import FLOAT_TOLERANCE, assert_exact, assert_same

import ii_world_env
from ii_world_env.env import IIWorldEnv
from ii_world_env.vector_env import IIWorldVectorEnv
from world_model.core.errors import ActionError, ConfigError, OptionError


def make(data: Path, count: int = 3, **options: Any) -> IIWorldVectorEnv:
    settings = {"world": "small_worlds:Transport", "data_root": str(data), "device": "cpu", "horizon": 3, **options}
    envs = gym.make_vec(ii_world_env.ENV_ID, num_envs=count, **settings)
    assert isinstance(envs, IIWorldVectorEnv)
    return envs


def singles(data: Path, count: int = 3, autoreset_mode: str = "NextStep", **options: Any) -> SyncVectorEnv:
    """The same environments one by one, batched by Gymnasium."""
    settings = {"world": "small_worlds:Transport", "data_root": str(data), "device": "cpu", "horizon": 3, **options}
    env = gym.make_vec(
        ii_world_env.ENV_ID,
        num_envs=count,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": autoreset_mode},
        **settings,
    )
    assert isinstance(env, SyncVectorEnv)
    return env


def policy(rng: np.random.Generator, count: int) -> np.ndarray:
    """Some straight on, some into the sidewalk, so that episodes end at different times for different reasons."""
    action = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
    action[0] = (0.1, 0.0)
    return action


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("observation", ["bev", "occupancy"])
def test_equals_gymnasiums_batch_of_singles(small_data: Path, mode: str, observation: str) -> None:
    options = {"observation": observation, "horizon": 3 if observation == "bev" else 2}
    ours = make(small_data, autoreset_mode=mode, **options)
    theirs = singles(small_data, autoreset_mode=mode, **options)
    assert ours.metadata == theirs.metadata and ours.metadata["autoreset_mode"] is AutoresetMode(mode)
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    assert_same(ours.reset(seed=5), theirs.reset(seed=5), "reset")
    rng, ends, staggered = np.random.default_rng(0), set(), False
    for step in range(12 if observation == "bev" else 4):
        action = policy(rng, 3)
        a, b = ours.step(action), theirs.step(action)
        assert_same(a, b, f"step {step}")
        assert ours.observation_space.contains(a[0])
        done = a[2] | a[3]
        staggered |= bool(done.any() and not done.all())
        ends |= {str(end) for end in a[4].get("final_info", a[4]).get("end", ()) if end}
    assert "horizon" in ends
    assert observation == "occupancy" or ("off_road" in ends and staggered), "the interesting cases have come up"


def test_disabled_autoreset_equals_gymnasiums(small_data: Path) -> None:
    ours, theirs = (make_one(small_data, autoreset_mode="Disabled") for make_one in (make, singles))
    assert_same(ours.reset(seed=[3, 1, 2]), theirs.reset(seed=[3, 1, 2]))
    rng = np.random.default_rng(1)
    for step in range(10):
        action = policy(rng, 3)
        a, b = ours.step(action), theirs.step(action)
        assert_same(a, b, f"step {step}")
        done = a[2] | a[3]
        if done.any():
            options = [{"reset_mask": done, "scene": "street-1"} for _ in range(2)]
            a2, b2 = ours.reset(options=options[0]), theirs.reset(options=options[1])
            assert_same(a2, b2, f"reset after {step}")
            assert "reset_mask" in options[0], "the caller's options stay as they were"


def test_a_mask_resets_in_every_mode_and_in_the_middle(clear_data: Path) -> None:
    for mode in ("NextStep", "SameStep", "Disabled"):
        ours, theirs = (make_one(clear_data, autoreset_mode=mode, horizon=6) for make_one in (make, singles))
        mask = np.array([False, True, False])
        assert_same(ours.reset(seed=1), theirs.reset(seed=1))
        action = np.array([[-0.4, 0.0], [-0.3, 0.02], [-0.5, -0.01]], np.float32)
        ours.step(action), theirs.step(action)
        a = ours.reset(seed=[7, 8, 9], options={"reset_mask": mask})
        assert_same(a, theirs.reset(seed=[7, 8, 9], options={"reset_mask": mask.copy()}))
        for _ in range(3):
            assert_same(ours.step(action), theirs.step(action), mode)


def test_time_limit_of_make_vec_equals_the_wrapper(small_data: Path) -> None:
    """`gym.make_vec(..., max_episode_steps=2)` truncates as the `TimeLimit` around each single environment does."""
    options = {"horizon": 8, "max_episode_steps": 2}
    ours, theirs = make(small_data, **options), singles(small_data, **options)
    assert_same(ours.reset(seed=0), theirs.reset(seed=0))
    ends = []
    for _ in range(6):
        action = np.zeros((3, 2), np.float32)
        a, b = ours.step(action), theirs.step(action)
        ends += [(ours, theirs) for ours, theirs in zip(a[4]["end"], b[4]["end"], strict=True) if ours]
        a[4]["end"] = b[4]["end"]
        assert_same(a, b)
    # The wrapper has no word for it; the native environment names the cause.
    assert ("time_limit", None) in ends and all(ours in ("time_limit", theirs) for ours, theirs in ends)


def test_episodes_do_not_depend_on_the_place_in_the_batch(small_data: Path) -> None:
    straight, turned = make(small_data), make(small_data)
    seeds, order = [11, 12, 13], [2, 0, 1]
    a, _ = straight.reset(seed=seeds)
    b, _ = turned.reset(seed=[seeds[i] for i in order])
    rng = np.random.default_rng(3)
    for step in range(8):
        assert_same({k: v[order] for k, v in a.items()}, b, f"step {step}")
        action = policy(rng, 3)
        a, reward, *_ = straight.step(action)
        b, turned_reward, *_ = turned.step(action[order])
        assert_same(reward[order], turned_reward)


def test_seeds_are_lists_numbers_or_kept_generators(small_data: Path) -> None:
    envs = make(small_data)
    first = envs.reset(seed=4)[1]
    assert envs.np_random_seed == (4, 5, 6) and len(envs.np_random) == 3
    assert_same(first, envs.reset(seed=[4, 5, 6])[1])
    assert_same(envs.reset()[1]["frame"], envs_again(small_data, 4)["frame"])
    envs.reset(seed=[None, 7, None])
    assert envs.np_random_seed == (4, 7, 6)
    for wrong in ([1, 2], [1, 2, 3, 4]):
        with pytest.raises(ValueError, match="num_envs=3"):
            envs.reset(seed=wrong)


def envs_again(data: Path, seed: int) -> dict[str, Any]:
    """Infos of the second episode after a seed."""
    envs = singles(data)
    envs.reset(seed=seed)
    return envs.reset()[1]


def test_what_is_returned_is_never_touched_again(small_data: Path) -> None:
    envs = make(small_data, observation="occupancy", autoreset_mode="SameStep", horizon=1)
    kept = [envs.reset(seed=0)[0]]
    copies = [kept[0].copy()]
    for _ in range(2):
        out = envs.step(np.zeros((3, 2), np.float32))
        kept += [out[0], *out[4]["final_obs"]]
        copies += [out[0].copy(), *(last.copy() for last in out[4]["final_obs"])]
        out[0][:] = 3
        kept[-4] = copies[-4]
    assert all(np.array_equal(a, b) for a, b in zip(kept, copies, strict=True))
    assert envs.occupancy.max() == 17, "what callers do to an observation does not reach the state"


def test_one_forward_per_step_and_resets_encode_only_what_resets(
    small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    envs = make(small_data, count=4)
    world, calls = envs.engine.world, []
    step, reset = world.step, world.reset
    monkeypatch.setattr(world, "step", lambda state, *a: (calls.append(("step", len(a[0]))), step(state, *a))[1])
    monkeypatch.setattr(world, "reset", lambda clips: (calls.append(("reset", len(clips.frame))), reset(clips))[1])
    envs.reset(seed=0)
    assert calls == [("reset", 4)]
    action = np.zeros((4, 2), np.float32)
    action[1:3] = (1.0, 1.0)  # off the road
    ended = np.zeros(4, np.bool_)
    for _ in range(8):
        calls.clear()
        *_, terminated, truncated, _ = envs.step(action)
        resets = [("reset", int(ended.sum()))] if ended.any() else []
        assert sorted(calls) == sorted([*resets, *([] if ended.all() else [("step", 4)])])
        ended = terminated | truncated


def test_bad_actions_name_the_environment_and_change_nothing(small_data: Path) -> None:
    envs = make(small_data)
    envs.reset(seed=0)
    before = envs.state
    action = np.zeros((3, 2), np.float32)
    action[1, 0] = np.nan
    with pytest.raises(ActionError, match="environment 1"):
        envs.step(action)
    for wrong in (np.zeros(2), np.zeros((2, 2)), np.zeros((3, 3)), "left", None, [[0, 0], [0, 0], [0]]):
        with pytest.raises(ActionError, match="Expected"):
            envs.step(wrong)
    assert envs.state is before
    envs.step(np.zeros((3, 2)))


def test_the_action_of_an_environment_that_resets_does_not_matter(small_data: Path) -> None:
    envs = make(small_data, horizon=1)
    envs.reset(seed=0)
    assert envs.step(np.zeros((3, 2)))[3].all()
    _, reward, terminated, truncated, infos = envs.step(np.full((3, 2), np.nan))
    assert not reward.any() and not terminated.any() and not truncated.any()
    assert not any(value.any() for name, value in infos["reward_terms"].items() if not name.startswith("_"))


def test_stepping_out_of_turn(small_data: Path) -> None:
    envs = make(small_data, autoreset_mode="Disabled", horizon=1)
    with pytest.raises(ResetNeeded, match="before reset"):
        envs.step(np.zeros((3, 2)))
    with pytest.raises(ResetNeeded, match="all of them"):
        envs.reset(options={"reset_mask": np.array([True, False, False])})
    envs.reset(seed=0)
    envs.step(np.zeros((3, 2)))
    envs.reset(options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(ResetNeeded, match="environment 1 have ended"):
        envs.step(np.zeros((3, 2)))
    envs.close()
    envs.close()
    for call in (lambda: envs.step(np.zeros((3, 2))), envs.reset, envs.render):
        with pytest.raises(ClosedEnvironmentError):
            call()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"reset_mask": [True, False, False]}, TypeError, "numpy array"),
        ({"reset_mask": np.array([1, 0, 0])}, TypeError, "dtype bool"),
        ({"reset_mask": np.ones(2, np.bool_)}, ValueError, "shape"),
        ({"reset_mask": np.zeros(3, np.bool_)}, ValueError, "at least one"),
        ({"weather": "rain"}, OptionError, "weather"),
        ({"state": 3}, OptionError, "State of 3"),
    ],
)
def test_bad_options_leave_the_episodes_running(
    small_data: Path, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    envs = make(small_data)
    envs.reset(seed=0)
    before = envs.state
    with pytest.raises(error, match=match):
        envs.reset(options=options)
    assert envs.state is before
    envs.step(np.zeros((3, 2)))


def test_episodes_go_on_from_a_kept_state(small_data: Path) -> None:
    envs, single = (
        make(small_data, horizon=4),
        IIWorldEnv(world="small_worlds:Transport", data_root=str(small_data), device="cpu", horizon=4),
    )
    envs.reset(seed=0)
    action = np.array([[0.3, 0.02], [-0.2, 0.0], [0.1, -0.02]], np.float32)
    envs.step(action)
    kept = envs.state
    after = envs.step(action)
    envs.step(action)
    _, infos = envs.reset(options={"state": kept})
    assert infos["time_s"].tolist() == [0.5] * 3
    again = envs.step(action)
    assert_exact(after[0], again[0]), assert_exact(after[1], again[1])
    single.reset(seed=9, options={"state": kept.index(2)})
    observation, reward, *_ = single.step(action[2])
    assert_same(observation, {name: value[2] for name, value in after[0].items()})
    assert reward == pytest.approx(after[1][2], abs=FLOAT_TOLERANCE)
    for wrong in (kept.index([0, 1]), kept.expand(2)):
        with pytest.raises(OptionError, match="State of 3"):
            envs.reset(options={"state": wrong})
    with pytest.raises(OptionError, match="no other option"):
        envs.reset(options={"state": kept, "scene": 0})


def test_an_ended_state_stays_ended(small_data: Path) -> None:
    envs = make(small_data, horizon=1, autoreset_mode="Disabled")
    envs.reset(seed=0)
    envs.step(np.zeros((3, 2)))
    ended = envs.state
    envs.reset()
    envs.reset(options={"state": ended})
    with pytest.raises(ResetNeeded, match="environment 0, 1, 2"):
        envs.step(np.zeros((3, 2)))


def test_pictures_are_one_for_each(small_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    envs, theirs = make(small_data, count=2, render_mode="rgb_array"), singles(small_data, 2, render_mode="rgb_array")
    for each in (envs, theirs):
        each.reset(seed=0)
        each.step(np.zeros((2, 2), np.float32))
    pictures = envs.render()
    assert isinstance(pictures, tuple) and len(pictures) == 2
    for ours, other in zip(pictures, theirs.render(), strict=True):
        assert ours.shape == (430, 960, 3) and (ours != other).mean() < 0.001
    silent = make(small_data, count=2)
    silent.reset(seed=0)
    assert silent.render() is None and "rgb_array" in caplog.text


def test_attributes_of_single_environments(small_data: Path) -> None:
    envs = make(small_data)
    envs.reset(seed=0)
    assert envs.get_attr("render_mode") == (None, None, None) and envs.call("render") == (None, None, None)
    assert [state.batch for state in envs.get_attr("state")] == [1, 1, 1]
    assert envs.call("get_wrapper_attr", "np_random_seed") == envs.np_random_seed
    envs.set_attr("name", ["a", "b", "c"])
    envs.set_attr("level", 2)
    assert envs.get_attr("name") == ("a", "b", "c") and envs.get_attr("level") == (2, 2, 2)
    with pytest.raises(ValueError, match="3 environments"):
        envs.set_attr("name", ["a", "b"])
    with pytest.raises(AttributeError, match="altitude"):
        envs.get_attr("altitude")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"count": 0}, ConfigError),
        ({"count": 2.5}, ConfigError),
        ({"max_episode_steps": 0}, ConfigError),
        ({"autoreset_mode": "sometimes"}, OptionError),
        ({"render_mode": "human"}, OptionError),
        ({"colour": "red"}, OptionError),
    ],
)
def test_bad_arguments_are_named(small_data: Path, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="Expected"):
        make(small_data, **options)


def test_the_spec_is_json_and_makes_the_same_again(small_data: Path) -> None:
    envs = make(small_data, autoreset_mode="SameStep")
    assert envs.spec is not None
    spec = type(envs.spec).from_json(envs.spec.to_json())
    again = gym.make_vec(spec)
    assert isinstance(again, IIWorldVectorEnv) and again.num_envs == 3
    assert again.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
