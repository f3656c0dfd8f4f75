"""A trained stable-baselines3 policy as a planner."""

from __future__ import annotations

from pathlib import Path

import torch
from stable_baselines3 import PPO
from torch import Tensor

from ii_world_env.engine import Engine, State
from ii_world_env.observations.build import build_observation
from world_model.core.errors import CheckpointError


class PPOPlanner:
    """Acts with a policy that `python -m agents.train` saved. The zip holds pickled code: open only your own.

    Args:
        engine: says which actions there are and what the grid is.
        path: the model zip.

    Raises:
        CheckpointError: the file is missing, damaged, or was trained for other actions or observations.
    """

    def __init__(self, engine: Engine, path: str | Path) -> None:
        self.name = f"ppo:{Path(path).parent.name or Path(path).stem}"
        remedy = "give the model.zip that `python -m agents.train` wrote"
        if not Path(path).is_file():
            raise CheckpointError(f"no policy at {path}", "a model zip of stable-baselines3", remedy)
        try:
            self.model = PPO.load(path, device="cpu")
        except Exception as error:  # SB3 lets every kind of pickle, zip and torch error through
            raise CheckpointError(
                f"{path} cannot be read ({error})", "a model zip of stable-baselines3", remedy
            ) from error
        size = self.model.action_space.shape
        if size != (engine.action_mode.size,):
            raise CheckpointError(
                f"{path} was trained for actions of shape {size}",
                f"shape ({engine.action_mode.size},) for action={engine.config.action!r}",
                "choose the action mode that it was trained with",
            )
        name = "bev" if hasattr(self.model.observation_space, "spaces") else "occupancy"
        self.observation = build_observation(name, engine.world, engine.action_mode)

    def reset(self, state: State) -> None:
        """Nothing is kept."""

    def act(self, state: State) -> Tensor:
        observed = self.observation.observe(state)
        if isinstance(observed, dict):
            actions, _ = self.model.predict({k: v.cpu().numpy() for k, v in observed.items()}, deterministic=True)
        else:
            actions, _ = self.model.predict(observed.cpu().numpy(), deterministic=True)
        return torch.as_tensor(actions, device=state.pose.device)
