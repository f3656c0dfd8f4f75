"""Frames on terrain: the flat frame where the ground is a plane, shifted where it is higher, hidden behind crests."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from world_model.core.grid import CLASS_ID, FREE, OCC3D
from world_model.simulator import SimState, Simulator
from world_model.simulator.sensing import sensor
from world_model.simulator.sensing.cells import NX, NY, NZ
from world_model.simulator.sensing.crop import crop
from world_model.simulator.sensing.ground import X_M, Y_M, lifted
from world_model.simulator.sensing.labels import Labels, render
from world_model.simulator.simulator import SimulatorConfig
from world_model.simulator.town.painting import CELLS
from world_model.simulator.town.terrain import Terrain
from world_model.simulator.town.town import Town, build_town

SEED = 3
ROAD = CLASS_ID["driveable_surface"]


@pytest.fixture(scope="module")
def flat() -> SimState:
    simulator = Simulator()
    state = simulator.reset(SEED, 0)
    for _ in range(3):
        state = simulator.step(state)
    return state


def frame(state: SimState, terrain: Terrain | None, raised_m: float = 0.0) -> Labels:
    """Labels of a state whose town has another ground, with an ego that sits deeper in it."""
    town: Town = replace(build_town(state.seed, state.town_id), terrain=terrain)
    scene = crop(town, state)
    if scene.ground_m is not None:
        scene = replace(scene, ground_m=scene.ground_m + np.float32(raised_m))
    return render(town, state, scene, sensor.cast_rays(scene.occluder, scene.ground_m))


def test_level_ground_of_any_height_and_tilt_is_the_flat_frame(flat: SimState) -> None:
    i, j = np.meshgrid(np.arange(CELLS) * 0.4, np.arange(CELLS) * 0.4, indexing="ij")
    plain = frame(flat, None)
    for along, across in ((0.0, 0.0), (0.1, -0.04)):
        drawn = frame(flat, Terrain(height_m=(7 + along * i + across * j).astype(np.float32)))
        for name in ("semantics", "mask_lidar", "mask_camera"):
            # The cells of the town are half a voxel away from the middles of columns, on a slope that shows.
            assert (getattr(drawn, name) != getattr(plain, name)).mean() < (1e-3 if along else 1e-5), name


def test_raised_ground_is_the_flat_frame_shifted(flat: SimState) -> None:
    level = Terrain(height_m=np.zeros((CELLS, CELLS), np.float32))
    town = replace(build_town(flat.seed, flat.town_id), terrain=level)
    scene = crop(town, flat)
    rays = sensor.cast_rays(scene.occluder, scene.ground_m)
    for up in (2, 1, -1, -3):
        assert scene.ground_m is not None
        raised = replace(scene, ground_m=scene.ground_m + np.float32(0.4 * up))
        plain, drawn = (render(town, flat, where, rays).semantics for where in (scene, raised))
        if up > 0:
            assert (drawn[..., up:] == plain[..., :-up]).all() and (drawn[..., :up] == FREE).all()
        else:
            assert (drawn[..., : NZ + up] == plain[..., -up:]).all()
            # What reached the top goes on above it.
            assert (drawn[..., up:] == plain[..., -1:]).all()


def test_lifting_cuts_and_thickens() -> None:
    ground = np.zeros((NX, NY), np.float32)
    ground[0, 0], ground[0, 1], ground[0, 2] = 6.0, -1.6, 0.19
    voxel = np.array([0 * 16 + 2, 1 * 16 + 2, 2 * 16 + 2, 2 * 16 + 5])
    label = np.array([ROAD, ROAD, ROAD, CLASS_ID["manmade"]], np.uint8)
    found, row = lifted(voxel, label, ground)
    assert sorted(zip(found.tolist(), row.tolist(), strict=True)) == [(2 * 16 + 2, 2), (2 * 16 + 3, 2), (2 * 16 + 5, 3)]


def test_crests_hide_what_is_behind_them() -> None:
    nothing, x = np.zeros((NX, NY), np.uint8), X_M[:, None] + 0 * Y_M
    crest = np.where(x > 15, -0.25 * (x - 15), 0).astype(np.float32)
    over_ground = sensor.cast_rays(nothing, crest)[0]
    behind = (x > 25) & (np.abs(Y_M) < 5)
    assert (over_ground[behind] > 0.3).all() and (over_ground[(x > 2) & (x < 8)] < 0).all()
    rising = np.where(x > 10, 0.1 * (x - 10), 0).astype(np.float32)
    assert (sensor.cast_rays(nothing, rising)[0][behind] < 0).all()


def test_a_drive_on_hills_is_the_flat_drive_on_other_ground() -> None:
    both = [Simulator(SimulatorConfig(terrain=kind)) for kind in ("flat", "hills")]
    flat, hills = (simulator.reset(SEED, 0) for simulator in both)
    for _ in range(2):
        flat, hills = both[0].step(flat), both[1].step(hills)
    assert flat.ego == hills.ego and (flat.motion.xy == hills.motion.xy).all() and hills.terrain == "hills"
    labels, again = both[1].labels(hills), Simulator().labels(hills.clone())
    assert all((getattr(labels, n) == getattr(again, n)).all() for n in ("semantics", "mask_lidar", "mask_camera"))
    assert len(np.unique(np.nonzero(labels.semantics == ROAD)[2])) > 1
    boxes, level = both[1].boxes(hills), both[0].boxes(flat)
    assert (boxes["center"][:, :2] == level["center"][:, :2]).all()
    pose = both[1].ego_pose(hills)
    assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3)) and math.isclose(np.linalg.det(pose), 1.0)
    ground = both[1].ground_m(hills, hills.motion.xy[boxes["instance"]])
    place = np.column_stack([hills.motion.xy[boxes["instance"]], ground, np.ones(len(ground))])
    # The ego frame of the labels is sheared, that of the pose is rotated: nearly the same heights.
    local = (np.linalg.inv(pose) @ place.T).T
    near = np.abs(boxes["center"][:, :2]).max(1) < 40
    assert np.allclose(local[near, 2], (boxes["center"][:, 2] - boxes["size"][:, 2] / 2)[near], atol=0.05)
    assert OCC3D.lower_m[2] < float(np.median(local[near, 2])) < OCC3D.upper_m[2]
