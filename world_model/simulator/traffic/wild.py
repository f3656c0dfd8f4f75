"""Drives that no log holds: the ego drifts, wanders, chases what is ahead of it, or leaves the road, through anything.

A model that has only seen good drivers has never seen a car come close, or the road from beside it. These drives show
both, on arcs within the limits of a car: no slide, bounded speed, grip and curvature. Motions (dx m, dy m, yaw rad) are
in the ego frame at the beginning of a step. The first steps are the built-in driver's, so their frames are ordinary.
"""

from __future__ import annotations

import math

import numpy as np

from world_model.core.grid import STEP_S
from world_model.simulator.polylines import into
from world_model.simulator.state import Floats, SimState

MAX_SPEED_MPS, GRIP_MPS2, MAX_CURVATURE = 15.0, 4.0, 0.2
"""No drive is faster, pulls sideways harder, or turns tighter (1/m) than this."""
ACCEL_MPS2 = 3.0
LEAST_SPEED_MPS = 5.0
"""Speed up to which the ego accelerates when it drives at something or off the road."""
MANOEUVRES = ("drift", "wander", "chase", "leave")
NORMAL_STEPS = 7
"""Steps of the built-in driver at the beginning."""
WILD_STEPS = 16
HOLD_STEPS = 2
"""Steps for which an acceleration and a curvature are held."""
DRIFT_CURVATURE = 0.03
LEAVE_RAD = math.radians(55)
AHEAD_RAD, NEAR_M, FAR_M = math.radians(40), 4.0, 40.0
"""What is chased lies within this angle of the heading, and this far away."""


def wild_motion(state: SimState, start: SimState, seed: int, dt_s: float = STEP_S) -> Floats:
    """The next motion (dx m, dy m, yaw rad) of a wild drive, in the ego frame.

    Args:
        state: where the ego is.
        start: where the wild drive began.
        seed: of the data set; with the scene's number it decides the manoeuvre of the whole drive.
        dt_s: duration of the step.
    """
    scene, step = state.scene_index, state.step_index - start.step_index
    manoeuvre = MANOEUVRES[int(np.random.default_rng([seed, scene, 404]).integers(len(MANOEUVRES)))]
    rng = np.random.default_rng([seed, scene, 405, step // HOLD_STEPS])
    speed = state.ego.speed
    accel, bend = rng.uniform(-ACCEL_MPS2, ACCEL_MPS2), rng.uniform(-1.0, 1.0)
    if manoeuvre == "drift":
        curvature = bend * DRIFT_CURVATURE
    elif manoeuvre == "wander":
        curvature = bend * MAX_CURVATURE
    elif manoeuvre == "chase":
        accel, curvature = accel_to_least_speed(speed), _curvature_to_nearest(state)
    else:
        side = 1.0 if np.random.default_rng([seed, scene, 406]).random() < 0.5 else -1.0
        turned = math.remainder(state.ego.yaw - start.ego.yaw, 2 * math.pi)
        accel, curvature = accel_to_least_speed(speed), side * MAX_CURVATURE if abs(turned) < LEAVE_RAD else 0.0
    return arc_step(speed, accel, curvature, dt_s)[0]


def _curvature_to_nearest(state: SimState) -> float:
    """Curvature (1/m) of the arc to the nearest agent ahead; 0 if there is none."""
    e, xy = state.ego, state.motion.xy
    x, y = into(xy[:, 0] - e.x, xy[:, 1] - e.y, math.cos(e.yaw), math.sin(e.yaw))
    distance = np.hypot(x, y)
    fit = np.flatnonzero((np.abs(np.arctan2(y, x)) < AHEAD_RAD) & (distance > NEAR_M) & (distance < FAR_M))
    if not len(fit):
        return 0.0
    nearest = fit[distance[fit].argmin()]
    ahead_m, left_m = float(x[nearest]), float(y[nearest])
    return 2 * left_m / (ahead_m**2 + left_m**2)


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
