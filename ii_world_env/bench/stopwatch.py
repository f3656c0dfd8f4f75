"""What `python -m ii_world_env.bench` times: whole steps, and the stages they consist of.

A GPU works on while the host goes ahead, so every reading waits for it first.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ii_world_env.vector_env import IIWorldVectorEnv
from world_model.worlds.token import TokenWorld

WARM_UP, REPEATS = 1, 5
"""Calls of a stage before the timed ones, and timed ones; the median counts."""
PLAN_STEPS = 6
LATENT_STEPS = 8


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds that one call takes, until the device is done."""
    synchronise(device)
    begin = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - begin


def median_s(work: Callable[[], Any], device: torch.device, repeats: int = REPEATS) -> float:
    """Median seconds of a call, after a warm-up, without gradients."""
    with torch.inference_mode():
        return statistics.median([seconds(work, device) for _ in range(WARM_UP + repeats)][WARM_UP:])


def step_s(envs: IIWorldVectorEnv, steps: int) -> float:
    """Mean seconds of one step of all environments, with everything that `step` does; begins new episodes.

    An episode that has ended costs what a running one costs. It is driven on, so that a model which crashes often is
    not timed with more resets than another; resets are timed apart.
    """
    envs.reset()
    action, device = no_action(envs), device_of(envs)

    def drive() -> None:
        for _ in range(steps):
            envs.episodes.ends[:] = 0
            envs.step(action)

    return seconds(drive, device) / steps


def stages(envs: IIWorldVectorEnv) -> dict[str, float]:
    """Median seconds of each stage of a step and of a reset, for the whole batch; "render" for one environment."""
    envs.reset(seed=0)
    state, engine, device = envs.state, envs.engine, device_of(envs)
    world, actions = engine.world, envs.episodes.actions(no_action(envs))
    still = torch.eye(4, device=device).repeat(state.batch, 1, 1)
    with torch.inference_mode():
        following, motion = engine.drive(state, actions)
        after, lateral = engine.arrive(state, actions, following, motion)
    parts: dict[str, Callable[[], Any]] = {
        "forecast": lambda: world.step(state.world, still, state.commands[:, 0]),
        "decode": lambda: world.occupancy(state.world),
        "reward": lambda: engine.score(state, motion, after, lateral),
        "observation": envs.episodes.observe,
        "reset": lambda: envs.reset(seed=0),
        "render": lambda: envs.episodes.picture(0),
    }
    if isinstance(world, TokenWorld):
        parts["encode"] = _encode(world, engine.occupancy(state))
    return {name: median_s(part, device) for name, part in parts.items()}


def _encode(world: TokenWorld, labels: Tensor) -> Callable[[], Any]:
    """One frame of every stream, with its memory."""
    tokenizer, batch = world.tokenizer, len(labels)
    still = torch.eye(4, device=labels.device).repeat(batch, 1, 1)
    start = torch.zeros(batch, dtype=torch.bool, device=labels.device)
    return lambda: tokenizer.encode(labels, tokenizer.empty_memory(batch), still, start)


def latent_frames_per_s(envs: IIWorldVectorEnv) -> float | None:
    """Frames per second of the forecaster alone: tokens to tokens, nothing decoded, scored or observed.

    With one environment, the convention of the 37 frames/s of I2-World (ICCV 2025). None in worlds without tokens.
    """
    world, device = envs.engine.world, device_of(envs)
    if not isinstance(world, TokenWorld):
        return None
    first, command = envs.state.world.forecast, envs.state.commands[:, 0]

    def roll() -> None:
        forecast = first
        for _ in range(LATENT_STEPS):
            forecast, _ = world.forecaster.step(forecast, command)

    return envs.num_envs * LATENT_STEPS / median_s(roll, device)


def plans_per_s(envs: IIWorldVectorEnv) -> float:
    """Plans of `PLAN_STEPS` steps that the engine scores per second, one for each environment of the batch."""
    actions = torch.as_tensor(no_action(envs))
    plans = actions[:, None].expand(-1, PLAN_STEPS, *actions.shape[1:])
    return envs.num_envs / median_s(lambda: envs.engine.rollout(envs.state, plans), device_of(envs), 3)


def no_action(envs: IIWorldVectorEnv) -> NDArray[Any]:
    """The action in the middle of its range, or the first choice, for every environment."""
    return np.zeros(envs.action_space.shape or (envs.num_envs,), envs.action_space.dtype)


def device_of(envs: IIWorldVectorEnv) -> torch.device:
    """Where the states of environments lie."""
    return envs.state.pose.device


def synchronise(device: torch.device) -> None:
    """Wait until a GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_mib(device: torch.device) -> float:
    """Peak memory: of torch's tensors on a GPU since its counter was reset, else of the whole process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
