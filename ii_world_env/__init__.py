"""Gymnasium environments inside a learned occupancy world. Importing this module registers them, and nothing else.

import gymnasium as gym
import ii_world_env

env = gym.make("IIWorld-nuScenes-v0")
"""

from __future__ import annotations

from gymnasium.envs.registration import register, registry

ENV_ID = "IIWorld-nuScenes-v0"

if ENV_ID not in registry:
    # A string entry point: torch is loaded by gym.make, not by this import. The environment truncates itself.
    register(id=ENV_ID, entry_point="ii_world_env.env:IIWorldEnv")
