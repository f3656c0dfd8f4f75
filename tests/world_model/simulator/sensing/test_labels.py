"""Labels of a frame against a dense twin that works on every voxel."""

from __future__ import annotations

import math

import numpy as np
import pytest

from world_model.core.grid import FREE, OCC3D
from world_model.simulator import SimState, Simulator
from world_model.simulator.sensing import labels as module
from world_model.simulator.sensing import sensor
from world_model.simulator.sensing.cells import NX, NY, NZ
from world_model.simulator.sensing.crop import Crop, complete_labels, crop
from world_model.simulator.town.painting import CELL_M
from world_model.simulator.town.town import build_town

SEED = 3
TOPS_M = (np.arange(NZ) + 1) * OCC3D.voxel_m + OCC3D.lower_m[2]


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return Simulator()


@pytest.fixture(scope="module", params=[0, 1])
def state(request: pytest.FixtureRequest, simulator: Simulator) -> SimState:
    state = simulator.reset(SEED, request.param)
    for _ in range(3):
        state = simulator.step(state)
    return state


def dense_noise(scene: Crop, shift: int) -> np.ndarray:
    field = sensor.gap_noise().reshape(sensor.NOISE_CELLS, sensor.NOISE_CELLS, NZ)
    return field[(scene.cell_i + shift) % sensor.NOISE_CELLS, scene.cell_j % sensor.NOISE_CELLS]


def dense_objects(state: SimState, scene: Crop, full: np.ndarray, lowest: np.ndarray) -> np.ndarray:
    """(X, Y, Z) whether a voxel of an agent is labelled, agent by agent."""
    keep = np.zeros((NX, NY, NZ), bool)
    solid = (full >= 1) & (full <= module.LAST_OBJECT)
    owner = scene.owner.reshape(NX, NY)
    field = sensor.gap_noise().reshape(sensor.NOISE_CELLS, sensor.NOISE_CELLS, NZ)
    field = (field * np.exp(-1j * module.OBJECT_DRIFT * state.memory.phase_rad)).real
    for k, (x, y) in enumerate(scene.local_xy.tolist()):
        i, j, level = np.nonzero(solid & (owner == k)[..., None])
        if not len(i):
            continue
        share = (TOPS_M[level] > lowest[i, j]).mean()
        threshold = np.interp(math.hypot(x, y), module.RANGES_M, module.OBJECT_COVER)
        threshold -= 2.0 * min(max(0.6 - share, 0), 1) / 0.6
        threshold = -9 if share < 0.06 else threshold
        dx, dy = OCC3D.lower_m[0] + 0.4 * (i + 0.5) - x, OCC3D.lower_m[1] + 0.4 * (j + 0.5) - y
        c, s = math.cos(scene.local_yaw[k]), math.sin(scene.local_yaw[k])
        a = np.floor((c * dx + s * dy) / CELL_M).astype(int) + 53 * scene.ids[k]
        b = np.floor((c * dy - s * dx) / CELL_M).astype(int) + 97 * scene.ids[k]
        keep[i, j, level] = field[a % 256, b % 256, level] < threshold
    return keep


def dense_labels(state: SimState) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Semantics and both masks by operations on the whole grid."""
    town, memory = build_town(state.seed, state.town_id), state.memory
    scene = crop(town, state)
    full = complete_labels(town, state, scene).reshape(NX, NY, NZ)
    lowest, highest = sensor.cast_rays(scene.occluder)
    noise = dense_noise(scene, module.SCENE_SHIFT_I * state.scene_index) * np.exp(-1j * memory.phase_rad)
    metres = np.minimum(memory.range_m, 200).astype(int)
    threshold = module.COVER_TABLE.reshape(FREE + 1, -1)[full, metres[..., None]]
    seen = (memory.lowest_m[..., None] < TOPS_M) | (scene.owner.reshape(NX, NY, 1) >= 0)
    keep = (full != FREE) & seen & (noise.real < threshold)
    objects = (full >= 1) & (full <= module.LAST_OBJECT)
    keep[objects] = dense_objects(state, scene, full, lowest)[objects]
    z = TOPS_M - OCC3D.voxel_m / 2
    beam = sensor.LIDAR_Z_M + module.BEAM_SLOPE * sensor.rays().range_m + 0.6
    ceiling = np.minimum(highest + 0.1, beam)
    free_noise = (dense_noise(scene, module.FREE_SHIFT_I)[..., 0] * np.exp(-1j * memory.phase_rad)).real
    ceiling[free_noise >= np.interp(sensor.rays().range_m, module.FREE_RANGES_M, module.FREE_COVER)] = -9
    free = (z > np.minimum(lowest, memory.lowest_m)[..., None] - 0.15) & (z < ceiling[..., None])
    return (
        np.where(keep, full, FREE),
        np.where(keep, noise.imag < module.LIDAR_COVER, free),
        np.where(keep, noise.imag < module.CAMERA_COVER, free),
    )


def test_labels_equal_their_dense_twin(simulator: Simulator, state: SimState) -> None:
    fast = simulator.labels(state)
    for name, slow in zip(("semantics", "mask_lidar", "mask_camera"), dense_labels(state), strict=True):
        # Single against double precision: a voxel on the very edge of a threshold may differ.
        assert (getattr(fast, name) != slow).mean() < 2e-5, name
        assert getattr(fast, name).dtype == np.uint8
    assert (fast.semantics != FREE).mean() > 0.01


def test_labels_do_not_depend_on_what_was_asked_before(simulator: Simulator, state: SimState) -> None:
    newest = simulator.step(state)
    first = simulator.labels(newest)
    simulator.labels(state)
    for again in (simulator.labels(newest), simulator.labels(newest.clone()), Simulator().labels(newest)):
        for name in ("semantics", "mask_lidar", "mask_camera"):
            assert (getattr(again, name) == getattr(first, name)).all()
