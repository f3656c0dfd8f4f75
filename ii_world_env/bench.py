"""How fast is a step? ``python -m ii_world_env.bench`` measures everything that a step does, on this machine."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro

from ii_world_env import ENV_ID, observations
from ii_world_env.env import IIWorldEnv
from world_model.errors import IIWorldError, OptionError
from world_model.files import write_json


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure environment steps per second: forecast, decoding, reward and observation together, after a warm-up.

    Examples:
      python -m ii_world_env.bench
      python -m ii_world_env.bench --observation occupancy --threads 1
      python -m ii_world_env.bench --world transport --steps 100
    """

    world: str = "learned"
    """learned, transport, replay, or package.module:Class."""
    checkpoint: Path | None = None
    """Folder of a trained world model. If not given: the bundled one."""
    index: Path | None = None
    """Index file, or the data folder that holds it. If not given: the bundled demo scenes."""
    split: str = "val"
    """Which scenes: train, val or all."""
    action: str = "kinematic"
    """kinematic or delta."""
    observation: str = "bev"
    """bev or occupancy."""
    horizon: int = 16
    """Steps of an episode."""
    steps: int = 64
    """Steps of one run."""
    runs: int = 5
    """Runs; the median is reported."""
    threads: int | None = None
    """Threads of torch. If not given: torch's own choice."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: str = "auto"
    """auto, float32 or bfloat16."""
    out: Path | None = None
    """Also write the figures to this JSON file."""

    def __post_init__(self) -> None:
        if min(self.steps, self.runs, self.horizon) < 1 or (self.threads is not None and self.threads < 1):
            raise OptionError(
                "a count below 1", "steps, runs, horizon and threads of at least 1", "give larger numbers"
            )


def bench(options: Bench) -> dict[str, Any]:
    """Measure and print.

    Returns:
        Figures and circumstances.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    env = gym.make(
        ENV_ID,
        world=options.world,
        checkpoint=None if options.checkpoint is None else str(options.checkpoint),
        index=None if options.index is None else str(options.index),
        split=options.split,
        action=options.action,
        observation=options.observation,
        horizon=options.horizon,
        device=options.device,
        dtype=options.dtype,
        disable_env_checker=True,
    )
    inner = env.unwrapped
    assert isinstance(inner, IIWorldEnv)
    steps, whole = _episodes(env, options)
    figures = {
        "steps_per_s": steps,
        "steps_per_s_with_resets": whole,
        "milliseconds": {name: round(1000 * _median(part, inner), 2) for name, part in _parts(inner).items()},
        **circumstances(inner),
        "command": "python -m ii_world_env.bench " + " ".join(sys.argv[1:]),
    }
    _show(figures, options)
    if options.out is not None:
        write_json(options.out, figures)
    env.close()
    return figures


def circumstances(env: IIWorldEnv) -> dict[str, Any]:
    """Machine, versions and what was driven: a figure without them means nothing."""
    device = env.state.pose.device
    return {
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "device": str(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "data_source": env.scenes.source,
    }


def _episodes(env: gym.Env[Any, Any], options: Bench) -> tuple[float, float]:
    """Median steps per second without and with the resets between episodes."""
    action = np.zeros(env.action_space.shape or (), np.float32)
    rates = []
    for run in range(options.runs + 1):
        _reset(env, run)
        stepping, begin = 0.0, time.perf_counter()
        for _ in range(options.steps):
            before = time.perf_counter()
            _, _, terminated, truncated, _ = env.step(action)  # ends with a copy to the host: synchronised
            stepping += time.perf_counter() - before
            if terminated or truncated:
                _reset(env, None)
        rates.append((options.steps / stepping, options.steps / (time.perf_counter() - begin)))
        print(
            f"\r  run {run}/{options.runs}{' (warm-up)' if not run else ''}: {rates[-1][0]:.1f} steps/s   ",
            end="",
            flush=True,
        )
    print()
    return statistics.median(r[0] for r in rates[1:]), statistics.median(r[1] for r in rates[1:])


def _reset(env: gym.Env[Any, Any], seed: int | None) -> None:
    env.reset(seed=seed)


def _parts(env: IIWorldEnv) -> dict[str, Callable[[], Any]]:
    """Where the time of a step goes."""
    env.reset(seed=0)
    state, engine = env.state, env.engine
    world = engine.world
    motion = torch.eye(4, device=state.pose.device)[None]
    action = torch.zeros(1, engine.action_mode.size)
    return {
        "forecast": lambda: world.step(state.world, motion, state.commands[:, 0]),
        "decode": lambda: world.occupancy(state.world),
        "bev observation": lambda: observations.bev(state.labels, world.grid),
        "whole engine step": lambda: engine.step(state, action),
        "reset": lambda: env.reset(seed=0),
    }


def _median(part: Callable[[], Any], env: IIWorldEnv, repeats: int = 9) -> float:
    times = []
    with torch.inference_mode():
        for _ in range(repeats):
            _synchronise(env)
            begin = time.perf_counter()
            part()
            _synchronise(env)
            times.append(time.perf_counter() - begin)
    return statistics.median(times[2:])


def _synchronise(env: IIWorldEnv) -> None:
    if env.state.pose.device.type == "cuda":
        torch.cuda.synchronize()


def _processor() -> str:
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores visible"


def _show(figures: dict[str, Any], options: Bench) -> None:
    parts = ", ".join(f"{name} {value:.1f}" for name, value in figures["milliseconds"].items())
    print(
        f"\n{figures['steps_per_s']:.1f} environment steps/s ({figures['steps_per_s_with_resets']:.1f} with resets), "
        f"world {options.world}, observation {options.observation}, action {options.action}, batch 1, "
        f"median of {options.runs} runs of {options.steps} steps\n"
        f"milliseconds: {parts}\n"
        f"{figures['hardware']}; device {figures['device']}; torch {figures['torch']}, {figures['threads']} threads; "
        f"Python {figures['python']}; data: {figures['data_source']}\n"
        f"{figures['command']}"
    )


def main() -> None:
    """Command line."""
    try:
        bench(tyro.cli(Bench, prog="python -m ii_world_env.bench"))
    except IIWorldError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
