"""Workers that are forked from a process that has computed with several threads: they answer, and do not wait for ever.

Without `single_thread_after_fork` each of these cases hangs on Linux with a CPU build of torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
