"""Where a training run stands between two rollouts, kept in its model file: a run that was cut goes on to the bit.

stable-baselines3 keeps policy, optimizer, counters and the last observations in ``model.zip``. Beside them lie here, as
further members of the zip, the running episodes and the random generators.
"""

from __future__ import annotations

import io
import random
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor

from agents.prior_env import PriorVecEnv
from ii_world_env.sb3_vec_env import IIWorldVecEnv
from ii_world_env.state.state import State
from world_model.core.errors import IIWorldError

RUN, EPISODES = "iiworld_run.pt", "iiworld_episodes.safetensors"


def snapshot(model: OnPolicyAlgorithm, curve: str, identity: dict[str, Any]) -> bytes:
    """The model zip between two rollouts, with all that the next one depends on.

    Args:
        model: that is trained in an `IIWorldVecEnv`, perhaps wrapped.
        curve: the learning curve so far, CSV.
        identity: what must be the same for the run to go on where it was.
    """
    buffer = io.BytesIO()
    model.save(buffer)
    found = _Faces(model.get_env())
    run: dict[str, Any] = {
        "identity": identity,
        "curve": curve,
        "random": random.getstate()[1],
        "numpy": _plain_numpy_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if model.device.type == "cuda" else [],
        "generators": [_generator_state(rng) for rng in found.batch.vector.np_random],
        "seeds": list(found.batch.vector.np_random_seed),
    }
    if found.monitor is not None:
        run["returns"], run["lengths"] = found.monitor.episode_returns.tolist(), found.monitor.episode_lengths.tolist()
        run["episodes"] = found.monitor.episode_count
    if found.prior is not None:
        run["planned"], run["prior"] = found.prior.planned, _memory(found.prior.residual.prior)
    content = io.BytesIO()
    torch.save(run, content)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(RUN, content.getvalue())
        found.batch.vector.state.save(Path(folder) / EPISODES)
        archive.write(Path(folder) / EPISODES, EPISODES)
    return buffer.getvalue()


def go_on(model: OnPolicyAlgorithm, path: Path, identity: dict[str, Any]) -> str | None:
    """Put a loaded model (``force_reset=False``) and its environments where the run was.

    Returns:
        Its learning curve; None where the file keeps no such state, or that of another run: nothing but
        the environments has been reset then.
    """
    with zipfile.ZipFile(path) as archive:
        if not {RUN, EPISODES} <= set(archive.namelist()):
            return None
        run = torch.load(io.BytesIO(archive.read(RUN)), weights_only=True)
        episodes = archive.read(EPISODES)
    if run["identity"] != identity:
        return None
    env = model.get_env()
    assert env is not None
    env.reset()
    found = _Faces(env)
    vector = found.batch.vector
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / EPISODES).write_bytes(episodes)
        try:
            state = State.load(Path(folder) / EPISODES, vector.state)
        except IIWorldError:
            return None
    vector.reset_rows(range(vector.num_envs), [None] * vector.num_envs, [{"state": state}] * vector.num_envs)
    vector.set_generators([_generator(state) for state in run["generators"]], run["seeds"])
    if found.monitor is not None:
        found.monitor.episode_returns = np.array(run["returns"], np.float32)
        found.monitor.episode_lengths = np.array(run["lengths"], np.int32)
        found.monitor.episode_count = run["episodes"]
    if found.prior is not None:
        found.prior.planned = run["planned"].to(vector.state.pose.device)
        vars(found.prior.residual.prior).update(run["prior"])
    random.setstate((3, tuple(run["random"]), None))
    np.random.set_state(("MT19937", np.array(run["numpy"][0], np.uint32), *run["numpy"][1:]))
    torch.set_rng_state(run["torch"])
    if run["cuda"] and model.device.type == "cuda":
        torch.cuda.set_rng_state_all(run["cuda"])
    return str(run["curve"])


class _Faces:
    """The batch of environments and the wrappers around it that remember something."""

    def __init__(self, env: VecEnv | None) -> None:
        self.monitor: VecMonitor | None = None
        self.prior: PriorVecEnv | None = None
        while isinstance(env, VecEnvWrapper):
            self.monitor = env if isinstance(env, VecMonitor) else self.monitor
            self.prior = env if isinstance(env, PriorVecEnv) else self.prior
            env = env.venv
        assert isinstance(env, IIWorldVecEnv)
        self.batch = env


def _memory(planner: object) -> dict[str, Any]:
    """What a scripted planner remembers of the step before: its private tensors."""
    return {
        name: value
        for name, value in vars(planner).items()
        if name.startswith("_") and (value is None or isinstance(value, torch.Tensor))
    }


def _plain_numpy_state() -> list[Any]:
    _, keys, *rest = np.random.get_state(legacy=True)
    return [np.asarray(keys).tolist(), *rest]


def _generator_state(rng: np.random.Generator) -> dict[str, Any]:
    state: dict[str, Any] = dict(rng.bit_generator.state)
    return state


def _generator(state: dict[str, Any]) -> np.random.Generator:
    rng = np.random.Generator(np.random.PCG64())
    rng.bit_generator.state = state
    return rng
