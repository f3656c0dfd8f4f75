"""Poses without heights are made planar, where they climb they are kept, and planar data keep their numbers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from formats.nuscenes import edit_table
from tiny_scenes import write_scenes

from world_model.core.errors import DataError
from world_model.core.geometry import ground_poses, rotation_matrix
from world_model.data.demo import demo_root
from world_model.data.formats.infos import read_infos
from world_model.data.formats.nuscenes import read_nuscenes
from world_model.data.formats.poses import Poses, choose_poses
from world_model.data.index import INDEX_NAME, SceneIndex
from world_model.prepare import Prepare, prepare

REAL_INFOS = Path(__file__).parents[5] / "shared" / "real" / "infos" / "world-nuscenes_mini_infos_val.pkl"
KINDS: tuple[Poses, ...] = ("auto", "raw", "planar")


def _change_poses(root: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    edit_table(root, "ego_pose", lambda rows: [change(row) for row in rows] and None)
    return root


@pytest.fixture
def sunken(tmp_path: Path) -> Path:
    """Tilted poses whose heights are all 0, as in nuScenes."""
    root = write_scenes(tmp_path / "data", frames=(6, 6), shape=(8, 8, 4))
    return _change_poses(root, lambda row: row["translation"].__setitem__(2, 0.0))


def test_heights_decide(sunken: Path, tmp_path: Path) -> None:
    indexes = {kind: read_nuscenes(sunken).to_index(poses=kind)[0] for kind in KINDS}
    assert [indexes[kind].poses for kind in KINDS] == ["planar", "raw", "planar"]
    planar, raw = indexes["auto"], indexes["raw"]
    assert planar.fingerprint == indexes["planar"].fingerprint != raw.fingerprint
    np.testing.assert_array_equal(planar.translation_m[:, :2], raw.translation_m[:, :2])
    np.testing.assert_array_equal(planar.ego_to_global[:, 2], np.tile((0, 0, 1, 0), (len(raw.token), 1)))
    forward, level = raw.ego_to_global[:, :2, 0], planar.ego_to_global[:, :2, 0]
    np.testing.assert_allclose(level, forward / np.linalg.norm(forward, axis=1, keepdims=True), atol=1e-12)
    np.testing.assert_array_equal(planar.command, raw.command)
    np.testing.assert_allclose(planar.motion, raw.motion, atol=0.05)
    for column in ("box_center_m", "box_velocity_mps", "timestamp_us"):
        np.testing.assert_array_equal(getattr(planar, column), getattr(raw, column))
    # No transform between frames lifts a point any more.
    assert np.abs(planar.curr_to_prev(1)[2] - (0, 0, 1, 0)).max() == 0 < np.abs(raw.curr_to_prev(1)[2, 3])
    climbing = write_scenes(tmp_path / "climbing", frames=(6, 6), shape=(8, 8, 4))
    assert read_nuscenes(climbing).to_index()[0].poses == "raw"


def test_level_data_keep_their_numbers(sunken: Path) -> None:
    def level(row: dict[str, Any]) -> None:
        w, _, _, z = row["rotation"]
        row["rotation"] = [w / np.hypot(w, z), 0.0, 0.0, z / np.hypot(w, z)]

    _change_poses(sunken, level)
    indexes = [read_nuscenes(sunken).to_index(poses=kind)[0] for kind in KINDS]
    assert [index.poses for index in indexes] == ["raw", "raw", "planar"]
    for field in dataclasses.fields(SceneIndex):
        if isinstance(value := getattr(indexes[0], field.name), np.ndarray):
            for other in indexes[1:]:
                np.testing.assert_array_equal(value, getattr(other, field.name))
    assert len({index.fingerprint for index in indexes}) == 1


def test_the_limits_of_auto() -> None:
    place, level = np.zeros((3, 3)), np.tile((1.0, 0.0, 0.0, 0.0), (3, 1))
    tilted = np.array([(1, 0, 0, 0), (np.cos(0.02), 0, np.sin(0.02), 0), (np.cos(0.01), np.sin(0.01), 0, 0)])
    assert choose_poses("auto", place, level) == "raw"
    assert choose_poses("auto", place, tilted) == "planar"
    assert choose_poses("auto", place + np.array((0, 0, 812.5)), tilted) == "planar"
    assert choose_poses("auto", place + np.array([[0, 0, 0.002]] * 2 + [[0, 0, 0]]), tilted) == "raw"
    assert choose_poses("raw", place, tilted) == "raw" and choose_poses("planar", place, level) == "planar"


def test_the_forward_axis_keeps_its_direction() -> None:
    rng = np.random.default_rng(0)
    quaternion = rng.normal(size=(50, 4)) * (1, 0.1, 0.1, 1)
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    place, flat = ground_poses(rng.normal(size=(50, 3)), quaternion)
    before, after = rotation_matrix(quaternion)[:, :, 0], rotation_matrix(flat)[:, :, 0]
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    assert np.abs(cross).max() < 1e-12 and (before[:, :2] * after[:, :2]).sum(1).min() > 0
    assert (place[:, 2] == 0).all() and (flat[:, 1:3] == 0).all()
    again = ground_poses(place, flat)
    np.testing.assert_array_equal(again[0], place)
    np.testing.assert_array_equal(again[1], flat)


def test_old_indexes_are_raw_and_others_are_refused(sunken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert SceneIndex.load(demo_root()).poses == "raw"
    index = prepare(Prepare(data_root=sunken))
    assert "planar poses" in capsys.readouterr().out and SceneIndex.load(sunken).poses == "planar"
    assert prepare(Prepare(data_root=sunken, poses="raw")).fingerprint != index.fingerprint
    with np.load(sunken / INDEX_NAME) as archive:
        columns = dict(archive)
    meta = json.loads(str(columns.pop("meta")))
    for poses, known in ((None, True), ("sideways", False)):
        changed = {name: value for name, value in meta.items() if name != "poses"} | ({"poses": poses} if poses else {})
        np.savez(sunken / INDEX_NAME, meta=np.array(json.dumps(changed)), **columns)
        if known:
            assert SceneIndex.load(sunken).poses == "raw"
        else:
            with pytest.raises(DataError, match="sideways"):
                SceneIndex.load(sunken)


@pytest.mark.skipif(not REAL_INFOS.exists(), reason="needs a real info file")
def test_a_real_info_file_gets_planar_poses(tmp_path: Path) -> None:
    (tmp_path / "gts").mkdir()
    data = read_infos(tmp_path, [REAL_INFOS])
    for recording in data.recordings:
        for path in recording.label_path:
            path.parent.mkdir(parents=True)
            path.touch()
    index, faithful = data.to_index()[0], dataclasses.replace(data, faithful=True).to_index()[0]
    assert (index.poses, faithful.poses) == ("planar", "raw")
    assert np.degrees(np.arcsin(np.abs(faithful.ego_to_global[:, 2, 0]).max())) > 1
