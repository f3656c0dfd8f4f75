"""The original's info files give the index that the tables give, and nothing that cannot be passes."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from formats.nuscenes import edit_infos, write_infos, write_stcocc
from real_files import REAL

from world_model.core.errors import DataError
from world_model.data.formats.infos import find_infos, read_infos
from world_model.data.formats.nuscenes import read_nuscenes
from world_model.data.formats.recording import DataSet, _index
from world_model.data.index import SceneIndex
from world_model.prepare import Prepare, prepare

SHAPE = (8, 8, 4)
REAL_INFOS = REAL / "infos/world-nuscenes_mini_infos_val.pkl"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Tables, info files and labels of the same two scenes."""
    return write_infos(tmp_path / "data", frames=(12, 9), shape=SHAPE, tables=True)


def test_infos_and_tables_give_the_same_index(root: Path) -> None:
    tables, (infos, report) = read_nuscenes(root).to_index()[0], read_infos(root).to_index()
    for column in ("scene_name", "scene_split", "scene_start", "token", "label_path", "timestamp_us", "command"):
        np.testing.assert_array_equal(getattr(infos, column), getattr(tables, column), column)
    for column in ("box_start", "box_class"):
        np.testing.assert_array_equal(getattr(infos, column), getattr(tables, column), column)
    for column in ("translation_m", "rotation"):
        np.testing.assert_allclose(getattr(infos, column), getattr(tables, column), rtol=0, atol=1e-12)
    for column in ("motion", "box_center_m", "box_size_m", "box_velocity_mps"):
        np.testing.assert_allclose(getattr(infos, column), getattr(tables, column), atol=2e-5, err_msg=column)
    turn = infos.box_yaw_rad - tables.box_yaw_rad
    np.testing.assert_allclose(np.arctan2(np.sin(turn), np.cos(turn)), 0, atol=1e-5)
    assert (infos.box_instance == -1).all()
    assert (report.missing_labels, report.cut_scenes, report.empty_splits) == (0, 0, ())


def test_one_file_is_enough_and_may_lie_elsewhere(root: Path, tmp_path: Path) -> None:
    (root / "world-nuscenes_infos_train.pkl").unlink()
    index, report = read_infos(root).to_index()
    assert index.scene_split.tolist() == ["val"] and report.empty_splits == ("train",)
    moved = tmp_path / "my_infos_val.pkl"
    (root / "world-nuscenes_infos_val.pkl").rename(moved)
    with pytest.raises(DataError, match="no info file"):
        read_infos(root).to_index()
    assert read_infos(root, [moved]).to_index()[0].fingerprint == index.fingerprint


def test_which_files_are_taken(root: Path) -> None:
    (root / "bevdet_infos_val.pkl").write_bytes(b"")
    assert [p.name for p in find_infos(root)] == ["world-nuscenes_infos_train.pkl", "world-nuscenes_infos_val.pkl"]
    (root / "world-nuscenes_infos_val.pkl").rename(root / "another_infos_val.pkl")
    with pytest.raises(DataError, match="several info files"):
        find_infos(root)


def test_faithful_takes_the_features_of_the_file(root: Path) -> None:
    def odd(infos: list[dict[str, Any]]) -> None:
        for info in infos:
            info["gt_ego_lcf_feat"] = np.arange(9, dtype=np.float32)

    for split in ("train", "val"):
        edit_infos(root / f"world-nuscenes_infos_{split}.pkl", odd)
    plain, faithful = read_infos(root).to_index()[0], read_infos(root, faithful=True).to_index()[0]
    assert (faithful.motion == (1, 0, 4)).all() and faithful.faithful and not plain.faithful
    assert not (plain.motion == (1, 0, 4)).all() and plain.fingerprint != faithful.fingerprint
    faithful.save(root / "f.npz")
    assert SceneIndex.load(root / "f.npz").faithful


def test_motion_of_the_file_is_along_the_ego_axes(root: Path) -> None:
    """Its velocity is along the LiDAR's axes: right, forward."""
    plain, faithful = read_infos(root).to_index()[0], read_infos(root, faithful=True).to_index()[0]
    np.testing.assert_allclose(faithful.motion, plain.motion, atol=1e-4)
    assert np.abs(plain.motion[:, 0]).max() > 1


@pytest.mark.skipif(not REAL_INFOS.exists(), reason="no real info file here")
def test_real_motion_is_that_of_the_poses(tmp_path: Path) -> None:
    (tmp_path / "gts").mkdir()
    with_gaps = [read_infos(tmp_path, [REAL_INFOS], faithful=faithful) for faithful in (False, True)]
    poses, file = (np.concatenate([r.motion for r in data_set_of(data)]) for data in with_gaps)
    # The file's speed is that of the CAN bus: not equal to the one that poses half a second apart give.
    assert np.corrcoef(poses[:, 0], file[:, 0])[0, 1] > 0.97
    assert np.abs(file[:, 1]).mean() < 0.1 < 3 < file[:, 0].mean()


