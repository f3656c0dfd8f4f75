"""Trajectories as real drivers make them: speeds, accelerations and turns drawn from the statistics of nuScenes.

The quantiles are those of the ego vehicle in nuScenes val (Caesar et al., CVPR 2020), 5,869 steps of half a second. A
driver keeps a wanted speed and a wanted turn for a few seconds each, and changes to them smoothly within the bounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import STEP_S

QUANTILES = np.array((0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0))
SPEED_MPS = np.array((0.0, 0.0, 2.3, 5.6, 8.0, 10.8, 12.3, 13.0))
TURN_QUANTILES = np.array((0.0, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0))
YAW_RATE_DEG_S = np.array((0.0, 0.42, 1.78, 6.2, 12.6, 22.8, 22.9))
BRAKE_MPS2, ACCEL_MPS2 = 3.4, 3.8
LATERAL_MPS2 = 1.6
YAW_RATE_RPS = np.radians(22.9)
CURVATURE_PER_M = 1 / 5.5
"""The tightest turn that a passenger car drives."""
HOLD_S = 4.0
"""Mean time for which a wanted speed or turn is kept."""
STOP_SHARE, STOP_HOLD_S = 0.15, 8.0
"""Share of wanted speeds that are a stop (a light, others ahead), and how long one is kept."""
LAG_SPEED, LAG_TURN = 1.12, 1.5
"""What is wanted is only reached some time later, and bounded on the way: wishes this much larger than what is real
give real distributions of what is driven (docs/howto/generation.md has the table)."""
_SUBSTEPS = 10
_JERK_MPS3 = 4.0
_YAW_ACCEL_RPS2 = 0.6


def sample_motions(rng: np.random.Generator, steps: int, speed_mps: float, yaw_rate_rps: float = 0.0) -> NDArray[Any]:
    """Draw a drive.

    Args:
        rng: where chance comes from; the same state gives the same drive.
        steps: H, steps of 0.5 s.
        speed_mps: speed at the start.
        yaw_rate_rps: yaw rate at the start.

    Returns:
        (H, 3) dx m, dy m, dyaw rad. Accelerations, lateral accelerations and yaw rates stay within the 1st to 99th
        percentile of real driving (the start, which is given, aside).
    """
    dt = STEP_S / _SUBSTEPS
    speed, turn, accel = max(float(speed_mps), 0.0), float(yaw_rate_rps), 0.0
    wanted_speed, wanted_turn = _wanted_speed(rng), turn
    motions = np.zeros((steps, 3))
    for step in range(steps):
        x = y = yaw = 0.0
        for _ in range(_SUBSTEPS):
            # Who waits at a light waits longer than others keep their speed.
            if rng.random() < dt / (HOLD_S if wanted_speed else STOP_HOLD_S):
                wanted_speed = _wanted_speed(rng)
            if rng.random() < dt / HOLD_S:
                wanted_turn = float(rng.choice((-1, 1)) * _radians(rng))
            pull = np.clip((wanted_speed - speed) / 1.5, -BRAKE_MPS2, ACCEL_MPS2)
            accel += float(np.clip(pull - accel, -_JERK_MPS3 * dt, _JERK_MPS3 * dt))
            accel = float(np.clip(accel, -BRAKE_MPS2, ACCEL_MPS2))
            speed = max(speed + accel * dt, 0.0)
            accel = max(accel, 0.0) if speed == 0 else accel
            turn += float(np.clip(wanted_turn - turn, -_YAW_ACCEL_RPS2 * dt, _YAW_ACCEL_RPS2 * dt))
            most = min(YAW_RATE_RPS, LATERAL_MPS2 / max(speed, 0.1), CURVATURE_PER_M * speed)
            turn = float(np.clip(turn, -most, most))
            middle = yaw + turn * dt / 2
            x, y, yaw = x + speed * dt * np.cos(middle), y + speed * dt * np.sin(middle), yaw + turn * dt
        motions[step] = x, y, yaw
    return motions


def _wanted_speed(rng: np.random.Generator) -> float:
    if rng.random() < STOP_SHARE:
        return 0.0
    return LAG_SPEED * float(np.interp(rng.random(), QUANTILES, SPEED_MPS))


def _radians(rng: np.random.Generator) -> float:
    """A yaw rate above 0 as often as real ones have its size."""
    return LAG_TURN * float(np.radians(np.interp(rng.random(), TURN_QUANTILES, YAW_RATE_DEG_S)))
