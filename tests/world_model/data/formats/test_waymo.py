"""Occ3D-Waymo: which frames, which poses, which classes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from formats.waymo import pose, time_us, write_waymo
from street import SMALL, street

from world_model.core.errors import DataError
from world_model.core.grid import CLASS_ID
from world_model.data.formats.waymo import read_waymo
from world_model.data.index import SceneIndex
from world_model.prepare import Prepare, prepare


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two scenes of 23 and 30 frames."""
    return write_waymo(tmp_path / "data", frames=(23, 30), grid=SMALL)


def edit(root: Path, name: str, change: Any) -> None:
    content = pickle.loads((root / name).read_bytes())
    (root / name).write_bytes(pickle.dumps(change(content) or content))


def test_every_fifth_frame_counted_through_all_scenes(root: Path) -> None:
    index, report = read_waymo(root).to_index()
    assert index.scene_name.tolist() == ["waymo-000", "waymo-001"] and set(index.scene_split) == {"val"}
    first, second = ([int(t[3:]) for t in index.token[index.frames(s)]] for s in (0, 1))
    # 23 frames are four keyframes and three frames over: the next scene begins at its third frame.
    assert first == [0, 5, 10, 15, 20] and second == [2, 7, 12, 17, 22, 27]
    assert index.timestamp_us[0] == time_us(0, 0) and index.timestamp_us[-1] == time_us(1, 27)
    assert index.label_path[5] == "validation/001/002_04.npz"
    assert (report.broken_steps, report.unusual_steps, report.empty_splits) == (0, 0, ("train",))
    assert len(index.box_class) == 0 and index.source == "waymo"


def test_poses_and_motion(root: Path) -> None:
    index = read_waymo(root).to_index()[0]
    for row, frame in enumerate((0, 5, 10, 15, 20)):
        np.testing.assert_allclose(index.ego_to_global[row], pose(frame), atol=1e-9)
    np.testing.assert_allclose(index.motion[1:5, 0], 6.0, atol=0.05)
    np.testing.assert_allclose(index.motion[1:5, 2], 0.02, atol=1e-4)
    right = np.linalg.inv(pose(0)) @ pose(5)
    np.testing.assert_allclose(index.curr_to_prev(1), right, atol=1e-9)


def test_classes_are_mapped_where_labels_are_read(root: Path) -> None:
    index = read_waymo(root).to_index()[0]
    drawn = street(SMALL, 0.6 * 10, (30.0,))
    drawn[drawn == CLASS_ID["terrain"]] = CLASS_ID["sidewalk"]  # Waymo has one class for both
    np.testing.assert_array_equal(index.read_labels(2, SMALL.shape), drawn)
    path = root / str(index.label_path[2])
    path.unlink()  # the files of ten frames are one file on disk
    strange = np.full(SMALL.shape, 23, np.uint8)
    strange[0, 0, 0] = 15
    np.savez_compressed(path, voxel_label=strange)
    with pytest.raises(DataError, match=r"class ids \[15\]"):
        index.read_labels(2, SMALL.shape)
    np.savez_compressed(path, semantics=strange)
    with pytest.raises(DataError, match="voxel_label"):
        index.read_labels(2, SMALL.shape)


def test_faithful_is_as_the_original_evaluates(root: Path) -> None:
    prepare(Prepare(data_root=root, faithful=True))
    index = SceneIndex.load(root)
    assert (index.command == 0).all() and (index.motion == 0).all() and index.faithful
    np.testing.assert_allclose(index.curr_to_prev(1), pose(5) @ np.linalg.inv(pose(0)), atol=1e-6)
    assert index.fingerprint != read_waymo(root).to_index()[0].fingerprint


def test_lists_instead_of_dicts_and_the_layout_of_the_release(root: Path) -> None:
    before = read_waymo(root).to_index()[0]
    edit(
        root,
        "cam_infos_vali.pkl",
        lambda t: [[[t[s][f][c] for c in range(5)] for f in sorted(t[s])] for s in sorted(t)],
    )
    edit(root, "waymo_infos_val.pkl", lambda infos: infos[::-1])
    (root / "voxel04").mkdir()
    (root / "validation").rename(root / "voxel04" / "validation")
    (root / "kitti_format").mkdir()
    (root / "waymo_infos_val.pkl").rename(root / "kitti_format" / "waymo_infos_val.pkl")
    after = read_waymo(root).to_index()[0]
    assert after.token.tolist() == before.token.tolist()
    assert after.label_path[0] == "voxel04/validation/000/000_04.npz"


def test_missing_frames_and_jumps_of_the_clock_cut_scenes(root: Path) -> None:
    edit(root, "waymo_infos_val.pkl", lambda infos: [i for i in infos if i["image"]["image_idx"] != 1_000_004])
    index, report = read_waymo(root).to_index()
    # From frame 0 the count goes on to 6: frames five apart no longer, once.
    assert report.broken_steps == 1 and [int(t[3:]) for t in index.token[:4]] == [6, 11, 16, 21]

    def late(infos: list[dict[str, Any]]) -> None:
        for info in infos:
            if info["image"]["image_idx"] >= 1_001_015:
                info["timestamp"] += 700_000

    edit(root, "waymo_infos_val.pkl", late)
    report = read_waymo(root).to_index()[1]
    assert report.long_steps == 1
    whole, report = read_waymo(root, faithful=True).to_index()
    assert report.long_steps == 0 and "waymo-001#2" not in whole.scene_name
    with pytest.raises(DataError, match=r"longer than 0\.75 s"):
        read_waymo(root).to_index(strict=True)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("waymo_infos_val.pkl", lambda infos: infos[0]["image"].update(image_idx="x1"), "image_idx"),
        ("waymo_infos_val.pkl", lambda infos: infos[0].pop("image"), "image"),
        ("waymo_infos_val.pkl", lambda infos: infos[0].update(timestamp=None), "timestamp"),
        ("waymo_infos_val.pkl", lambda infos: [*infos, dict(infos[0])], "frame twice"),
        (
            "waymo_infos_val.pkl",
            lambda infos: [i.update(timestamp=i["timestamp"] // 1000) for i in infos] and None,
            "500000",
        ),
        ("waymo_infos_val.pkl", lambda infos: [0], "infos"),
        ("cam_infos_vali.pkl", lambda t: t[0].pop(5) and None, "no pose of scene 0, frame 5"),
        ("cam_infos_vali.pkl", lambda t: t[0][5][0].update(ego2global=np.eye(3)), "4 x 4"),
        ("cam_infos_vali.pkl", lambda t: t[0][5][0].update(ego2global=np.diag([1.0, -1, 1, 1])), "rigid"),
        ("cam_infos_vali.pkl", lambda t: t[0][5][0].update(ego2global=np.eye(4) * np.nan), "rigid"),
    ],
)
def test_values_that_cannot_be_are_named(root: Path, name: str, change: Any, says: str) -> None:
    edit(root, name, lambda content: result if isinstance(result := change(content), list) else None)
    with pytest.raises(DataError, match=says):
        read_waymo(root).to_index()


def test_missing_files_are_named(root: Path) -> None:
    (root / "cam_infos_vali.pkl").rename(root / "x")
    with pytest.raises(DataError, match=r"no cam_infos_vali\.pkl"):
        read_waymo(root).to_index()
    (root / "x").rename(root / "cam_infos_vali.pkl")
    (root / "validation").rename(root / "y")
    with pytest.raises(DataError, match="no folder"):
        read_waymo(root).to_index()