def data_set_of(data: DataSet) -> list[SceneIndex]:
    """The scenes of a data set whose label files are not here."""
    return [_index([recording], data.root, data, "real", "raw") for recording in data.recordings]


def test_files_without_commands_or_boxes(root: Path) -> None:
    def strip(infos: list[dict[str, Any]]) -> None:
        for info in infos:
            del info["gt_ego_fut_cmd"], info["gt_boxes"], info["gt_names"], info["gt_velocity"]

    for split in ("train", "val"):
        edit_infos(root / f"world-nuscenes_infos_{split}.pkl", strip)
    index = read_infos(root).to_index()[0]
    np.testing.assert_array_equal(index.command, read_nuscenes(root).to_index()[0].command)
    assert len(index.box_class) == 0


def test_a_keyframe_that_is_not_listed_cuts_the_scene(root: Path) -> None:
    edit_infos(root / "world-nuscenes_infos_train.pkl", lambda infos: infos[:4] + infos[5:])
    index, report = read_infos(root).to_index()
    assert index.scene_name.tolist() == ["scene-9001", "scene-9001#2", "scene-9002"]
    assert (report.broken_steps, report.long_steps, report.cut_scenes) == (1, 0, 1)
    with pytest.raises(DataError, match="frames are missing at 1 places"):
        read_infos(root).to_index(strict=True)


def test_predictions_with_info_files(tmp_path: Path) -> None:
    root = write_infos(tmp_path / "a", frames=(3, 3), shape=SHAPE)
    write_stcocc(tmp_path / "b", frames=(3, 3), shape=SHAPE)
    (tmp_path / "b" / "stc-results").rename(root / "stc-results")
    index = prepare(Prepare(data_root=root, format="stcocc"))
    assert index.dataset == "stcocc" and index.truth_path is not None
    assert index.label_path[0].startswith("stc-results/") and index.truth_path[0].startswith("gts/")


def set_all(key: str, value: Any) -> Any:
    return lambda infos: [info.update({key: value}) for info in infos] and None


def drop(key: str) -> Any:
    def change(infos: list[dict[str, Any]]) -> None:
        infos[0].pop(key)

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop("token"), "token"),
        (drop("scene_token"), "scene_token"),
        (drop("timestamp"), "timestamp"),
        (drop("occ_path"), "occ_path"),
        (drop("ego2global_rotation"), "ego2global_rotation"),
        (drop("lidar2ego_rotation"), "lidar2ego_rotation"),
        (drop("gt_names"), "gt_names"),
        (set_all("occ_path", "../../../etc/passwd/.."), "occ_path"),
        (set_all("occ_path", "/gts/../secret"), "occ_path"),
        (set_all("ego2global_translation", [0, 0]), "uneven length"),
        (set_all("ego2global_rotation", [2, 0, 0, 0]), "unit quaternions"),
        (set_all("ego2global_translation", [float("nan")] * 3), "broken"),
        (set_all("gt_ego_fut_cmd", np.array([1, 1, 0])), "one-hot"),
        (set_all("gt_ego_fut_cmd", np.array([0, 0, 0])), "one-hot"),
        (set_all("gt_ego_fut_cmd", np.array([1, 0])), "one-hot"),
        (set_all("gt_boxes", np.full((2, 7), np.inf)), "gt_boxes"),
        (set_all("gt_boxes", np.zeros((3, 7))), "gt_boxes"),
        (set_all("gt_names", np.array(["ufo", "car"])), "ufo"),
        (set_all("timestamp", 5), "timestamp"),
        (set_all("timestamp", "now"), "timestamp"),
        (lambda infos: ["x"], "infos"),
        (lambda infos: infos + infos[:1], "timestamp"),
    ],
)
def test_values_that_cannot_be_are_named(root: Path, change: Any, says: str) -> None:
    file = root / "world-nuscenes_infos_train.pkl"
    edit_infos(file, change)
    with pytest.raises(DataError, match=says) as caught:
        read_infos(root).to_index()
    assert caught.value.expected and caught.value.remedy


def test_a_hostile_info_file_runs_nothing_and_writes_no_index(root: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    class Hostile:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {mark}",)

    file = root / "world-nuscenes_infos_train.pkl"
    file.write_bytes(pickle.dumps({"infos": [{"token": Hostile()}], "metadata": {}}))
    with pytest.raises(DataError, match="nothing in it was run"):
        prepare(Prepare(data_root=root, format="infos"))
    assert not mark.exists() and not (root / "iiworld_index.npz").exists()
