"""A trained stable-baselines3 policy as a planner."""

from __future__ import annotations

from pathlib import Path

import torch
from stable_baselines3 import PPO
from torch import Tensor

from ii_world_env.engine import Engine, State
from ii_world_env.observations import modes as observations
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
        self.name, self.grid = f"ppo:{Path(path).parent.name or Path(path).stem}", engine.world.grid
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
        self.wants_dict = hasattr(self.model.observation_space, "spaces")

    def reset(self, state: State) -> None:
        """Nothing to forget."""

    def act(self, state: State) -> Tensor:
        if self.wants_dict:
            seen = {
                "bev": observations.bev(state.labels, self.grid).cpu().numpy(),
                "ego": observations.ego(state).cpu().numpy(),
                "route": observations.route(state).cpu().numpy(),
            }
            actions, _ = self.model.predict(seen, deterministic=True)
        else:
            actions, _ = self.model.predict(state.labels.cpu().numpy(), deterministic=True)
        return torch.as_tensor(actions, device=state.pose.device)
