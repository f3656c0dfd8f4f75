"""Gymnasium environments inside a learned occupancy world. Importing this module registers them, and nothing else.

import gymnasium as gym
import ii_world_env

env = gym.make("IIWorld-nuScenes-v0")
envs = gym.make_vec("IIWorld-nuScenes-v0", num_envs=8)  # one process, one model, one forward per step
"""

from __future__ import annotations

from gymnasium.envs.registration import register, registry

from ii_world_env.faces import forks as _forks  # its hook must be there before the first fork  # noqa: F401
from ii_world_env.hidden import check_packages

ENV_ID = "IIWorld-nuScenes-v0"
WAYMO_ID = "IIWorld-Waymo-v0"
STCOCC_ID = "IIWorld-STCOcc-v0"
# The first id drives in any prepared data set, or in the bundled demo scenes; each other one needs its own data set.
_DATASET_OF = {ENV_ID: "any", WAYMO_ID: "waymo", STCOCC_ID: "stcocc"}

check_packages()
for _id, _dataset in _DATASET_OF.items():
    if _id not in registry:
        # String entry points: torch is loaded by gym.make, not by this import. The environments truncate themselves.
        register(
            id=_id,
            entry_point="ii_world_env.env:IIWorldEnv",
            vector_entry_point="ii_world_env.vector_env:IIWorldVectorEnv",
            kwargs={} if _dataset == "any" else {"dataset": _dataset},
        )
