"""Drives that nobody logs: the ego wanders, chases what is ahead of it, or leaves the road, through whatever is there.

A model that has only seen good drivers has never seen a car come close, or the road from beside it. These drives show
both. They begin with the built-in driver, so that what is observed before the first wild step looks as it always does.
"""

from __future__ import annotations

import math

import numpy as np

from world_model.core.grid import STEP_S
from world_model.simulator.state import Floats, SimState
from world_model.simulator.traffic.roll import ACCEL_MPS2, MAX_CURVATURE, roll, to_least

MANNERS = ("drift", "wander", "chase", "leave")
TAME_STEPS = 7
"""Steps of the built-in driver at the beginning."""
WILD_STEPS = 16
HOLD_STEPS = 2
"""Steps for which an acceleration and a curvature are held."""
DRIFT_CURVATURE = 0.03
LEAVE_RAD = math.radians(55)
AHEAD_RAD, NEAR_M, FAR_M = math.radians(40), 4.0, 40.0
"""What is chased lies within this angle of the nose, and this far away."""


def is_wild(scene: int, share: float) -> bool:
    """Whether a scene is driven wildly: evenly spread over the numbers, never the first of all."""
    return math.floor((scene + 1) * share) > math.floor(scene * share)


def wild_motion(state: SimState, start: SimState, seed: int, dt_s: float = STEP_S) -> Floats:
    """The next motion (dx m, dy m, yaw rad) of a wild drive, in the ego frame.

    Args:
        state: where the ego is.
        start: where the wild drive began.
        seed: of the data set; with the scene's number it decides the manner of the whole drive.
        dt_s: duration of the step.
    """
    scene, step = state.scene_index, state.step_index - start.step_index
    manner = MANNERS[int(np.random.default_rng([seed, scene, 404]).integers(len(MANNERS)))]
    rng = np.random.default_rng([seed, scene, 405, step // HOLD_STEPS])
    speed = state.ego.speed
    accel, bend = rng.uniform(-ACCEL_MPS2, ACCEL_MPS2), rng.uniform(-1.0, 1.0)
    if manner == "drift":
        curvature = bend * DRIFT_CURVATURE
    elif manner == "wander":
        curvature = bend * MAX_CURVATURE
    elif manner == "chase":
        accel, curvature = to_least(speed), _towards(_prey(state))
    else:
        side = 1.0 if np.random.default_rng([seed, scene, 406]).random() < 0.5 else -1.0
        turned = math.remainder(state.ego.yaw - start.ego.yaw, 2 * math.pi)
        accel, curvature = to_least(speed), side * MAX_CURVATURE if abs(turned) < LEAVE_RAD else 0.0
    return roll(speed, accel, curvature, dt_s)[0]


def _prey(state: SimState) -> tuple[float, float] | None:
    """(x, y) in the ego frame of the nearest agent ahead."""
    e = state.ego
    d = state.movers.xy - (e.x, e.y)
    c, s = math.cos(e.yaw), math.sin(e.yaw)
    x, y = c * d[:, 0] + s * d[:, 1], c * d[:, 1] - s * d[:, 0]
    distance = np.hypot(x, y)
    fit = (np.abs(np.arctan2(y, x)) < AHEAD_RAD) & (distance > NEAR_M) & (distance < FAR_M)
    if not fit.any():
        return None
    nearest = np.flatnonzero(fit)[distance[fit].argmin()]
    return float(x[nearest]), float(y[nearest])


def _towards(target: tuple[float, float] | None) -> float:
    """Curvature of the arc to a point; straight on without one."""
    return 0.0 if target is None else 2 * target[1] / (target[0] ** 2 + target[1] ** 2)
