"""Action sets: physical, repeatable, and each what its name says."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from world_model.core.geometry import invert_pose
from world_model.core.grid import FREE, OCC3D, STEP_S
from world_model.data.clips import load_frame
from world_model.data.demo import demo_root
from world_model.data.index import SceneIndex
from world_model.evaluation.fidelity.actions import (
    ACTION_SETS,
    DriveStart,
    commands,
    motions_for,
    nearest_obstacle,
    planar_drive,
    pursuit,
    road_ends,
)
from world_model.simulator.traffic.wild import GRIP_MPS2, MAX_CURVATURE, MAX_SPEED_MPS, arc


@pytest.fixture(scope="module")
def start() -> DriveStart:
    index = SceneIndex.load(demo_root())
    return DriveStart(index=index, frame=10, labels=load_frame(index, 10).numpy(), steps=16)


def end_of(motions: np.ndarray) -> np.ndarray:
    """(2,) where a drive ends, in the frame of its start."""
    place, heading = np.zeros(2), 0.0
    for dx, dy, yaw in motions:
        c, s = math.cos(heading), math.sin(heading)
        place, heading = place + np.array((c * dx - s * dy, s * dx + c * dy)), heading + yaw
    return place


def test_logged_motions_lead_along_the_log(start: DriveStart) -> None:
    logged = motions_for("logged", [start])
    pose = torch.from_numpy(start.index.ego_to_global[10])
    for step in logged.curr_to_next[0].double():
        pose = pose @ invert_pose(step)
    assert torch.allclose(pose, torch.from_numpy(start.index.ego_to_global[26]), atol=1e-3)
    assert logged.command[0].tolist() == start.index.command[10:26].tolist()


def test_beyond_the_end_of_the_scene_the_ego_stands(start: DriveStart) -> None:
    last = replace(start, frame=int(start.index.scene_start[1]) - 3)
    motions = planar_drive("logged", last)
    assert np.abs(motions[2:]).max() < 1e-9 < np.abs(motions[:2]).max()


@pytest.mark.parametrize("name", ACTION_SETS)
def test_every_drive_is_repeatable_and_physical(start: DriveStart, name: str) -> None:
    motions = planar_drive(name, start)
    assert motions.shape == (16, 3) and np.isfinite(motions).all()
    assert np.array_equal(motions, planar_drive(name, start))
    assert np.hypot(motions[:, 0], motions[:, 1]).max() <= MAX_SPEED_MPS * STEP_S + 1e-9


def test_noise_follows_the_seed_and_the_log(start: DriveStart) -> None:
    other = replace(start, seed=1)
    for name in ("perturbed", "random"):
        assert not np.allclose(planar_drive(name, start), planar_drive(name, other))
    off = planar_drive("perturbed", start) - planar_drive("logged", start)
    assert 0.05 < np.abs(off[:, 0]).mean() < 2.0


def test_a_random_drive_keeps_its_grip(start: DriveStart) -> None:
    motions = planar_drive("random", start)
    distance = np.hypot(motions[:, 0], motions[:, 1])
    curvature = np.abs(motions[:, 2]) / np.maximum(distance, 1e-6)
    assert curvature.max() < MAX_CURVATURE * 1.05
    assert (curvature * (distance / STEP_S) ** 2).max() < GRIP_MPS2 * 1.05


def test_an_adversarial_drive_goes_through_the_nearest_obstacle(start: DriveStart) -> None:
    labels = np.full(OCC3D.shape, FREE, np.uint8)
    labels[140, 110, 3], labels[160, 100, 3] = 4, 15
    seen = replace(start, labels=labels)
    target = nearest_obstacle(seen)
    assert target == pytest.approx((16.2, 4.2))
    path = np.stack([end_of(planar_drive("towards obstacle", seen)[:k]) for k in range(17)])
    between = np.concatenate([np.linspace(a, b, 20) for a, b in pairwise(path)])
    assert np.linalg.norm(between - target, axis=1).min() < 0.6


def test_the_road_is_left_where_it_ends_sooner(start: DriveStart) -> None:
    labels = np.full(OCC3D.shape, FREE, np.uint8)
    labels[:, 95:125, 2] = 11
    labels[:, :95, 2], labels[:, 125:, 2] = 13, 14
    right = replace(start, labels=labels)
    left = replace(start, labels=labels[:, ::-1])
    assert (road_ends(right), road_ends(left)) == (-1, 1)
    assert end_of(planar_drive("off road", right))[1] < -6 and end_of(planar_drive("off road", left))[1] > 6


def test_pursuit_arrives_when_it_is_to(start: DriveStart) -> None:
    motions = pursuit(start, (20.0, 0.0), accel_mps2=0.0)
    assert end_of(motions[:6])[0] == pytest.approx(start.speed_mps * 3, abs=0.01)


def test_commands_say_where_the_drive_turns() -> None:
    left, right, ahead = ([arc(2.0, yaw) for _ in range(8)] for yaw in (0.1, -0.1, 0.0))
    said = commands(np.stack([left, right, ahead]))
    assert said[:, 0].tolist() == [1, 0, 2] and said.shape == (3, 8)
