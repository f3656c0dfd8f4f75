"""`torch.set_default_dtype` and `set_default_device` belong to the program around us: nothing here depends on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from street import SMALL, write_street
from tiny_checkpoints import TINY, write_geometric, write_tokens

import ii_world_env  # noqa: F401
from world_model.checkpoints.shared import _geometric, _token_models
from world_model.data.clips import load_clips
from world_model.data.index import SceneIndex
from world_model.worlds import TransportWorld, build_world
from world_model.worlds.protocol import World


@contextmanager
def settings(kind: str) -> Iterator[None]:
    """Double precision, or new tensors on a device that nothing can be computed on together with the CPU."""
    if kind == "float64":
        torch.set_default_dtype(torch.float64)
    else:
        torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


def drive(world: World, index: SceneIndex) -> torch.Tensor:
    """Labels after two steps along the log."""
    clips = load_clips(index, [4], future=2, grid=world.grid)
    state = world.reset(clips)
    poses = clips.ego_to_global[:, 4:]
    for step in range(2):
        motion = (poses[:, step + 1].inverse() @ poses[:, step]).float()
        state = world.step(state, motion, clips.command[:, 4 + step])
    return world.occupancy(state)


@pytest.mark.parametrize("kind", ["float64", "elsewhere"])
def test_transport_does_not_depend_on_them(tmp_path: Path, kind: str) -> None:
    index = SceneIndex.load(write_street(tmp_path / "data", scenes=1, frames=8, grid=SMALL))
    before = drive(TransportWorld(SMALL), index)
    with settings(kind):
        after = drive(TransportWorld(SMALL), index)
    assert torch.equal(after, before)


@pytest.mark.parametrize("kind", ["float64", "elsewhere"])
@pytest.mark.parametrize("world", ["geometric", "ii-world"])
def test_learned_worlds_do_not_depend_on_them(tmp_path: Path, world: str, kind: str) -> None:
    checkpoint = (write_geometric if world == "geometric" else write_tokens)(tmp_path / "checkpoint")
    index = SceneIndex.load(write_street(tmp_path / "data", scenes=1, frames=8, grid=TINY))
    before = drive(build_world(world, checkpoint=checkpoint, device="cpu"), index)
    _token_models.cache_clear()
    _geometric.cache_clear()
    with settings(kind):
        after = drive(build_world(world, checkpoint=checkpoint, device="cpu"), index)
    assert torch.equal(after, before)


@pytest.mark.parametrize("kind", ["float64", "elsewhere"])
@pytest.mark.parametrize("traffic", ["constant-velocity", "rigid"])
def test_nor_do_environments_in_which_something_moves(traffic: str, kind: str) -> None:
    """The bundled world among the moving vehicles of the demo, through the door that users take."""

    def driven() -> tuple[float, NDArray[np.uint8]]:
        env = gym.make("IIWorld-nuScenes-v0", traffic=traffic, device="cpu", observation="traffic")
        env.reset(seed=3)
        rewards = [env.step(np.zeros(2, np.float32))[1] for _ in range(2)]
        return sum(map(float, rewards)), env.unwrapped.occupancy  # type: ignore[attr-defined]

    reward, occupancy = driven()
    _geometric.cache_clear()
    with settings(kind):
        other, seen = driven()
    assert other == reward and (seen == occupancy).all()


@pytest.mark.parametrize("kind", ["float64", "elsewhere"])
def test_nor_does_the_trust_in_tokens(kind: str) -> None:
    """The bundled token world has a trust calibration; the small checkpoints above have none."""

    def trust() -> float:
        env = gym.make("IIWorld-nuScenes-v0", world="ii-world", device="cpu")
        env.reset(seed=3)
        return float(env.step(np.zeros(2, np.float32))[4]["trust"])

    before = trust()
    _token_models.cache_clear()
    with settings(kind):
        assert trust() == before
