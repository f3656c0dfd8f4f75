"""Trajectories: read what is given and nothing else, drive like people, change only what is asked for."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from world_model.core.errors import OptionError
from world_model.core.geometry import motions_from_poses, planar_motions, poses_from_motions
from world_model.core.grid import STEP_S
from world_model.generation.trajectories import Edit, edited, read_trajectory, sample_motions
from world_model.generation.trajectories.sample import ACCEL_MPS2, BRAKE_MPS2, LATERAL_MPS2, YAW_RATE_RPS

CURVE = np.tile((3.0, 0.1, 0.08), (12, 1))


def matrices(motions: np.ndarray) -> np.ndarray:
    """(H, 4, 4) next ego frame -> current ego frame."""
    steps = np.tile(np.eye(4), (len(motions), 1, 1))
    c, s = np.cos(motions[:, 2]), np.sin(motions[:, 2])
    steps[:, 0, 0], steps[:, 0, 1], steps[:, 1, 0], steps[:, 1, 1] = c, -s, s, c
    steps[:, :2, 3] = motions[:, :2]
    return steps


def global_poses(motions: np.ndarray) -> np.ndarray:
    """(H + 1, 4, 4) somewhere far away."""
    pose = matrices(np.array([(600.0, 1200.0, 2.0)]))[0]
    poses = [pose]
    for step in matrices(motions):
        poses.append(poses[-1] @ step)
    return np.array(poses)


def test_poses_and_motions_are_each_others_inverse() -> None:
    rng = np.random.default_rng(0)
    motions = rng.normal(size=(20, 3)) * (3, 0.3, 0.4)
    assert np.allclose(motions_from_poses(poses_from_motions(motions)), motions)
    assert np.allclose(planar_motions(global_poses(motions)), motions)


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_every_documented_array_gives_the_same_drive(tmp_path: Path, suffix: str) -> None:
    forms = {
        "motion": CURVE,
        "next_in_curr": matrices(CURVE),
        "curr_to_next": np.linalg.inv(matrices(CURVE)),
        "ego_to_global": global_poses(CURVE),
    }
    for key, value in forms.items():
        path = tmp_path / f"{key}{suffix}"
        if suffix == ".npz":
            np.savez(path, **{key: value}, other=np.zeros(2))
        else:
            path.write_text(json.dumps({key: value.tolist(), "comment": "mine"}))
        read = read_trajectory(path)
        assert np.allclose(read if key == "motion" else motions_of(read), CURVE), key
    (tmp_path / "bare.json").write_text(json.dumps(CURVE.tolist()))
    assert np.allclose(read_trajectory(str(tmp_path / "bare.json")), CURVE)


def motions_of(steps: np.ndarray) -> np.ndarray:
    return np.stack((steps[:, 0, 3], steps[:, 1, 3], np.arctan2(steps[:, 1, 0], steps[:, 0, 0])), 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "none of the known"),
        ({"motion": CURVE, "ego_to_global": global_poses(CURVE)}, "known arrays"),
        ({"motion": np.zeros((0, 3))}, "H at least 1"),
        ({"motion": np.zeros((3, 2))}, "H at least 1"),
        ({"ego_to_global": np.eye(4)[None]}, "H at least 1"),
        ({"motion": np.full((2, 3), np.nan)}, "not finite"),
        ({"motion": np.array([["a", "b", "c"]])}, "no array of numbers"),
        ({"motion": np.array([(80.0, 0.0, 0.0)])}, "check the units"),
        ({"motion": np.array([(3.0, 0.0, 5.0)])}, "check the units"),
        ({"next_in_curr": np.zeros((2, 4, 4))}, "no rigid transform"),
        ({"next_in_curr": 2 * matrices(CURVE)}, "no rigid transform"),
        ({"next_in_curr": matrices(CURVE) @ np.diag((1.0, -1.0, 1.0, 1.0))}, "no rigid transform"),
    ],
)
def test_what_is_no_trajectory_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(OptionError, match=message):
        read_trajectory(tmp_path / "bad.npz")


def test_damaged_and_hostile_files_are_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "executed",))

    np.savez(tmp_path / "pickle.npz", motion=np.array([Bomb()], dtype=object))
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04")
    (tmp_path / "torn.json").write_text('{"motion": [[1, 2')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "ragged.json").write_text("[[1, 2, 3], [1]]")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("pickle.npz", "raw.npz", "torn.npz", "torn.json", "deep.json", "ragged.json", "bytes.csv", "no.npz"):
        with pytest.raises(OptionError, match=name):
            read_trajectory(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_sampled_drives_stay_within_the_bounds_and_repeat() -> None:
    drives = np.stack([sample_motions(np.random.default_rng(i), 40, i % 12) for i in range(30)])
    assert np.array_equal(drives[3], sample_motions(np.random.default_rng(3), 40, 3))
    assert not np.array_equal(drives[3], drives[4])
    # A longer drive with the same seed begins the same way.
    assert np.allclose(drives[3][:10], sample_motions(np.random.default_rng(3), 10, 3))
    speed = np.hypot(drives[..., 0], drives[..., 1]) / STEP_S
    accel, yaw_rate = np.diff(speed, axis=1) / STEP_S, drives[..., 2] / STEP_S
    assert accel.min() >= -BRAKE_MPS2 - 0.1 and accel.max() <= ACCEL_MPS2 + 0.1
    assert np.abs(yaw_rate).max() <= YAW_RATE_RPS + 1e-9
    assert np.abs(yaw_rate * speed).max() <= LATERAL_MPS2 + 0.05
    assert (drives[..., 0] >= -1e-9).all()


def test_sampled_drives_are_distributed_like_real_ones() -> None:
    drives = np.stack([sample_motions(np.random.default_rng([7, i]), 40, 5.0) for i in range(60)])
    forward = np.percentile(drives[..., 0], (25, 50, 75, 95))
    assert np.allclose(forward, (1.16, 2.80, 4.01, 5.40), atol=0.8)
    turned = np.degrees(np.percentile(np.abs(drives[..., 2]), (50, 75, 95)))
    assert np.allclose(turned, (0.21, 0.89, 6.3), rtol=0.5)
    assert 0.04 < (drives[..., 0] < 0.05).mean() < 0.3


def test_no_edit_is_the_identity() -> None:
    rng = np.random.default_rng(1)
    motions = np.abs(rng.normal(size=(15, 3))) * (3, 0.05, 0.1)
    assert np.allclose(edited(motions, Edit(), 15), motions, atol=1e-6)
    assert not Edit().changes and Edit(mirror=True).changes


def test_speed_changes_the_pace_and_not_the_way() -> None:
    places = poses_from_motions(edited(CURVE, Edit(speed=0.5), 24))
    assert np.allclose(places[::2], poses_from_motions(CURVE), atol=1e-6)
    fast = poses_from_motions(edited(CURVE, Edit(speed=2), 6))
    assert np.allclose(fast, poses_from_motions(CURVE)[::2], atol=1e-6)
    beyond = edited(CURVE, Edit(speed=2), 20)
    assert np.allclose(beyond[14:], beyond[14]) and abs(beyond[-1, 2]) < 1e-9  # straight on
    assert np.allclose(np.hypot(*beyond[14, :2]), 2 * np.hypot(3, 0.1))
    assert np.allclose(edited(CURVE, Edit(speed=0), 5), 0)


def test_shift_ends_beside_the_way_with_its_heading() -> None:
    straight = np.tile((4.0, 0.0, 0.0), (10, 1))
    places = poses_from_motions(edited(straight, Edit(shift_m=-2.5), 10))
    assert np.allclose(places[0], 0) and np.allclose(places[5:, 1], -2.5) and np.allclose(places[5:, 2], 0)
    assert np.allclose(places[:, 0], np.arange(11) * 4)
    ways = np.diff(places[:6], axis=0)
    assert np.allclose(np.arctan2(ways[:, 1], ways[:, 0]), (places[:5, 2] + places[1:6, 2]) / 2, atol=0.03)


def test_stop_stands_from_then_on() -> None:
    motions = edited(np.tile((4.0, 0.0, 0.0), (3, 1)), Edit(stop_s=2.0), 8)
    pace = motions[:, 0]
    assert (np.diff(pace[:4]) < 0).all() and np.allclose(pace[4:], 0)
    assert pace.sum() == pytest.approx(8.0 * 2.0 / 2)  # 8 m/s evenly to 0 in 2 s


def test_mirrored_is_mirrored_and_back() -> None:
    mirrored = edited(CURVE, Edit(mirror=True), 12)
    assert np.allclose(mirrored, CURVE * (1, -1, -1), atol=1e-6)
    assert np.allclose(edited(mirrored, Edit(mirror=True), 12), CURVE, atol=1e-6)


def test_standing_and_reversing_drives_can_be_edited() -> None:
    waiting = np.concatenate((np.zeros((3, 3)), CURVE[:3], np.zeros((2, 3))))
    assert np.allclose(edited(waiting, Edit(mirror=True), 8)[:, 0], waiting[:, 0], atol=1e-6)
    assert np.allclose(edited(np.zeros((4, 3)), Edit(speed=2, shift_m=1), 6), 0)
    back = np.tile((-1.0, 0.0, 0.02), (4, 1))
    assert np.allclose(edited(back, Edit(mirror=True), 4), back * (1, 1, -1), atol=1e-2)


@pytest.mark.parametrize("bad", [{"speed": -1}, {"speed": float("nan")}, {"shift_m": 99}, {"stop_s": 0}])
def test_impossible_edits_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(bad))):
        Edit(**bad)  # type: ignore[arg-type]
