"""What a LiDAR sees over a height map, against a slow twin that goes ray by ray, and the noise of its gaps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from world_model.core.grid import OCC3D
from world_model.simulator import SimState, Simulator
from world_model.simulator.sensing import sensor
from world_model.simulator.sensing.cells import NX, NY, NZ
from world_model.simulator.sensing.crop import crop
from world_model.simulator.town.town import build_town

SEED = 3
LOW, V = OCC3D.lower_m, OCC3D.voxel_m


def centre(i: int, j: int) -> tuple[float, float]:
    return LOW[0] + V * (i + 0.5), LOW[1] + V * (j + 0.5)


@pytest.fixture(scope="module")
def state() -> SimState:
    simulator = Simulator()
    return simulator.step(simulator.reset(SEED, 0))


def slow_rays(occluder: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ray by ray, bin by bin."""
    lowest, highest = np.zeros((NX, NY)), np.zeros((NX, NY))
    bins, azimuths = sensor.BINS, sensor.AZIMUTHS
    slopes = np.zeros((azimuths, bins))
    for a in range(azimuths):
        angle = (a + 0.5) / azimuths * 2 * math.pi - math.pi
        for r in range(bins):
            away = (r + 0.5) * sensor.BIN_M
            i = math.floor((sensor.LIDAR_X_M + away * math.cos(angle) - LOW[0]) / V)
            j = math.floor((away * math.sin(angle) - LOW[1]) / V)
            top = occluder[i, j] * V + LOW[2] if 0 <= i < NX and 0 <= j < NY else 0.0
            slopes[a, r] = (max(top, 0.0) - sensor.LIDAR_Z_M) / away
    for i in range(NX):
        for j in range(NY):
            x, y = centre(i, j)
            away = math.hypot(x - sensor.LIDAR_X_M, y)
            a = math.floor((math.atan2(y, x - sensor.LIDAR_X_M) + math.pi) / (2 * math.pi) * azimuths) % azimuths
            r = min(int(away / sensor.BIN_M), bins - 1)
            before = slopes[a, : max(0, r - sensor.SELF_BINS + 1)]
            front = before.max() if len(before) else -9.0
            lowest[i, j] = sensor.LIDAR_Z_M + front * max(away, 0.5)
            highest[i, j] = sensor.LIDAR_Z_M + slopes[a, r:].max() * max(away, 0.5)
    return lowest, highest


def test_rays_end_at_the_steepest_slope_before_them(state: SimState) -> None:
    occluder = crop(build_town(state.seed, state.town_id), state).occluder
    for fast, slow in zip(sensor.cast_rays(occluder), slow_rays(occluder), strict=True):
        # Columns whose centre lies on the edge of a polar bin may be read one bin on in single precision.
        assert (np.abs(fast - slow) < 1e-3).mean() > 0.999


def test_a_wall_hides_what_is_behind_it() -> None:
    occluder = np.zeros((NX, NY), np.uint8)
    occluder[130:133, 60:140] = 8  # twelve metres ahead, over a metre thick, 2.2 m high
    lowest, _ = sensor.cast_rays(occluder)
    assert lowest[120, 100] < 0 and lowest[150, 100] > 2.2


def test_noise_is_unit_smooth_and_drifts_between_independent_fields() -> None:
    noise = sensor.gap_noise()
    field = noise.real.reshape(sensor.NOISE_CELLS, sensor.NOISE_CELLS, NZ)
    assert abs(field.std() - 1) < 1e-3
    assert (field[1:] * field[:-1]).mean() > 0.9
    assert abs((noise.real * noise.imag).mean()) < 0.1
    assert np.allclose(sensor.drifted(noise[:9], 0.0), noise[:9])
    assert np.allclose(sensor.drifted(noise[:9], math.pi / 2).real, noise[:9].imag, atol=1e-6)
    assert (sensor.ground_noise().reshape(256, 256) == noise.reshape(256, 256, NZ)[..., 0]).all()
