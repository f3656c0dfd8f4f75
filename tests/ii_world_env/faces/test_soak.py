"""Driven for long, the batch stays what it was on the first day: no NaN, no growing memory, no drift."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from same import assert_exact

import ii_world_env
from ii_world_env.engine import State
from ii_world_env.vector_env import IIWorldVectorEnv

HORIZON = 16
MORNING = 2 * HORIZON + 2
"""Steps of two whole rounds of episodes and their resets."""


def make(data: Path, count: int) -> IIWorldVectorEnv:
    """The tiny learned model, a few thousand untrained weights."""
    envs = gym.make_vec(
        ii_world_env.ENV_ID,
        num_envs=count,
        world="small_worlds:Learned",
        data_root=str(data),
        device="cpu",
        horizon=HORIZON,
    )
    assert isinstance(envs, IIWorldVectorEnv)
    return envs


def held() -> tuple[int, int]:
    """Live tensors of this process, and their bytes."""
    gc.collect()
    sizes = [item.nbytes for item in gc.get_objects() if type(item) is torch.Tensor]
    return len(sizes), sum(sizes)


def resident_mib() -> float:
    """Memory of this process in MiB; 0 where the system does not tell."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def gentle(rng: np.random.Generator, count: int) -> np.ndarray:
    """Actions of which some episodes end on the way and others at the horizon."""
    return rng.uniform((-0.6, -0.15), (0.6, 0.15), (count, 2)).astype(np.float32)


def drive(envs: IIWorldVectorEnv, steps: int, seed: int) -> Iterator[tuple[Any, np.ndarray, set[str]]]:
    """Observations, rewards and ends of every step, all of them checked."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        seen, reward, terminated, truncated, infos = envs.step(gentle(rng, envs.num_envs))
        assert envs.observation_space.contains(seen) and np.isfinite(reward).all()
        assert all(np.isfinite(part).all() for part in seen.values())
        assert all(np.isfinite(infos[name]).all() for name in ("ego_pose", "speed_mps", "progress_m", "goal_m"))
        assert not (terminated & truncated).any()
        yield seen, reward, {end for end in infos["end"] if end}


def morning(envs: IIWorldVectorEnv) -> list[Any]:
    """The first two rounds of episodes after a fixed seed: the same on every day."""
    first = envs.reset(seed=7)[0]
    return [first, *((seen, reward) for seen, reward, _ in drive(envs, MORNING, 7))]


def assert_same_days(a: list[Any], b: list[Any]) -> None:
    assert_exact(a[0], b[0])
    for (seen, reward), (seen_again, reward_again) in zip(a[1:], b[1:], strict=True):
        assert_exact(seen, seen_again)
        np.testing.assert_array_equal(reward, reward_again)


def assert_replays(envs: IIWorldVectorEnv, path: Path, seed: int) -> None:
    """From a file of the state, the engine drives to the bit what the environment drove."""
    envs.reset(seed=seed)
    envs.state.save(path)
    start, rng = State.load(path, like=envs.state), np.random.default_rng(seed)
    running, state = np.ones(envs.num_envs, np.bool_), start
    for step in range(HORIZON):
        action = gentle(rng, envs.num_envs)
        _, _, terminated, truncated, infos = envs.step(action)
        state, out = envs.engine.step(state, torch.from_numpy(action))
        for name, term in out.terms.items():
            assert (infos["reward_terms"][name][running] == term.numpy()[running]).all(), (step, name)
        assert torch.equal(state.labels[running], envs.state.labels[running]), step
        assert torch.equal(state.pose[running], envs.state.pose[running]), step
        assert (out.terminated.numpy()[running] == terminated[running]).all()
        running &= ~(terminated | truncated)
    assert not running.any()


def soak(
    envs: IIWorldVectorEnv, steps: int, path: Path, parts: int, say: Callable[[str], None] = lambda text: None
) -> tuple[list[float], set[str]]:
    """Drive that many steps of single environments; resident memory after each part, and the ends that came up.

    The replays and the two mornings are part of the steps. ``say`` gets the state of things after every part.
    """
    checks = 2 * MORNING + parts * HORIZON
    each = math.ceil((steps / envs.num_envs - checks) / parts)
    first, memory, ends = morning(envs), [], set()
    tensors = None
    for part in range(parts):
        assert_replays(envs, path, seed=part)
        for *_, some in drive(envs, each, part):
            ends |= some
        now = held()
        assert tensors is None or now == tensors, f"tensors before {tensors}, after part {part} {now}"
        tensors = now
        memory.append(resident_mib())
        driven = envs.num_envs * (MORNING + (part + 1) * (HORIZON + each))
        say(f"{driven} steps: {memory[-1]:.0f} MiB resident, {tensors[0]} tensors of {tensors[1] / 2**20:.1f} MiB")
    assert_same_days(first, morning(envs))
    return memory, ends


def test_two_thousand_steps(tiny_data: Path, tmp_path: Path) -> None:
    envs = make(tiny_data, 8)
    _, ends = soak(envs, 2_000, tmp_path / "state", parts=2)
    assert "horizon" in ends and len(ends) > 1, "episodes end in different ways"


@pytest.mark.slow
def test_a_hundred_thousand_steps(tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    envs = make(tiny_data, 64)
    with capsys.disabled():  # for minutes: whoever waits wants to see where it stands
        memory, ends = soak(envs, 100_000, tmp_path / "state", 20, lambda text: print(text, flush=True))
        print(f"ends {sorted(ends)}")
    # The allocator settles in the first quarter; from there on nothing may grow.
    assert max(memory[15:]) - max(memory[:5]) < 16.0
    assert "horizon" in ends and len(ends) > 1
