"""A scene that cannot be read: the error is raised, nothing has happened, the same call works when the file is back.

Each kind of environment is driven beside a twin whose files are whole; afterwards both must still be the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from same import equal
from street import SMALL, write_street

import ii_world_env
from ii_world_env.sb3_vec_env import IIWorldVecEnv
from world_model.core.errors import DataError

OPTIONS = {"world": "small_worlds:Transport", "device": "cpu", "horizon": 2}
ACTIONS = np.array([[0.2, 0.1], [-0.3, 0.0], [0.1, -0.1]], np.float32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_street(tmp_path, scenes=1, frames=9, grid=SMALL)


@contextmanager
def unreadable(root: Path) -> Iterator[None]:
    """All labels are empty files meanwhile."""
    whole = {path: path.read_bytes() for path in root.glob("gts/street-0/*/labels.npz")}
    for path in whole:
        path.write_bytes(b"")
    yield
    for path, content in whole.items():
        path.write_bytes(content)


def batches(root: Path, mode: str, count: int = 2) -> list[Any]:
    made = [
        gym.make_vec(
            ii_world_env.ENV_ID,
            num_envs=3,
            autoreset_mode=mode,
            data_root=str(root),
            render_mode="rgb_array",
            **OPTIONS,
        )
        for _ in range(count)
    ]
    for envs in made:
        envs.reset(seed=5)
        # One of the three is a step behind, so that they do not end together.
        envs.step(ACTIONS)
        mask = np.array([False, True, False])
        envs.reset(options={"reset_mask": mask})
    return made


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_step_with_a_failed_reset_was_not_taken(root: Path, mode: str) -> None:
    disturbed, twin = batches(root, mode)
    failures = 0
    for _ in range(6):
        before = disturbed.unwrapped.state
        pictures = disturbed.render()
        with unreadable(root):
            try:
                ours = disturbed.step(ACTIONS)
            except DataError as error:
                assert "labels.npz" in str(error) and disturbed.unwrapped.state is before
                assert all(np.array_equal(a, b) for a, b in zip(disturbed.render(), pictures, strict=True))
                failures, ours = failures + 1, None
        ours = disturbed.step(ACTIONS) if ours is None else ours
        assert equal(ours, twin.step(ACTIONS))
        assert equal(disturbed.unwrapped.state, twin.unwrapped.state)
    assert failures >= 3, "single environments and several of them were due"


def test_without_autoreset_the_ended_ones_wait(root: Path) -> None:
    disturbed, twin = batches(root, "Disabled")
    (_, _, *ends, _), _ = (envs.step(ACTIONS) for envs in (disturbed, twin))
    done = ends[0] | ends[1]
    assert done.tolist() == [True, False, True]
    before = disturbed.unwrapped.state
    with unreadable(root), pytest.raises(DataError, match=r"labels\.npz"):
        disturbed.reset(options={"reset_mask": done})
    assert disturbed.unwrapped.state is before
    with pytest.raises(gym.error.ResetNeeded, match="environment 0, 2"):
        disturbed.step(ACTIONS)
    assert equal(*(envs.reset(options={"reset_mask": done}) for envs in (disturbed, twin)))
    assert equal(*(envs.step(ACTIONS) for envs in (disturbed, twin)))


def test_a_whole_reset_that_fails_leaves_the_episodes(root: Path) -> None:
    disturbed, twin = batches(root, "SameStep")
    with unreadable(root), pytest.raises(DataError, match=r"labels\.npz"):
        disturbed.reset(seed=9)
    assert equal(disturbed.step(ACTIONS), twin.step(ACTIONS))


def test_a_single_environment_goes_on(root: Path) -> None:
    disturbed, twin = (gym.make(ii_world_env.ENV_ID, data_root=str(root), **OPTIONS) for _ in range(2))
    for env in (disturbed, twin):
        env.reset(seed=5)
    with unreadable(root), pytest.raises(DataError, match=r"labels\.npz"):
        disturbed.reset()
    assert equal(disturbed.step(ACTIONS[0]), twin.step(ACTIONS[0]))
    assert equal(disturbed.reset(), twin.reset()), "the episode that was due"


def test_stable_baselines_takes_the_step_again(root: Path) -> None:
    disturbed, twin = (IIWorldVecEnv(3, data_root=str(root), **OPTIONS) for _ in range(2))
    for envs in (disturbed, twin):
        envs.seed(5)
        envs.reset()
        envs.step(ACTIONS)
    with unreadable(root), pytest.raises(DataError, match=r"labels\.npz"):
        disturbed.step(ACTIONS)
    assert equal(disturbed.step(ACTIONS), twin.step(ACTIONS)) and equal(disturbed.reset_infos, twin.reset_infos)
    assert equal(disturbed.step(ACTIONS), twin.step(ACTIONS))
