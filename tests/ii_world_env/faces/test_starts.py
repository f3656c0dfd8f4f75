"""Start states that are kept: the same numbers, in bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from same import assert_exact

import ii_world_env
from ii_world_env.faces.starts import StartStates
from ii_world_env.scenes import Start
from world_model.core.errors import OptionError


def make(data: Path, world: str, **options: Any) -> Any:
    return gym.make_vec(
        ii_world_env.ENV_ID, num_envs=3, world=world, data_root=str(data), device="cpu", horizon=2, **options
    )


def driven(envs: Any, steps: int = 5) -> list[Any]:
    """Two times the same episodes."""
    found: list[Any] = []
    for _ in range(2):
        found.append(envs.reset(seed=4)[0])
        rng = np.random.default_rng(4)
        for _ in range(steps):
            seen, reward, *_ = envs.step(rng.uniform(-0.3, 0.3, (3, 2)).astype(np.float32))
            found += [seen, reward]
    return found


@pytest.mark.parametrize(
    ("world", "observation"),
    [("small_worlds:Learned", "bev"), ("small_worlds:Transport", "traffic"), ("small_worlds:Replay", "state")],
)
def test_kept_starts_change_no_number(tiny_data: Path, small_data: Path, world: str, observation: str) -> None:
    data = tiny_data if world == "small_worlds:Learned" else small_data
    plain, keeping = (make(data, world, observation=observation, kept_mib=mib) for mib in (0, 50))
    for one, other in zip(driven(plain), driven(keeping), strict=True):
        assert_exact(one, other)
    kept = keeping.episodes._starts
    assert len(plain.episodes._starts) == 0 and len(kept) > 0 and 0 < kept.bytes < 50 * 2**20
    engine, calls = keeping.engine, []
    reset, engine.reset = engine.reset, lambda *a, **k: (calls.append(1), reset(*a, **k))[1]
    driven(keeping)
    assert not calls, "all starts are known"


def test_the_simulator_goes_on_from_a_kept_start() -> None:
    env = gym.make(ii_world_env.ENV_ID, world="simulated", device="cpu", observation="state", kept_mib=50)
    days = []
    for _ in range(2):
        days.append((env.reset(seed=1)[0], *env.step(np.zeros(2, np.float32))[:2]))
    assert len(env.unwrapped.episodes._starts) == 1  # type: ignore[attr-defined]
    for one, other in zip(*days, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_oldest_go_first_and_memory_has_a_bound(small_data: Path) -> None:
    envs = make(small_data, "small_worlds:Transport")
    reset = envs.episodes._reset
    starts = [Start(scene=s, frame=f) for s in envs.scenes.numbers for f in list(envs.scenes.index.frames(s))[4:8]]
    pool = StartStates(50)
    pool.states(starts[:1], reset)
    pool = StartStates(2.5 * pool.bytes / 2**20)
    for start in starts:
        pool.states([start], reset)
        assert pool.bytes <= pool.limit and len(pool) <= 3
    again = pool.states([starts[-1], starts[0], starts[-1]], reset)
    anew = reset([starts[-1], starts[0], starts[-1]])
    assert torch.equal(again.labels, anew.labels) and torch.equal(again.route.points, anew.route.points)


def test_varied_starts_are_made_anew(small_data: Path) -> None:
    envs = make(small_data, "small_worlds:Transport", kept_mib=50)
    envs.reset(seed=0, options={"speed_mps": 3.0})
    envs.reset(seed=0, options={"variation": {"action_noise": 0.1}})
    assert len(envs.episodes._starts) == 0 and (envs.state.noise == 0.1).all()


def test_no_number_of_mib_is_refused(small_data: Path) -> None:
    for wrong in (-1, "many", float("nan"), True):
        with pytest.raises(OptionError, match="kept_mib"):
            make(small_data, "small_worlds:Transport", kept_mib=wrong)
