"""Where a training run stands between two rollouts, kept in its model file: a run that was cut goes on to the bit.

stable-baselines3 keeps policy, optimizer, counters and the last observations in ``model.zip``. Beside them lie here, as
further members of the zip, the running episodes, the random generators, and the replay memory of a learner with one.
"""

from __future__ import annotations

import io
import json
import random
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from agents.learning import normalise
from agents.prior_env import PriorVecEnv
from ii_world_env.sb3_vec_env import IIWorldVecEnv
from ii_world_env.state.state import State
from world_model.core.errors import IIWorldError
from world_model.core.files import read_npy

RUN, EPISODES, REPLAY = "iiworld_run.pt", "iiworld_episodes.safetensors", "iiworld_replay/"
REPLAY_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
LSTM_STATES = "_last_lstm_states"
write_array: Any = np.lib.format.write_array


def described(path: Path) -> dict[str, Any]:
    """Plain values in a model zip, such as ``num_timesteps`` and ``facts``; nothing is executed.

    Raises:
        OSError, ValueError, KeyError: it is no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            values: dict[str, Any] = json.loads(archive.read("data"))
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from error
    return values


def snapshot(model: BaseAlgorithm, tables: Mapping[str, str], identity: dict[str, Any], stage: int = 0) -> bytes:
    """The model zip between two rollouts, with all that the next one depends on but the replay memory.

    Args:
        model: that is trained in an `IIWorldVecEnv`, perhaps wrapped.
        tables: what was written down so far, CSV by name.
        identity: what must be the same for the run to go on where it was.
        stage: which world of a curriculum.
    """
    buffer = io.BytesIO()
    model.save(buffer)
    found = _Faces(model.get_env())
    run: dict[str, Any] = {
        "identity": identity,
        "stage": stage,
        "curve": tables["curve"],
        "tables": dict(tables),
        "random": random.getstate()[1],
        "numpy": _plain_numpy_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if model.device.type == "cuda" else [],
        "generators": [_generator_state(rng) for rng in found.batch.vector.np_random],
        "seeds": list(found.batch.vector.np_random_seed),
        "actions": _generator_state(model.action_space.np_random),
    }
    if found.monitor is not None:
        run["returns"], run["lengths"] = found.monitor.episode_returns.tolist(), found.monitor.episode_lengths.tolist()
        run["episodes"] = found.monitor.episode_count
    if found.prior is not None:
        run["planned"], run["prior"] = found.prior.planned, _memory(found.prior.residual.prior)
    if found.normalise is not None:
        run["normalise"] = normalise.memory_of(found.normalise)
    if getattr(model, LSTM_STATES, None) is not None:
        run["lstm"] = [[part.detach().cpu() for part in pair] for pair in getattr(model, LSTM_STATES)]
    content = io.BytesIO()
    torch.save(run, content)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(RUN, content.getvalue())
        found.batch.vector.state.save(Path(folder) / EPISODES)
        archive.write(Path(folder) / EPISODES, EPISODES)
    return buffer.getvalue()


def write(stream: BinaryIO, kept: bytes, model: BaseAlgorithm) -> None:
    """Write a `snapshot` that was just taken, and behind it, array by array, the replay memory of learners with one."""
    replay: Any = getattr(model, "replay_buffer", None)
    if replay is None:
        stream.write(kept)
        return
    with zipfile.ZipFile(io.BytesIO(kept)) as small, zipfile.ZipFile(stream, "w") as archive:
        for member in small.infolist():
            archive.writestr(member, small.read(member))
        arrays = {"position": np.array([replay.pos, int(replay.full)]), **_replayed(replay)}
        for name, array in arrays.items():
            with archive.open(f"{REPLAY}{name}.npy", "w", force_zip64=True) as place:
                write_array(place, np.ascontiguousarray(array), allow_pickle=False)


def _replayed(replay: Any) -> dict[str, NDArray[Any]]:
    """Views of what a replay memory holds so far."""
    size, arrays = replay.size(), dict[str, NDArray[Any]]()
    for name in REPLAY_ARRAYS:
        whole = getattr(replay, name)
        parts = {f"{name}.{key}": value for key, value in whole.items()} if isinstance(whole, dict) else {name: whole}
        arrays |= {key: value[:size] for key, value in parts.items()}
    return arrays


def _recall(replay: Any, archive: zipfile.ZipFile) -> None:
    """Fill a replay memory with what was written.

    Raises:
        ValueError: the arrays have other shapes.
    """

    def read(name: str) -> NDArray[Any]:
        with archive.open(f"{REPLAY}{name}.npy") as member:
            return read_npy(member)

    position, full = read("position").tolist()
    replay.pos, replay.full = int(position), bool(full)
    for name, place in _replayed(replay).items():
        place[...] = read(name)


def go_on(model: BaseAlgorithm, path: Path, identity: dict[str, Any], stage: int = 0) -> dict[str, str] | None:
    """Put a loaded model (``force_reset=False``) and its environments where the run was.

    Returns:
        What was written down until there, CSV by name; None where the file keeps no such state, or that of another
        run: nothing but the environments has been reset then.
    """
    with zipfile.ZipFile(path) as archive:
        if not {RUN, EPISODES} <= set(archive.namelist()):
            return None
        run = torch.load(io.BytesIO(archive.read(RUN)), weights_only=True)
        episodes = archive.read(EPISODES)
        replay = getattr(model, "replay_buffer", None)
        if replay is not None:
            _recall(replay, archive)
    if {**identity, **run["identity"]} != identity:  # options that are younger than the run are at their defaults
        return None
    env, same = model.get_env(), run.get("stage", 0) == stage
    assert env is not None
    if same:
        env.reset()
    found = _Faces(env)
    if found.normalise is not None:
        normalise.recall(found.normalise, run["normalise"], running=same)
    if same:
        if not _enter(found, episodes, run):
            return None
        if "lstm" in run:
            kept = getattr(model, LSTM_STATES)
            pairs = [tuple(part.to(model.device) for part in pair) for pair in run["lstm"]]
            setattr(model, LSTM_STATES, type(kept)(*pairs))
    else:
        model._last_obs = None  # the next world of a curriculum begins
    if "actions" in run:
        model.action_space.np_random.bit_generator.state = run["actions"]
    random.setstate((3, tuple(run["random"]), None))
    np.random.set_state(("MT19937", np.array(run["numpy"][0], np.uint32), *run["numpy"][1:]))
    torch.set_rng_state(run["torch"])
    if run["cuda"] and model.device.type == "cuda":
        torch.cuda.set_rng_state_all(run["cuda"])
    return {"curve": str(run["curve"]), **run.get("tables", {})}


def _enter(found: _Faces, episodes: bytes, run: dict[str, Any]) -> bool:
    """Put the environments into the episodes in which the run was; whether they fit."""
    vector = found.batch.vector
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / EPISODES).write_bytes(episodes)
        try:
            state = State.load(Path(folder) / EPISODES, vector.state)
        except IIWorldError:
            return False
    vector.reset_rows(range(vector.num_envs), [None] * vector.num_envs, [{"state": state}] * vector.num_envs)
    vector.set_generators([_generator(state) for state in run["generators"]], run["seeds"])
    if found.monitor is not None:
        found.monitor.episode_returns = np.array(run["returns"], np.float32)
        found.monitor.episode_lengths = np.array(run["lengths"], np.int32)
        found.monitor.episode_count = run["episodes"]
    if found.prior is not None:
        found.prior.planned = run["planned"].to(vector.state.pose.device)
        vars(found.prior.residual.prior).update(run["prior"])
    return True


class _Faces:
    """The batch of environments and the wrappers around it that remember something."""

    def __init__(self, env: VecEnv | None) -> None:
        self.monitor: VecMonitor | None = None
        self.prior: PriorVecEnv | None = None
        self.normalise: VecNormalize | None = None
        while isinstance(env, VecEnvWrapper):
            self.monitor = env if isinstance(env, VecMonitor) else self.monitor
            self.prior = env if isinstance(env, PriorVecEnv) else self.prior
            self.normalise = env if isinstance(env, VecNormalize) else self.normalise
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
