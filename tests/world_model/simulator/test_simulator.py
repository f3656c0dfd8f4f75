"""The simulator as dynamics: pure, deterministic, reactive, and hard to break."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest

from world_model.core.errors import ActionError, ConfigError
from world_model.core.grid import CLASS_ID, DRIVEABLE, FREE, MOVABLE
from world_model.simulator import SimState, Simulator, SimulatorConfig
from world_model.simulator.dataset.statistics import overlap, warp
from world_model.simulator.sensing.cells import footprints

SEED = 3


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return Simulator()


@pytest.fixture(scope="module")
def start(simulator: Simulator) -> SimState:
    return simulator.reset(SEED, 0)


@pytest.fixture(scope="module")
def drive(simulator: Simulator, start: SimState) -> list[SimState]:
    states = [start]
    for _ in range(12):
        states.append(simulator.step(states[-1]))
    return states


def own_motion(before: SimState, after: SimState) -> tuple[float, float, float]:
    """The (dx, dy, dyaw) that the ego made between two states."""
    a, b = before.ego, after.ego
    c, s = np.cos(a.yaw), np.sin(a.yaw)
    dx, dy = b.x - a.x, b.y - a.y
    return float(c * dx + s * dy), float(c * dy - s * dx), b.yaw - a.yaw


def test_step_leaves_its_input_alone_and_repeats(simulator: Simulator, start: SimState) -> None:
    before = pickle.dumps(start)
    first, second = simulator.step(start), simulator.step(start.clone())
    assert pickle.dumps(start) == before
    assert pickle.dumps(first) == pickle.dumps(second)


def test_reset_is_a_function_of_seed_and_scene(simulator: Simulator, start: SimState) -> None:
    other = simulator.reset(SEED, 1)
    assert pickle.dumps(simulator.reset(SEED, 0)) == pickle.dumps(start)
    assert (other.ego.x, other.ego.y) != (start.ego.x, start.ego.y)


def test_driving_the_drivers_own_motion_gives_the_same_world(simulator: Simulator, drive: list[SimState]) -> None:
    state = drive[0]
    for before, after in itertools.pairwise(drive[:4]):
        state = simulator.step(state, own_motion(before, after))
    # Within a step the given motion is a straight line, so that followers see the ego a few centimetres elsewhere.
    assert np.abs(state.motion.xy - drive[3].motion.xy).max() < 0.3
    assert abs(state.ego.x - drive[3].ego.x) + abs(state.ego.y - drive[3].ego.y) < 1e-9
    assert (simulator.labels(state).semantics == simulator.labels(drive[3]).semantics).mean() > 0.99


def test_traffic_reacts_to_the_ego(simulator: Simulator, start: SimState) -> None:
    stop = go = start
    for _ in range(12):
        stop, go = simulator.step(stop, (0.0, 0.0, 0.0)), simulator.step(go)
    assert np.abs(stop.motion.xy - go.motion.xy).max() > 0.5


def test_anywhere_off_the_road_is_survived(simulator: Simulator, start: SimState) -> None:
    state = start
    for _ in range(8):
        state = simulator.step(state, (9.0, 6.0, 0.4))
    for _ in range(70):
        state = simulator.step(state, (12.0, 0.0, 0.0))
    labels = simulator.labels(state)
    assert labels.semantics.shape == (200, 200, 16)
    assert not 0 <= state.ego.x <= 480 or not 0 <= state.ego.y <= 480
    back = simulator.step(state)
    assert np.isfinite([back.ego.x, back.ego.y, back.ego.yaw, back.ego.speed]).all()


@pytest.mark.parametrize("bad", [(1.0, 2.0), (np.nan, 0.0, 0.0), (np.inf, 0.0, 0.0)])
def test_bad_motion_is_named(simulator: Simulator, start: SimState, bad: tuple[float, ...]) -> None:
    with pytest.raises(ActionError, match="three finite numbers"):
        simulator.step(start, bad)


def test_bad_config_is_named() -> None:
    with pytest.raises(ConfigError, match="scenes_per_town=0"):
        SimulatorConfig(scenes_per_town=0)


def test_masks_and_ground(simulator: Simulator, drive: list[SimState]) -> None:
    labels = simulator.labels(drive[-1])
    camera, lidar = labels.mask_camera.astype(bool), labels.mask_lidar.astype(bool)
    occupied = labels.semantics != FREE
    assert set(np.unique(labels.mask_lidar)) == {0, 1}
    assert (lidar >= camera).all()
    assert occupied[lidar & ~camera].all()
    assert 0.9 < lidar[occupied].mean() < 1
    assert (labels.semantics[97:103, 98:102, 2] == DRIVEABLE).mean() > 0.8
    levels = np.nonzero(labels.semantics == DRIVEABLE)[2]
    assert (levels == 2).all()


def test_near_cars_are_labelled_inside_their_boxes(simulator: Simulator, drive: list[SimState]) -> None:
    checked = 0
    for scene in range(7):
        state = drive[-1] if scene == 0 else simulator.reset(SEED, scene)
        labels = simulator.labels(state).semantics.reshape(-1, 16)
        for box in simulator.boxes(state, range_m=11.0):
            if box["label"] == CLASS_ID["car"]:
                x, y = (float(v) for v in box["center"][:2])
                cells, _ = footprints(np.array([[x, y]]), box["yaw"][None], box["size"][None])
                hit = labels[cells] == CLASS_ID["car"]
                checked += 1
                assert hit.any() or np.hypot(x, y) > 5
                assert not hit[:, 10:].any()
    assert checked > 3


def test_neighbouring_frames_overlap_as_lidar_labels_do(simulator: Simulator, drive: list[SimState]) -> None:
    same = union = 0.0
    for before, after in itertools.pairwise(drive):
        a, b = simulator.labels(before).semantics, simulator.labels(after).semantics
        table = overlap(warp(a, simulator.ego_pose(before), simulator.ego_pose(after)), b)
        same, union = same + table[0, FREE], union + table[1, FREE]
    assert 0.4 < same / union < 0.85


def test_warp_by_nothing_is_the_identity(simulator: Simulator, start: SimState) -> None:
    labels, pose = simulator.labels(start).semantics, simulator.ego_pose(start)
    assert (warp(labels, pose, pose) == labels).all()


def test_every_movable_class_lives_somewhere() -> None:
    simulator, seen = Simulator(SimulatorConfig(scenes_per_town=100)), set()
    for scene in range(6):
        state = simulator.reset(SEED, scene)
        seen |= set(state.agents.label.tolist())
        if set(MOVABLE) | {1, 8} <= seen:
            break
    assert set(MOVABLE) | {1, 8} <= seen


def test_boxes_move_with_their_velocity(simulator: Simulator, drive: list[SimState]) -> None:
    before, after = drive[-2], drive[-1]
    a, b = simulator.boxes(before), simulator.boxes(after)
    _, i, j = np.intersect1d(a["instance"], b["instance"], return_indices=True)
    place = [
        (simulator.ego_pose(s) @ np.c_[x["center"], np.ones(len(x))].T).T[:, :2]
        for s, x in ((before, a[i]), (after, b[j]))
    ]
    moved = np.hypot(*(place[1] - place[0]).T)
    speeds = np.stack([np.hypot(*a["velocity"][i].T), np.hypot(*b["velocity"][j].T)])
    assert (np.abs(moved - 0.5 * speeds.mean(0)) < 0.8).all()
    assert moved[speeds.max(0) == 0].max(initial=0) < 0.3
