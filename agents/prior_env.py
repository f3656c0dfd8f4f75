"""A batch of environments in which the action of a learner is a bounded correction of a scripted prior's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from agents.planners.residual import Residual
from ii_world_env.sb3_vec_env import IIWorldVecEnv


class PriorVecEnv(VecEnvWrapper):
    """`IIWorldVecEnv` for residual policies; its observations also hold the prior's action.

    Args:
        venv: the environments.
        prior: name of a scripted planner, such as "idm".
        comfort: let the comfort limiter have the last word.

    Raises:
        OptionError: no such planner, or an action mode of choices.
    """

    venv: IIWorldVecEnv

    def __init__(self, venv: IIWorldVecEnv, prior: str, comfort: bool = False) -> None:
        self.residual = Residual(venv.vector.engine, prior, comfort)
        super().__init__(venv, observation_space=self.residual.widened(venv.observation_space))
        self.planned = torch.zeros(0)

    def reset(self) -> VecEnvObs:
        observed = self.venv.reset()
        self.residual.reset(self.venv.vector.state)
        return self._with_plan(observed)

    def step_async(self, actions: NDArray[Any]) -> None:
        residual = torch.as_tensor(np.asarray(actions, np.float32))
        driven = self.residual.actions(self.venv.vector.state, self.planned, residual)
        self.venv.step_async(driven.cpu().numpy().reshape(self.num_envs, *self.residual.shape))

    def correction(self, actions: torch.Tensor) -> torch.Tensor:
        """(N, A) corrections in [-1, 1] that come closest to actions: what a policy must answer to do the same."""
        away = actions.reshape(self.planned.shape).to(self.planned) - self.planned
        share: torch.Tensor = away / self.residual.scale.to(away)
        return share.clamp(-1, 1)

    def step_wait(self) -> VecEnvStepReturn:
        observed, reward, done, infos = self.venv.step_wait()
        before = self.planned.cpu().numpy()
        joined = self._with_plan(observed)
        for i, info in enumerate(infos):
            if "terminal_observation" in info:  # the state is gone by now: the prior's last action stands for the next
                last = info["terminal_observation"]
                row = {k: v[None] for k, v in last.items()} if isinstance(last, dict) else last[None]
                wide = self.residual.joined(row, before[i : i + 1])
                info["terminal_observation"] = {k: v[0] for k, v in wide.items()} if isinstance(wide, dict) else wide[0]
        return joined, reward, done, infos

    def _with_plan(self, observed: VecEnvObs) -> VecEnvObs:
        self.planned = self.residual.plan(self.venv.vector.state)
        joined: VecEnvObs = self.residual.joined(observed, self.planned.cpu().numpy())
        return joined
