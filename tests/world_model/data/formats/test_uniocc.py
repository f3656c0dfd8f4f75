"""UniOcc: scenes, poses, objects and classes out of npz files."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from formats.uniocc import CAR_MPS, write_uniocc
from formats.waymo import pose
from street import SMALL, street

from world_model.core.errors import DataError
from world_model.core.grid import CLASS_ID, VoxelGrid
from world_model.data.formats.uniocc import read_uniocc
from world_model.prepare import Prepare, prepare

FEW = VoxelGrid(shape=(8, 8, 4), lower_m=(-1.6, -1.6, -1.0))


def write(root: Path, **options: Any) -> Path:
    return write_uniocc(root, grid=FEW, **options)


def test_scenes_poses_and_objects(tmp_path: Path) -> None:
    index, report = read_uniocc(write(tmp_path, frames=(6, 4))).to_index()
    assert index.scene_name.tolist() == ["scene-0061", "scene-0103"] and index.scene_start.tolist() == [0, 6, 10]
    assert index.source == "uniocc NuScenes-via-Occ3D-2Hz-mini" and set(index.scene_split) == {"val"}
    assert (np.diff(index.timestamp_us[:6]) == 500_000).all() and report.unusual_steps == 0
    for frame in range(6):
        ego = pose(frame, hertz=2.0)
        np.testing.assert_allclose(index.ego_to_global[frame], ego, atol=1e-9)
        boxes = index.boxes(frame)
        assert boxes.class_id.tolist() == [CLASS_ID["car"], CLASS_ID["pedestrian"]]
        car = np.linalg.inv(ego) @ [-6990.0, 2505.0 + CAR_MPS * frame / 2, 31.0, 1.0]
        np.testing.assert_allclose(boxes.center_m[0], car[:3], atol=1e-3)
        np.testing.assert_allclose(boxes.size_m[0], (4.6, 1.9, 1.7), atol=1e-6)
        heading = ego[:3, :3].T @ [0, 1, 0]
        np.testing.assert_allclose(boxes.yaw_rad[0], np.arctan2(heading[1], heading[0]), atol=1e-6)
        np.testing.assert_allclose(boxes.velocity_mps[0], CAR_MPS * heading[:2], atol=1e-5)
        np.testing.assert_allclose(boxes.velocity_mps[1], 0, atol=1e-5)
    assert index.boxes(0).instance.tolist() == index.boxes(5).instance.tolist()


def test_sizes_with_the_width_first_are_recognised(tmp_path: Path) -> None:
    index = read_uniocc(write(tmp_path, frames=(3, 3), width_first=True)).to_index()[0]
    np.testing.assert_allclose(index.boxes(0).size_m, [(4.6, 1.9, 1.7), (0.7, 0.6, 1.8)], atol=1e-6)


def test_labels_are_mapped(tmp_path: Path) -> None:
    index = read_uniocc(write_uniocc(tmp_path, frames=(2, 2), grid=SMALL)).to_index()[0]
    drawn = street(SMALL, 0.6, (30.0,))
    drawn[drawn == CLASS_ID["sidewalk"]] = CLASS_ID["terrain"]  # UniOcc has one class for both
    np.testing.assert_array_equal(index.read_labels(1, SMALL.shape), drawn)


def test_several_sets_in_one_folder_and_ten_hertz(tmp_path: Path) -> None:
    write(tmp_path, name="NuScenes-via-Occ3D-2Hz-train", scenes=("scene-0001",), frames=(3,))
    write(tmp_path, name="Carla-10Hz-val", scenes=("Town05",), frames=(16,))
    index = prepare(Prepare(data_root=tmp_path))
    split = dict(zip(index.scene_name.tolist(), index.scene_split.tolist()))
    assert split == {"Town05": "val", "scene-0001": "train"}
    assert [t.split("/")[1] for t in index.token[index.frames(0)]] == ["0", "5", "10", "15"]
    np.testing.assert_allclose(index.motion[1, 0], 6.0, atol=0.05)


def test_missing_frames_cut_scenes_and_do_not_bend_the_motion(tmp_path: Path) -> None:
    folder = write(tmp_path, frames=(7, 3))
    (folder / "scene-0061" / "3.npz").unlink()
    index, report = read_uniocc(folder).to_index()
    assert index.scene_name.tolist() == ["scene-0061", "scene-0061#2", "scene-0103"]
    assert (report.missing_labels, report.cut_scenes) == (1, 1)
    np.testing.assert_allclose(index.motion[:6, 0], 6.0, atol=0.05)
    content = pickle.loads((folder / "scene_infos.pkl").read_bytes())
    content[0]["occ_in_scene_paths"].pop(3)  # not even named: the numbers of the files tell
    (folder / "scene_infos.pkl").write_bytes(pickle.dumps(content))
    report = read_uniocc(folder).to_index()[1]
    assert (report.missing_labels, report.broken_steps, report.cut_scenes) == (0, 1, 1)
    with pytest.raises(DataError):
        read_uniocc(folder).to_index(strict=True)


def test_frames_of_one_vehicle_of_a_cooperative_scene(tmp_path: Path) -> None:
    folder = write(tmp_path, frames=(3, 3))
    content = pickle.loads((folder / "scene_infos.pkl").read_bytes())
    paths = content[0].pop("occ_in_scene_paths")
    content[0]["egos"] = [{"ego_name": "Ego1", "occ_in_scene_paths": paths}]
    (folder / "scene_infos.pkl").write_bytes(pickle.dumps(content))
    assert read_uniocc(folder).to_index()[0].scene_name.tolist() == ["scene-0061/Ego1", "scene-0103"]


def rewrite(path: Path, **changes: Any) -> None:
    with np.load(path, allow_pickle=True) as archive:
        arrays = {key: archive[key] for key in archive.files}
    arrays.update(changes)
    np.savez_compressed(path, **{key: value for key, value in arrays.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ego_to_world_transformation": None}, "ego_to_world_transformation"),
        ({"ego_to_world_transformation": np.eye(3)}, "4 x 4"),
        ({"ego_to_world_transformation": np.eye(4) * 2}, "rigid"),
        ({"annotations": np.array([{"category_id": 99}], dtype=object)}, "category_id 99"),
        ({"annotations": np.array([{"category_id": 1, "size": [1, 2]}], dtype=object)}, "size"),
        ({"annotations": np.array([{"category_id": 1, "size": [1, 2, 3]}], dtype=object)}, "agent_to_ego"),
        ({"annotations": np.array(["car"], dtype=object)}, "dicts"),
    ],
)
def test_values_that_cannot_be_are_named(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    folder = write(tmp_path, frames=(3, 3))
    rewrite(folder / "scene-0061" / "1.npz", **changes)
    with pytest.raises(DataError, match=says):
        read_uniocc(folder).to_index()


def test_frames_without_objects(tmp_path: Path) -> None:
    folder = write(tmp_path, frames=(3, 3))
    rewrite(folder / "scene-0061" / "0.npz", annotations=np.array([]))
    rewrite(folder / "scene-0061" / "1.npz", annotations=None)
    rewrite(folder / "scene-0061" / "2.npz", annotations=np.array([], dtype=object))
    index = read_uniocc(folder).to_index()[0]
    assert np.diff(index.box_start).tolist() == [0, 0, 0, 2, 2, 2]


def test_hostile_files_run_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    class Hostile:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {mark}",)

    folder = write(tmp_path, frames=(3, 3))
    rewrite(folder / "scene-0061" / "1.npz", annotations=np.array([Hostile()], dtype=object))
    with pytest.raises(DataError, match="nothing in it was run"):
        read_uniocc(folder).to_index()
    (folder / "scene_infos.pkl").write_bytes(pickle.dumps([Hostile()]))
    with pytest.raises(DataError, match="nothing in it was run"):
        read_uniocc(folder).to_index()
    for path in ("../../secret.npz", "/etc/passwd"):
        (folder / "scene_infos.pkl").write_bytes(pickle.dumps([{"scene_name": "a", "occ_in_scene_paths": [path]}]))
        with pytest.raises(DataError, match="inside the data set"):
            read_uniocc(folder).to_index()
    assert not mark.exists()


def test_truncated_files_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path, frames=(3, 3))
    path = folder / "scene-0061" / "1.npz"
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"1\.npz"):
            read_uniocc(folder).to_index()
