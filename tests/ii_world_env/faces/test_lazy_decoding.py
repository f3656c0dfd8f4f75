"""The occupancy is decoded when something needs it, and not before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from same import equal
from small_worlds import TINY, Learned
from street import street_clips
from torch import Tensor

import ii_world_env
from ii_world_env.engine import CAUSES, Engine, EngineConfig, State
from ii_world_env.task.outcome import Outcome
from ii_world_env.task.rewards import reward_needs_occupancy
from ii_world_env.task.trust import Pessimistic
from world_model.core.errors import ConfigError, DataError, OptionError
from world_model.worlds import TransportWorld, WorldState


class Counting(Learned):
    """Counts how often it is asked for its occupancy."""

    asked = 0

    def occupancy(self, state: WorldState) -> Tensor:
        type(self).asked += 1
        return super().occupancy(state)


def metres(outcome: Outcome) -> dict[str, Tensor]:
    """A reward that reads nothing but the route."""
    return {"metres": outcome.progress_m}


metres.needs_labels = False  # type: ignore[attr-defined]


@pytest.fixture
def asked() -> Iterator[type[Counting]]:
    Counting.asked = 0
    yield Counting


def options(data: Path, **others: Any) -> dict[str, Any]:
    settings = {"world": f"{__name__}:Counting", "data_root": str(data), "device": "cpu", "horizon": 3}
    return {**settings, "observation": "tokens", "reward": metres, **others}


def single(data: Path, **others: Any) -> gym.Env[Any, Any]:
    return gym.make(ii_world_env.ENV_ID, **options(data, **others))


def drive(env: gym.Env[Any, Any], steps: int) -> list[dict[str, Any]]:
    env.reset(seed=0)
    return [env.step(np.zeros(2, np.float32))[-1] for _ in range(steps)]


def test_nothing_is_decoded_for_tokens_and_a_reward_that_needs_no_labels(
    tiny_data: Path, asked: type[Counting]
) -> None:
    infos = drive(single(tiny_data), 3)
    assert asked.asked == 0
    assert "time_to_collision_s" not in infos[0] and infos[-1]["end"] == "horizon"


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_nor_in_a_batch_nor_when_episodes_begin_anew(tiny_data: Path, asked: type[Counting], mode: str) -> None:
    envs = gym.make_vec(ii_world_env.ENV_ID, num_envs=2, autoreset_mode=mode, **options(tiny_data))
    envs.reset(seed=0)
    ends = [envs.step(np.zeros((2, 2), np.float32))[3].any() for _ in range(8)]
    assert sum(ends) == 2 and asked.asked == 0
    assert envs.unwrapped.envs[1].occupancy.shape == TINY.shape  # type: ignore[attr-defined]
    assert envs.unwrapped.occupancy.shape == (2, *TINY.shape) and asked.asked == 1  # type: ignore[attr-defined]


def test_who_asks_gets_the_occupancy_and_only_the_first_one_pays(tiny_data: Path, asked: type[Counting]) -> None:
    env: Any = single(tiny_data).unwrapped
    drive(env, 2)
    lazy = env.occupancy
    assert asked.asked == 1 and (env.occupancy == lazy).all() and asked.asked == 1
    eager: Any = single(tiny_data, observation="occupancy", reward="default").unwrapped
    drive(eager, 2)
    assert (eager.occupancy == lazy).all() and not np.shares_memory(env.occupancy, lazy)


@pytest.mark.parametrize(
    ("others", "each"),
    [({"reward": "default"}, 1), ({"observation": "bev"}, 1), ({"reward": "pdms", "observation": "occupancy"}, 1)],
)
def test_otherwise_it_is_decoded_once_a_step(
    tiny_data: Path, asked: type[Counting], others: dict[str, Any], each: int
) -> None:
    env = single(tiny_data, **others)
    env.reset(seed=0)
    for step in range(3):
        assert asked.asked == (1 + step) * each
        env.step(np.zeros(2, np.float32))
        assert env.unwrapped.occupancy.shape == TINY.shape  # type: ignore[attr-defined]


def test_the_reward_decides_what_ends_an_episode_the_observation_does_not() -> None:
    clips = street_clips(TINY, speed_mps=2.0, cars_x_m=(6.0,))
    for reward, needs_occupancy, expected in (
        (None, None, "collision"),
        (metres, None, "destination"),
        (metres, True, "collision"),
    ):
        runner = Engine(TransportWorld(TINY), EngineConfig(horizon=8), reward, needs_occupancy=needs_occupancy)
        rolled = runner.rollout(runner.reset(clips), torch.tensor([[[0.5, 0.0]] * 4]))
        assert CAUSES[int(rolled.cause)] == expected
        assert (rolled.state.decoded is None) == (expected == "destination")


def test_a_reward_that_asks_for_more_than_it_said_is_told() -> None:
    def liar(outcome: Outcome) -> dict[str, Tensor]:
        return {"collision": -outcome.collision.float()}

    liar.needs_labels = False  # type: ignore[attr-defined]
    runner = Engine(TransportWorld(TINY), reward=liar)
    with pytest.raises(ConfigError, match=r"needs_labels = False(.|\n)*take"):
        runner.step(runner.reset(street_clips(TINY, speed_mps=2.0)), torch.zeros(1, 2))
    liar.needs_labels = "no"  # type: ignore[attr-defined]
    with pytest.raises(OptionError, match="needs_labels='no'"):
        Engine(TransportWorld(TINY), reward=liar)


def test_pessimism_needs_labels_where_the_other_terms_do() -> None:
    assert not reward_needs_occupancy(Pessimistic(reward=metres, pessimism=0.5))
    assert reward_needs_occupancy(Pessimistic(reward=lambda outcome: {}, pessimism=0.5))


class TestStates:
    """States that were never decoded are states like others."""

    ACTIONS = torch.tensor([[[0.5, 0.1], [0.2, -0.1]], [[-0.3, 0.0], [0.1, 0.2]]])

    @pytest.fixture
    def runner(self) -> Engine:
        return Engine(Learned(None, torch.device("cpu"), TINY), EngineConfig(horizon=6), metres)

    @pytest.fixture
    def state(self, runner: Engine) -> State:
        begin = runner.reset(street_clips(TINY, speed_mps=2.0, batch=2), torch.tensor([1.0, 3.0]))
        return runner.step(begin, self.ACTIONS[0])[0]

    def test_labels_of_an_undecoded_state_say_where_they_are(self, runner: Engine, state: State) -> None:
        with pytest.raises(ConfigError, match=r"engine\.occupancy\(state\)"):
            state.labels  # noqa: B018
        assert torch.equal(runner.occupancy(state), runner.with_occupancy(state).labels)
        assert state.decoded is None, "the state stays as it was"

    def test_copies_and_files_go_on_to_the_bit(self, runner: Engine, state: State, tmp_path: Path) -> None:
        state.save(tmp_path / "lazy")
        runner.with_occupancy(state).save(tmp_path / "eager")
        wholes = [state, state.clone(), state.expand(2).index([0, 2]), runner.with_occupancy(state)]
        wholes += [State.load(tmp_path / name, like=like) for name in ("lazy", "eager") for like in wholes[::3]]
        assert [whole.decoded is None for whole in wholes] == [True, True, True, False, True, True, False, False]
        after = [runner.with_occupancy(runner.step(whole, self.ACTIONS[1])[0]) for whole in wholes]
        for other in after[1:]:
            assert equal(other, after[0])

    def test_a_file_with_a_foreign_occupancy_is_refused(self, runner: Engine, state: State, tmp_path: Path) -> None:
        for wrong in (torch.zeros(2, 3, 3, 16, dtype=torch.uint8), torch.zeros(2, *TINY.shape)):
            replace(state, decoded=wrong).save(tmp_path / "wrong")
            with pytest.raises(DataError, match="decoded"):
                State.load(tmp_path / "wrong", like=state)

    def test_put_keeps_the_occupancy_where_both_have_one(self, runner: Engine, state: State) -> None:
        seen = runner.with_occupancy(state)
        assert seen.put([0], state.index(1)).decoded is None and state.put([0], seen.index(1)).decoded is None
        mixed = seen.put([0], seen.index(1))
        assert torch.equal(mixed.labels[0], seen.labels[1]) and torch.equal(mixed.labels[1], seen.labels[1])

    def test_an_engine_that_looks_takes_it_up(self, runner: Engine, state: State) -> None:
        looking = Engine(runner.world, runner.config)
        lazy, eager = (looking.step(begin, self.ACTIONS[1]) for begin in (state, runner.with_occupancy(state)))
        assert equal(lazy, eager)

    def test_so_does_an_environment(self, tiny_data: Path) -> None:
        """A state kept in one that decodes nothing goes on in one that does, and the other way round."""
        lazy, eager = single(tiny_data), single(tiny_data, reward="default")
        drive(lazy, 1), drive(eager, 1)
        for env, other in ((lazy, eager), (eager, lazy)):
            kept = other.unwrapped.state  # type: ignore[attr-defined]
            observation, _ = env.reset(options={"state": kept})
            assert (observation["tokens"] == kept.world.token[0].numpy()).all()
            env.step(np.zeros(2, np.float32))
