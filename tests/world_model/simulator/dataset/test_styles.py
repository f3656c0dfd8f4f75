"""Synthetic data in other styles, on hills: deterministic, consistent, and refused by the simulator."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from world_model.core.errors import ConfigError, DataError
from world_model.core.grid import CLASS_ID, FREE
from world_model.data.label_styles import LabelStyle
from world_model.prepare import Prepare, prepare
from world_model.simulator.dataset import export
from world_model.simulator.dataset.calibration import report
from world_model.simulator.dataset.config import DatasetConfig
from world_model.simulator.dataset.export import identity, make_dataset, statistics_of, write_scene
from world_model.simulator.dataset.rebuild import dataset_config
from world_model.simulator.dataset.styles import draw_labels, scene_style
from world_model.simulator.sensing.labels import Labels
from world_model.simulator.simulator import SimulatorConfig

ON_HILLS = SimulatorConfig(terrain="hills")
HILLS = DatasetConfig(scenes=1, seed=4, val_fraction=0.0, labels_style="varied", simulator=ON_HILLS)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module", autouse=True)
def short() -> object:
    """Scenes of a few keyframes."""
    patch = pytest.MonkeyPatch()
    gaps = DatasetConfig.gaps
    patch.setattr(DatasetConfig, "gaps", lambda self, scene: gaps(self, scene)[:9])
    yield
    patch.undo()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hills") / "data"
    make_dataset(root, HILLS)
    return root


def test_the_same_bytes_twice_and_a_mark(data: Path, tmp_path: Path) -> None:
    write_scene(tmp_path, HILLS, 0)
    mine, theirs = files(tmp_path), files(data)
    assert len(mine) > 9 and all(theirs[name] == body for name, body in mine.items())
    mark = json.loads((data / "synthetic.json").read_text())
    assert (mark["labels_style"], mark["exported_poses"]) == ("varied", "nuscenes")
    assert mark["simulator"]["terrain"] == "hills"
    with pytest.raises(DataError, match="another synthetic data set"):
        make_dataset(data, replace(HILLS, simulator=SimulatorConfig()))


def test_plain_data_sets_keep_their_identity_and_are_not_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = DatasetConfig(scenes=1, seed=4, val_fraction=0.0)
    assert not {"labels_style", "exported_poses"} & set(identity(plain))
    assert "terrain" not in identity(plain)["simulator"]
    assert scene_style(plain, 0).unchanged
    monkeypatch.setattr(export, "draw_labels", None)
    write_scene(tmp_path, plain, 0)


def test_prepare_makes_the_poses_planar(data: Path) -> None:
    index = prepare(Prepare(data_root=data))
    assert index.poses == "planar" and index.source == "synthetic"
    raw = prepare(Prepare(data_root=data, poses="raw"))
    assert (raw.translation_m[:, 2] == 0).all()
    assert np.degrees(np.arcsin(np.abs(raw.ego_to_global[:, 2, :2]).max())) > 0.1
    np.testing.assert_allclose(index.translation_m[:, :2], raw.translation_m[:, :2])


def test_ground_boxes_and_masks_go_with_the_terrain(data: Path) -> None:
    index = prepare(Prepare(data_root=data))
    levels, stands = set[int](), []
    for frame in range(len(index.token)):
        with np.load(data / str(index.label_path[frame])) as archive:
            semantics, lidar, camera = (archive[k] for k in ("semantics", "mask_lidar", "mask_camera"))
        levels |= set(np.nonzero(semantics == CLASS_ID["driveable_surface"])[2].tolist())
        assert (lidar >= camera).all(), "the camera's mask lies in the LiDAR's"
        assert (semantics[(lidar == 1) & (camera == 0)] != FREE).all()
        assert lidar[semantics != FREE].mean() > 0.9
        boxes = index.boxes(frame)
        bottom = boxes.center_m[:, 2] - boxes.size_m[:, 2] / 2
        for (x, y), z in zip(boxes.center_m[:, :2].tolist(), bottom.tolist(), strict=True):
            i, j = int((x + 40) / 0.4), int((y + 40) / 0.4)
            if 3 <= i < 197 and 3 <= j < 197:
                around = semantics[i - 3 : i + 4, j - 3 : j + 4]
                ground = np.nonzero((around >= 11) & (around <= 14))[2]
                if len(ground):
                    stands.append(z - (float(np.median(ground)) * 0.4 - 0.8))
    assert len(levels) >= 3
    assert len(stands) > 20 and abs(float(np.median(stands))) < 0.4


def test_true_poses_climb_and_boxes_lie_alike(tmp_path: Path, data: Path) -> None:
    make_dataset(tmp_path / "true", replace(HILLS, exported_poses="true"))
    true, sunken = prepare(Prepare(data_root=tmp_path / "true")), prepare(Prepare(data_root=data, poses="raw"))
    assert true.poses == "raw" and np.ptp(true.translation_m[:, 2]) > 1e-3
    np.testing.assert_allclose(true.rotation, sunken.rotation)
    np.testing.assert_allclose(true.box_center_m, sunken.box_center_m, atol=2e-3)
    labels = [
        {name: body for name, body in files(root).items() if name.startswith("gts")}
        for root in (tmp_path / "true", data)
    ]
    assert labels[0] == labels[1]


def test_a_level_style_keeps_labels_and_masks() -> None:
    rng = np.random.default_rng(0)
    semantics = np.where(rng.random((200, 200, 16)) < 0.05, CLASS_ID["manmade"], FREE).astype(np.uint8)
    camera = (rng.random(semantics.shape) < 0.2).astype(np.uint8)
    lidar = np.maximum(camera, (semantics != FREE) & (rng.random(semantics.shape) < 0.97)).astype(np.uint8)
    drawn = draw_labels(LabelStyle(), Labels(semantics, lidar, camera), np.eye(4), 3)
    for mine, plain in ((drawn.semantics, semantics), (drawn.mask_lidar, lidar), (drawn.mask_camera, camera)):
        np.testing.assert_array_equal(mine, plain)


def test_the_report_and_the_simulator_leave_other_styles_out(data: Path) -> None:
    text = report(statistics_of(data, HILLS), "title")
    assert "labels are left out" in text and "occupied voxels" not in text and "boxes a frame" in text
    assert "ego pitch" in text and "driveable voxels by z" not in text
    with pytest.raises(DataError, match="in its own style"):
        dataset_config(prepare(Prepare(data_root=data)))
    with pytest.raises(ConfigError, match="terrain='moon'"):
        SimulatorConfig(terrain="moon")


def test_the_hills_of_earlier_versions_load_but_are_not_driven_on(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "old")
    mark = json.loads((data / "synthetic.json").read_text())
    del mark["simulator"]["terrain"]
    (tmp_path / "old" / "synthetic.json").write_text(json.dumps({**mark, "labels_style": "plain", "ground": "hills"}))
    index = prepare(Prepare(data_root=tmp_path / "old"))
    with pytest.raises(DataError, match="earlier version"):
        dataset_config(index)
