"""Running means and variances of observations and returns (SB3's `VecNormalize`), and their way to files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from torch import Tensor

from world_model.core.errors import OptionError

Normalise = Literal["none", "reward", "all"]
LIMIT, EPSILON = 10.0, 1e-8
MEAN, VARIANCE = "normaliser.mean", "normaliser.variance"
"""Names beside the weights in a policy file."""


@dataclass(frozen=True)
class Normaliser:
    """What a policy sees of an observation vector.

    Attributes:
        mean, variance: (D,) float64, found in training.
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]

    def __call__(self, observed: NDArray[Any]) -> NDArray[np.float32]:
        """(B, D) observations of zero mean and unit variance, within +-10."""
        scaled = (observed - self.mean) / np.sqrt(self.variance + EPSILON)
        limited: NDArray[np.float32] = np.clip(scaled, -LIMIT, LIMIT).astype(np.float32)
        return limited

    def tensors(self) -> dict[str, Tensor]:
        """For a policy file."""
        return {MEAN: torch.from_numpy(self.mean), VARIANCE: torch.from_numpy(self.variance)}

    @staticmethod
    def of(values: dict[str, Any]) -> Normaliser | None:
        """From `tensors`, or the same as lists; None where there are none."""
        if MEAN not in values:
            return None
        return Normaliser(*(np.asarray(values[name], np.float64) for name in (MEAN, VARIANCE)))


def wrapped(venv: VecEnv, normalise: Normalise, gamma: float) -> VecEnv:
    """The environments with normalised rewards ("reward"), and observations too ("all").

    Raises:
        OptionError: "all" for observations that are no vector of numbers.
    """
    if normalise == "none":
        return venv
    space = venv.observation_space
    if normalise == "all" and (not isinstance(space, spaces.Box) or len(space.shape) != 1):
        raise OptionError(
            f"--normalise all with observations {space}",
            "a vector of numbers",
            "take state or traffic, or reward alone",
        )
    whole = normalise == "all"
    return VecNormalize(venv, norm_obs=whole, clip_obs=LIMIT, clip_reward=LIMIT, gamma=gamma, epsilon=EPSILON)


def wrapper_of(env: VecEnv | None) -> VecNormalize | None:
    """The `VecNormalize` among the wrappers of environments."""
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecNormalize):
            return env
        env = env.venv
    return None


def normaliser_of(env: VecEnv | None) -> Normaliser | None:
    """What the policy sees there; None: observations as they are."""
    found = wrapper_of(env)
    if found is None or not found.norm_obs:
        return None
    seen = _means(found)["observed"]
    return Normaliser(seen.mean.copy(), seen.var.copy())


def _means(env: VecNormalize) -> dict[str, Any]:
    """Its running means; of observations where it normalises them."""
    return {"returns": env.ret_rms, **({"observed": env.obs_rms} if env.norm_obs else {})}


def memory_of(env: VecNormalize) -> dict[str, Any]:
    """All that it remembers, plain values, to go on from."""
    kept: dict[str, Any] = {
        name: [np.asarray(one.mean).tolist(), np.asarray(one.var).tolist(), float(one.count)]
        for name, one in _means(env).items()
    }
    return {**kept, "running": env.returns.tolist()}


def recall(env: VecNormalize, memory: dict[str, Any], running: bool = True) -> None:
    """Take over a `memory_of`; without ``running`` new episodes begin."""
    for name, one in _means(env).items():
        mean, variance, count = memory[name]
        one.mean, one.var, one.count = np.asarray(mean), np.asarray(variance), count
    if running:
        env.returns = np.asarray(memory["running"])
