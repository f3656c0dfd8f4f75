"""Gymnasium spaces of the action and observation modes."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from ii_world_env.ego.actions import ACTION_MODES
from ii_world_env.observations.modes import OBSERVATION_MODES, Part, parts_of
from world_model.core.errors import OptionError
from world_model.core.grid import VoxelGrid
from world_model.worlds import World

__all__ = ["OBSERVATION_MODES", "action_space", "observation_space"]


def action_space(mode: str) -> spaces.Box | spaces.Discrete:
    """Symmetric box [-1, 1] of a continuous action mode, or the choices of a discrete one."""
    if mode not in ACTION_MODES:
        raise OptionError(f"action={mode!r}", f"one of {tuple(ACTION_MODES)}", "choose one of them")
    chosen = ACTION_MODES[mode]
    return spaces.Discrete(len(chosen.choices)) if chosen.discrete else spaces.Box(-1.0, 1.0, chosen.shape, np.float32)


def observation_space(mode: str, action: str, grid: VoxelGrid, world: World | None = None) -> spaces.Space:
    """Space of an observation mode, see `observations.parts_of`: a box, or a dict of boxes.

    Class ids are bounded by 17, not 255: stable-baselines3 would take the latter for a picture.

    Args:
        mode, action: names of the modes.
        grid: voxel grid of the world.
        world: needed for "tokens", whose shape is the world's.

    Raises:
        OptionError: no such mode.
        ConfigError: tokens of a world that has none.
    """
    parts: dict[str, spaces.Space[Any]] = {
        name: _box(part) for name, part in parts_of(mode, grid, ACTION_MODES[action].width, world).items()
    }
    return spaces.Dict(parts) if len(parts) > 1 else next(iter(parts.values()))


def _box(part: Part) -> spaces.Box:
    dtype: Any = np.uint8 if part.whole else np.float32
    low, high = (np.full(part.shape, bound, dtype) for bound in (part.low, part.high))
    return spaces.Box(low, high, part.shape, dtype)
