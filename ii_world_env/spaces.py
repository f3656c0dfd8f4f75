"""Gymnasium spaces of the action and observation modes."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from ii_world_env import observations
from ii_world_env.actions import ACTION_MODES
from world_model.errors import OptionError
from world_model.grid import FREE, VoxelGrid

OBSERVATION_MODES = ("bev", "occupancy")


def action_space(mode: str) -> spaces.Box:
    """Symmetric box [-1, 1] of an action mode."""
    if mode not in ACTION_MODES:
        raise OptionError(f"action={mode!r}", f"one of {tuple(ACTION_MODES)}", "choose one of them")
    return spaces.Box(-1.0, 1.0, (ACTION_MODES[mode].size,), np.float32)


def observation_space(mode: str, action: str, grid: VoxelGrid) -> spaces.Space:
    """Space of an observation mode: "bev" a dict with bev, ego, route; "occupancy" the whole grid.

    Class ids are bounded by 17, not 255: stable-baselines3 would take the latter for a picture.
    """
    if mode == "occupancy":
        return spaces.Box(0, FREE, grid.shape, np.uint8)
    if mode != "bev":
        raise OptionError(f"observation={mode!r}", f"one of {OBSERVATION_MODES}", "choose one of them")
    cells = (grid.shape[0] // observations.POOL, grid.shape[1] // observations.POOL)
    bound = np.array((*observations.EGO_BOUNDS, *[1.0] * ACTION_MODES[action].size), np.float32)
    reach = observations.ROUTE_BOUND_M
    return spaces.Dict(
        {
            "bev": spaces.Box(0, FREE, cells, np.uint8),
            "ego": spaces.Box(-bound, bound, dtype=np.float32),
            "route": spaces.Box(-reach, reach, (2 * observations.ROUTE_POINTS,), np.float32),
        }
    )
