"""What the LiDAR has seen during the drive, carried from one ego frame to the next."""

from __future__ import annotations

import math

import numpy as np

from world_model.core.grid import OCC3D
from world_model.simulator.polylines import into
from world_model.simulator.sensing import sensor
from world_model.simulator.sensing.cells import rotated_columns
from world_model.simulator.state import Ego, Float32s, Memory

UNSEEN_M = 99.0
DRIFT_RAD_PER_M, DRIFT_RAD_PER_S = 0.29, 0.12
FORGET_RANGE, FORGET_HEIGHT_M = 0.5, 0.08
"""Per metre driven: growth of the remembered viewing distance (metres) and of the lowest height seen."""
TOP_M = 3.2
"""A column counts as seen from here if a ray passes below this height."""


def blank_memory() -> Memory:
    """Nothing seen yet."""
    lowest, range_m = (np.full(OCC3D.shape[:2], value, np.float32) for value in (UNSEEN_M, sensor.NEVER_M))
    return Memory(lowest_m=lowest, range_m=range_m, phase_rad=0.0)


def remember(memory: Memory, before: Ego, after: Ego, lowest: Float32s, dt_s: float) -> Memory:
    """Carry the memory into the new ego frame and add what is seen now.

    Args:
        memory: seen so far, in the frame of ``before``.
        lowest: (X, Y) lowest heights over the ground seen now, in the frame of ``after`` (see ``cast_rays``).
        dt_s: seconds between both.
    """
    dx, dy = after.x - before.x, after.y - before.y
    driven = math.hypot(dx, dy)
    ahead, left = into(dx, dy, math.cos(before.yaw), math.sin(before.yaw))
    source = rotated_columns(ahead, left, after.yaw - before.yaw)
    range_now = sensor.rays().range_m.copy()
    range_now[lowest >= TOP_M] = sensor.NEVER_M
    combined = []
    for now, old, grows, nothing in (
        (lowest, memory.lowest_m, FORGET_HEIGHT_M * driven, UNSEEN_M),
        (range_now, memory.range_m, FORGET_RANGE * driven, sensor.NEVER_M),
    ):
        carried = np.append(old.reshape(-1), np.float32(nothing)).take(source)
        carried += np.float32(grows)
        combined.append(np.minimum(now, carried, out=carried))
    phase = memory.phase_rad + DRIFT_RAD_PER_M * driven + DRIFT_RAD_PER_S * dt_s
    return Memory(lowest_m=combined[0], range_m=combined[1], phase_rad=phase)
