"""Worlds: everything that can surround the ego vehicle, behind one protocol."""

from __future__ import annotations

from world_model.core.tensor_state import TensorState
from world_model.worlds.build import WORLD_NAMES, build_world, pick_device, untouched_gpu
from world_model.worlds.kinds import LEARNED_NAMES, resolve_world
from world_model.worlds.protocol import (
    AgentTracking,
    Latent,
    Limited,
    ManyFutures,
    MotionPredicting,
    Populated,
    SelfChecking,
    SelfDriving,
    Stage,
    World,
    WorldState,
    agents_of,
    check_steps,
    limits_of,
)
from world_model.worlds.replay import ReplayWorld
from world_model.worlds.transport import TransportWorld

__all__ = [
    "LEARNED_NAMES",
    "WORLD_NAMES",
    "AgentTracking",
    "Latent",
    "Limited",
    "ManyFutures",
    "MotionPredicting",
    "Populated",
    "ReplayWorld",
    "SelfChecking",
    "SelfDriving",
    "Stage",
    "TensorState",
    "TransportWorld",
    "World",
    "WorldState",
    "agents_of",
    "build_world",
    "check_steps",
    "limits_of",
    "pick_device",
    "resolve_world",
    "untouched_gpu",
]
