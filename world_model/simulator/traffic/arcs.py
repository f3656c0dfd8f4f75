"""Motion along circles within the limits of a car: no slide, bounded speed, grip and curvature.

Frames: motions (dx m, dy m, yaw rad) over a step, in the ego frame at its beginning.
"""

from __future__ import annotations

import math

import numpy as np

from world_model.core.grid import STEP_S
from world_model.simulator.state import Floats

MAX_SPEED_MPS, GRIP_MPS2, MAX_CURVATURE = 15.0, 4.0, 0.2
"""No drive is faster, pulls sideways harder, or turns tighter (1/m) than this."""
ACCEL_MPS2 = 3.0
LEAST_SPEED_MPS = 5.0
"""Speed up to which the ego accelerates when it drives at something or off the road."""


def arc(distance_m: float, yaw_rad: float) -> Floats:
    """(3,) motion along a circle."""
    if abs(yaw_rad) < 1e-9:
        return np.array((distance_m, 0.0, yaw_rad))
    radius = distance_m / yaw_rad
    return np.array((radius * math.sin(yaw_rad), radius * (1 - math.cos(yaw_rad)), yaw_rad))


def arc_step(speed: float, accel: float, curvature: float, dt_s: float = STEP_S) -> tuple[Floats, float]:
    """One step of a vehicle that cannot slide: its motion (3,) and its new speed."""
    after = min(max(speed + accel * dt_s, 0.0), MAX_SPEED_MPS)
    mean = (speed + after) / 2
    most = min(MAX_CURVATURE, GRIP_MPS2 / max(mean, 0.1) ** 2)
    distance = mean * dt_s
    return arc(distance, min(max(curvature, -most), most) * distance), after


def accel_to_least_speed(speed: float) -> float:
    """The acceleration that leads to `LEAST_SPEED_MPS`, where the car is slower."""
    return min(max((LEAST_SPEED_MPS - speed) / STEP_S, 0.0), ACCEL_MPS2)
