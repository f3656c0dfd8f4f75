"""Workers that are forked from a process that has computed with several threads: they answer, and do not wait for ever.

Without `single_thread_after_fork` each of these cases hangs on Linux with a CPU build of torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from pretend_gpu import GPU, pretend_gpu

import ii_world_env  # noqa: F401
from ii_world_env.faces import episodes
from world_model.core.errors import CheckpointError, OptionError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")

PARENT = """
import multiprocessing, sys
import gymnasium as gym, numpy as np, torch
import ii_world_env

torch.set_num_threads(4)
(torch.ones(1000, 1000) @ torch.ones(1000, 1000)).sin().sum()  # OpenMP starts its threads

def make():
    return gym.make("IIWorld-nuScenes-v0", world="transport", data_root=sys.argv[1], horizon=3)

def drive(seed, env=None):
    env = env or make()
    env.reset(seed=seed)
    env.step(env.action_space.sample())
    return torch.get_num_threads()

def in_fork(function, *args):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(function, args)
"""
CASES = {
    "async": """
options = {"world": "transport", "data_root": sys.argv[1], "horizon": 3}
envs = gym.make_vec("IIWorld-nuScenes-v0", num_envs=2, vectorization_mode="async", **options)
envs.reset(seed=0); envs.step(envs.action_space.sample()); envs.close()
""",
    "pool": """
make().reset(seed=0)
assert in_fork(drive, 0) == 1
""",
    "inherited": """
kept = make()
kept.reset(seed=0)
def inherited():
    return drive(0, kept)
assert in_fork(inherited) == 1
def untouched():
    return torch.get_num_threads()
assert in_fork(untouched) == torch.get_num_threads() == 4, "only workers that drive are changed"
""",
    "sb3": """
from stable_baselines3.common.vec_env import SubprocVecEnv
envs = SubprocVecEnv([make, make], start_method="fork")
envs.reset(); envs.step(np.zeros((2, 2), np.float32)); envs.close()
""",
    "loader": """
class Drives(torch.utils.data.Dataset):
    def __len__(self): return 2
    def __getitem__(self, i): return drive(i)
loader = torch.utils.data.DataLoader(Drives(), batch_size=None, num_workers=1, multiprocessing_context="fork")
assert list(loader) == [1, 1]
""",
}


@pytest.mark.parametrize("case", CASES)
def test_a_forked_worker_answers(street_data: Path, case: str) -> None:
    code = PARENT + CASES[case] + "print('done')"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    }
    done = subprocess.run(
        [sys.executable, "-c", code, str(street_data)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0 and "done" in done.stdout, done.stderr


def test_the_hook_does_not_load_torch() -> None:
    code = "import sys, ii_world_env.faces.forks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0


class Touched(Exception):
    """The process would hold a CUDA context now, or have asked CUDA itself, which forbids its forks a GPU."""


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which the driver's library counts one GPU; whatever touches CUDA itself is found out."""

    def touched(*args: object, **kwargs: object) -> bool:
        raise Touched

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name in ("is_available", "_lazy_init", "is_bf16_supported"):
        monkeypatch.setattr(torch.cuda, name, touched)


OPTIONS = [{}, {"device": "cuda"}, {"device": "cuda:0", "world": "ii-world"}, {"world": "transport", "action": "meta"}]


@pytest.mark.usefixtures("a_gpu")
@pytest.mark.parametrize("options", OPTIONS)
def test_making_an_environment_leaves_the_gpu_alone(options: dict[str, str]) -> None:
    """As Gymnasium's `AsyncVectorEnv` makes one in the parent, to ask for its spaces; the first reset goes there."""
    env = gym.make("IIWorld-nuScenes-v0", **options)
    assert env.observation_space and env.action_space.sample() is not None and env.spec is not None
    with pytest.raises(Touched):
        env.reset(seed=0)
    env.close()
    envs = gym.make_vec("IIWorld-nuScenes-v0", num_envs=2, **options)
    with pytest.raises(Touched):
        envs.reset(seed=0)


@pytest.mark.usefixtures("a_gpu")
def test_what_is_wrong_is_said_at_once_all_the_same(tmp_path: Path) -> None:
    for options in ({"action": "fly"}, {"observation": "smell"}, {"pessimism": -1}, {"world": "moon"}, {"split": "x"}):
        with pytest.raises(ValueError):
            gym.make("IIWorld-nuScenes-v0", **options)
    with pytest.raises(CheckpointError):
        gym.make("IIWorld-nuScenes-v0", checkpoint=tmp_path)
    with pytest.raises((OptionError, Touched)):  # there is one GPU: why the other is refused, CUDA itself may be asked
        gym.make("IIWorld-nuScenes-v0", device="cuda:7")


def test_the_first_reset_or_the_engine_goes_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes, "untouched_gpu", lambda name: True)
    with pretend_gpu():
        for ask in (lambda env: env.reset(seed=1), lambda env: env.unwrapped.engine.world):
            env = gym.make("IIWorld-nuScenes-v0", world="transport", device=str(GPU))
            face = env.unwrapped.episodes  # type: ignore[attr-defined]
            assert face._engine.world.device.type == "cpu"
            ask(env)
            assert face._engine.world.device == GPU
            env.reset(seed=1)
            env.step(env.action_space.sample())
            assert face.state.pose.device == GPU
