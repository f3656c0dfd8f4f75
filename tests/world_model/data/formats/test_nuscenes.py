from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from world_model.core.errors import DataError, OptionError, OutputError
from world_model.core.grid import CLASS_ID
from world_model.data.ego_motion import commands_from_poses, motion_from_poses
from world_model.data.formats.annotations import class_of_category
from world_model.data.formats.nuscenes import read_nuscenes
from world_model.data.index import SceneIndex
from world_model.prepare import Prepare, prepare


def edit(root: Path, name: str, change: Any) -> None:
    path = root / "v1.0-mini" / f"{name}.json"
    rows = json.loads(path.read_text())
    rows = change(rows) or rows
    path.write_text(json.dumps(rows))


def test_reads_scenes_frames_and_splits(scenes_root: Path) -> None:
    index, report = read_nuscenes(scenes_root).to_index()
    assert index.source == "synthetic"
    assert index.scene_name.tolist() == ["scene-9001", "scene-9002"]
    assert index.scene_split.tolist() == ["train", "val"]
    assert index.scene_start.tolist() == [0, 12, 21]
    assert index.label_path[0] == "gts/scene-9001/scene-9001-0/labels.npz"
    assert (index.root / str(index.label_path[-1])).is_file()
    assert report.missing_labels == report.cut_scenes == report.unusual_steps == 0


def test_devkit_agrees_on_poses_boxes_and_velocities(scenes_root: Path) -> None:
    pytest.importorskip("nuscenes")
    from nuscenes.nuscenes import NuScenes
    from pyquaternion import Quaternion

    index, _ = read_nuscenes(scenes_root).to_index()
    devkit = NuScenes(version="v1.0-mini", dataroot=str(scenes_root), verbose=False)
    for frame, token in enumerate(index.token):
        sample = devkit.get("sample", token)
        lidar = devkit.get("sample_data", sample["data"]["LIDAR_TOP"])
        pose = devkit.get("ego_pose", lidar["ego_pose_token"])
        rotation = Quaternion(pose["rotation"])
        np.testing.assert_allclose(index.ego_to_global[frame, :3, :3], rotation.rotation_matrix, atol=1e-9)
        np.testing.assert_allclose(index.ego_to_global[frame, :3, 3], pose["translation"])
        mine = index.boxes(frame)
        theirs = devkit.get_boxes(lidar["token"])
        assert len(mine.class_id) == len(theirs) == 2
        for i, box in enumerate(theirs):
            velocity = rotation.inverse.rotate(devkit.box_velocity(box.token))
            box.translate(-np.array(pose["translation"]))
            box.rotate(rotation.inverse)
            np.testing.assert_allclose(mine.center_m[i], box.center, atol=1e-4)
            np.testing.assert_allclose(mine.size_m[i], box.wlh[[1, 0, 2]], atol=1e-5)
            heading = box.orientation.rotation_matrix[:2, 0]
            assert abs(np.arctan2(heading[1], heading[0]) - mine.yaw_rad[i]) < 1e-5
            np.testing.assert_allclose(mine.velocity_mps[i], velocity[:2], atol=1e-4)


def test_velocity_is_unknown_across_long_gaps_and_without_neighbours(scenes_root: Path) -> None:
    def lonely(rows: list[dict[str, Any]]) -> None:
        rows[0].update(prev="", next="")

    edit(scenes_root, "sample_annotation", lonely)

    def late(rows: list[dict[str, Any]]) -> None:
        for row in rows[10:12]:
            row["timestamp"] += 4_000_000

    edit(scenes_root, "sample", late)
    index, report = read_nuscenes(scenes_root).to_index()
    assert np.isnan(index.boxes(0).velocity_mps[index.boxes(0).class_id == CLASS_ID["car"]]).all()
    assert np.isnan(index.boxes(9).velocity_mps).all()
    assert np.isfinite(index.boxes(11).velocity_mps).all()
    # Nothing that lasts five seconds is a step: the scene is cut there.
    assert (report.long_steps, report.cut_scenes, report.unusual_steps) == (1, 1, 0)
    assert index.scene_name.tolist() == ["scene-9001", "scene-9001#2", "scene-9002"]
    assert index.scene_start.tolist() == [0, 10, 12, 21]


def test_instances_are_stable_and_classes_mapped(scenes_root: Path) -> None:
    index, _ = read_nuscenes(scenes_root).to_index()
    for scene in (0, 1):
        per_frame = [tuple(index.boxes(f).instance) for f in index.frames(scene)]
        assert len(set(per_frame)) == 1
    assert set(index.box_class.tolist()) == {CLASS_ID["car"], CLASS_ID["pedestrian"]}


@pytest.mark.parametrize(
    ("category", "name"),
    [
        ("vehicle.bus.bendy", "bus"),
        ("vehicle.construction", "construction_vehicle"),
        ("human.pedestrian.construction_worker", "pedestrian"),
        ("human.pedestrian.stroller", "others"),
        ("movable_object.trafficcone", "traffic_cone"),
        ("animal", "others"),
    ],
)
def test_categories(category: str, name: str) -> None:
    assert class_of_category(category) == CLASS_ID[name]


