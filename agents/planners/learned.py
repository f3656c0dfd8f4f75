"""A trained stable-baselines3 policy as a planner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from torch import Tensor

from ii_world_env.ego.actions import ActionMode
from ii_world_env.engine import Engine, State
from ii_world_env.observations.build import OBSERVATION_MODES, Observation, build_observation
from world_model.core.errors import CheckpointError, ConfigError


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
        mode = engine.action_mode
        space, wanted = self.model.action_space, _action_space(mode)
        if (
            type(space) is not type(wanted)
            or space.shape != wanted.shape
            or getattr(space, "n", 0) != len(mode.choices)
        ):
            found = f"{space.n} choices" if isinstance(space, spaces.Discrete) else f"shape {space.shape}"
            raise CheckpointError(
                f"{path} was trained for actions of {found}",
                f"{wanted} for action={engine.config.action!r}",
                "choose the action mode that it was trained with",
            )
        self.observation = _observation(engine, self.model.observation_space, Path(path))

    def reset(self, state: State) -> None:
        """Nothing is kept."""

    def act(self, state: State) -> Tensor:
        observed = self.observation.observe(state)
        if isinstance(observed, dict):
            actions, _ = self.model.predict({k: v.cpu().numpy() for k, v in observed.items()}, deterministic=True)
        else:
            actions, _ = self.model.predict(observed.cpu().numpy(), deterministic=True)
        return torch.as_tensor(actions, device=state.pose.device)


def _action_space(mode: ActionMode) -> spaces.Space[Any]:
    return spaces.Discrete(len(mode.choices)) if mode.choices else spaces.Box(-1.0, 1.0, mode.shape, np.float32)


def _observation(engine: Engine, space: spaces.Space[Any], path: Path) -> Observation:
    """The observation mode whose space a policy was trained for: the one that its run wrote down, or any that fits.

    Raises:
        CheckpointError: no mode has that space in this world.
    """
    try:
        written = [str(json.loads((path.parent / "config.json").read_text(encoding="utf-8-sig"))["observation"])]
    except (OSError, ValueError, KeyError, TypeError):
        written = []  # a policy without its run's folder
    for name in (*written, *OBSERVATION_MODES):
        try:
            observation = build_observation(name, engine.world, engine.action_mode, engine.config.footprint)
        except ConfigError:
            continue  # a mode that only other worlds have
        if observation.space() == space:
            return observation
    raise CheckpointError(
        f"{path} was trained for observations {space}",
        f"those of {', '.join((*written, *OBSERVATION_MODES))} in this world",
        "choose the world and the action mode that it was trained with",
    )