def straight_then_left(count: int = 14) -> np.ndarray:
    pose = np.tile(np.eye(4), (count, 1, 1))
    for i in range(1, count):
        yaw = 0.0 if i < 5 else 0.25 * (i - 4)
        pose[i, :2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
        pose[i, :3, 3] = pose[i - 1, :3, 3] + pose[i, :3, :3] @ [2.0, 0, 0]
    return pose


def test_commands_mirror_left_and_right_and_clip_at_the_end() -> None:
    pose = straight_then_left()
    left = commands_from_poses(pose)
    mirror = np.diag([1.0, -1, 1, 1])
    right = commands_from_poses(mirror @ pose @ mirror)
    assert left[0] == 2 and left[1] == 1 and left[4] == 1 and left[-1] == 2
    assert ((left == 1) == (right == 0)).all() and ((left == 2) == (right == 2)).all()


def test_motion_is_in_the_ego_frame_over_the_true_gap() -> None:
    pose = straight_then_left()
    gap_us = np.where(np.arange(13) % 2, 400_000, 600_000)
    motion = motion_from_poses(pose, np.cumsum([0, *gap_us]))
    np.testing.assert_allclose(motion[1:, 0], 2.0 / (gap_us * 1e-6), rtol=1e-5)
    np.testing.assert_allclose(motion[1:, 1], 0, atol=1e-5)
    np.testing.assert_allclose(motion[6:, 2], 0.25 / (gap_us[5:] * 1e-6), rtol=1e-5)
    assert (motion[0] == motion[1]).all()


def drop_table(root: Path) -> None:
    (root / "v1.0-mini" / "ego_pose.json").unlink()


def break_json(root: Path) -> None:
    path = root / "v1.0-mini" / "sample.json"
    path.write_text(path.read_text()[:-20])


def drop_sample(root: Path) -> None:
    edit(root, "sample", lambda rows: rows.pop(5) and rows)


def drop_sample_and_link_over(root: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        gone = rows.pop(5)
        rows[4]["next"], rows[5]["prev"] = gone["next"], gone["prev"]

    edit(root, "sample", change)


def drop_column(root: Path) -> None:
    edit(root, "ego_pose", lambda rows: [r.pop("rotation") for r in rows[:1]] and rows)


def drop_lidar(root: Path) -> None:
    edit(root, "sample_data", lambda rows: [r for r in rows if r["token"] != "scene-9001-3-lidar-True"])


def repeat_time(root: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[5]["timestamp"] = rows[4]["timestamp"]

    edit(root, "sample", change)


def swap_times(root: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[5]["timestamp"], rows[4]["timestamp"] = rows[4]["timestamp"], rows[5]["timestamp"]

    edit(root, "sample", change)


def break_pose(root: Path) -> None:
    edit(root, "ego_pose", lambda rows: [r.update(rotation=[0, 0, 0, 0]) for r in rows] and rows)


def unknown_category(root: Path) -> None:
    edit(root, "category", lambda rows: [r.update(name="vehicle.ufo") for r in rows] and rows)


def lose_instance(root: Path) -> None:
    edit(root, "instance", lambda rows: rows[1:])


def lose_scene_from_splits(root: Path) -> None:
    (root / "splits.json").write_text(json.dumps({"train": ["scene-9001"], "val": []}))


def lose_labels(root: Path) -> None:
    (root / "gts" / "scene-9001" / "scene-9001-3" / "labels.npz").unlink()


def not_a_list(root: Path) -> None:
    (root / "v1.0-mini" / "scene.json").write_text('{"token": 1}')


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (drop_table, "ego_pose.json"),
        (break_json, "sample.json"),
        (drop_sample, "scene-9001-5"),
        (drop_sample_and_link_over, "12, as scene.json says"),
        (drop_column, "rotation"),
        (drop_lidar, "LIDAR_TOP"),
        (repeat_time, "timestamp"),
        (swap_times, "timestamp"),
        (break_pose, "unit quaternions"),
        (unknown_category, "vehicle.ufo"),
        (lose_instance, "instance.json"),
        (lose_scene_from_splits, "scene-9002"),
        (lose_labels, "scene-9001-3"),
        (not_a_list, "scene.json"),
    ],
)
def test_damage_is_named_and_the_old_index_stays(scenes_root: Path, damage: Any, says: str) -> None:
    prepare(Prepare(data_root=scenes_root))
    before = (scenes_root / "iiworld_index.npz").read_bytes()
    damage(scenes_root)
    with pytest.raises(DataError) as caught:
        prepare(Prepare(data_root=scenes_root, strict=True))
    assert says in str(caught.value)
    assert caught.value.found and caught.value.expected and caught.value.remedy
    assert (scenes_root / "iiworld_index.npz").read_bytes() == before


def test_synthetic_data_cannot_be_renamed(scenes_root: Path) -> None:
    with pytest.raises(OptionError, match="synthetic"):
        read_nuscenes(scenes_root).to_index(source="nuscenes")
    assert read_nuscenes(scenes_root).to_index(source="my synthetic town")[0].source == "my synthetic town"
    (scenes_root / "gts").rename(scenes_root / "stc-results")
    predicted = read_nuscenes(scenes_root, label_folder="stc-results").to_index()[0]
    assert predicted.source == "synthetic, labels of stc-results"


def test_missing_labels_cut_scenes_or_are_refused(scenes_root: Path) -> None:
    for frame in (0, 5, 6):
        (scenes_root / "gts" / "scene-9001" / f"scene-9001-{frame}" / "labels.npz").unlink()
    index, report = read_nuscenes(scenes_root).to_index()
    assert index.scene_name.tolist() == ["scene-9001", "scene-9001#2", "scene-9002"]
    assert index.scene_start.tolist() == [0, 4, 9, 18]
    assert index.scene_split.tolist() == ["train", "train", "val"]
    assert index.token[:5].tolist() == [f"scene-9001-{i}" for i in (1, 2, 3, 4, 7)]
    assert (report.missing_labels, report.cut_scenes, report.missing_by_split) == (3, 1, {"train": 3})
    assert any("3 of 21" in line for line in report.lines()) and any("scene-9001-5" in e for e in report.examples)
    assert np.isfinite(index.boxes(0).velocity_mps).all()
    with pytest.raises(DataError, match="3 of 21 frames without labels") as caught:
        read_nuscenes(scenes_root).to_index(strict=True)
    assert "scene-9001-5" in str(caught.value)


def test_official_splits_need_the_devkit_or_a_file(scenes_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (scenes_root / "splits.json").unlink()
    monkeypatch.setitem(__import__("sys").modules, "nuscenes.utils.splits", None)
    with pytest.raises(OptionError, match=r"iiworld\[nuscenes\]"):
        read_nuscenes(scenes_root).to_index()


def test_official_splits_are_used_without_a_file(scenes_root: Path) -> None:
    pytest.importorskip("nuscenes")
    (scenes_root / "splits.json").unlink()
    (scenes_root / "synthetic.json").unlink()
    with pytest.raises(DataError, match="official splits"):
        read_nuscenes(scenes_root).to_index()  # invented scenes are in none


@pytest.mark.parametrize(
    ("version", "train", "val"),
    [("v1.0-mini", "scene-0061", "scene-0103"), ("v1.0-trainval", "scene-0001", "scene-0003")],
)
def test_official_splits_of_every_version(scenes_root: Path, version: str, train: str, val: str) -> None:
    pytest.importorskip("nuscenes")
    (scenes_root / "splits.json").unlink()
    (scenes_root / "synthetic.json").unlink()

    def rename(rows: list[dict[str, Any]]) -> None:
        rows[0]["name"], rows[1]["name"] = train, val

    edit(scenes_root, "scene", rename)
    for old, new in (("scene-9001", train), ("scene-9002", val)):
        (scenes_root / "gts" / old).rename(scenes_root / "gts" / new)
    (scenes_root / "v1.0-mini").rename(scenes_root / version)
    index, _ = read_nuscenes(scenes_root).to_index()
    assert index.scene_split.tolist() == ["train", "val"] and index.source == "nuscenes"


def test_a_folder_without_tables_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="make_synthetic"):
        read_nuscenes(tmp_path / "nowhere").to_index()
    (tmp_path / "v1.0-mini").mkdir()
    (tmp_path / "v1.0-trainval").mkdir()
    with pytest.raises(DataError, match="--version"):
        read_nuscenes(tmp_path).to_index()


def test_prepare_round_trip_and_other_place(scenes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made = prepare(Prepare(data_root=scenes_root, out=tmp_path / "elsewhere" / "index.npz"))
    loaded = SceneIndex.load(tmp_path / "elsewhere" / "index.npz")
    assert loaded.fingerprint == made.fingerprint
    assert (loaded.root / str(loaded.label_path[3])).is_file()
    np.testing.assert_array_equal(loaded.box_velocity_mps, made.box_velocity_mps)
    printed = capsys.readouterr().out
    assert "synthetic" in printed and "train" in printed and "index.npz" in printed


def test_prepare_cannot_write(scenes_root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        prepare(Prepare(data_root=scenes_root, out=tmp_path / "file" / "index.npz"))


def test_check_labels_finds_a_damaged_file(make_scenes: Any) -> None:
    root = make_scenes(frames=(2,), shape=(200, 200, 16))
    prepare(Prepare(data_root=root, check_labels=True))
    path = root / "gts" / "scene-9001" / "scene-9001-1" / "labels.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match="scene-9001-1"):
        prepare(Prepare(data_root=root, check_labels=True))
