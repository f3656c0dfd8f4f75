"""The written data set: the same bytes however it was made, devkit-readable, safe against what disks and people do."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from world_model.core.errors import ConfigError, DataError, OutputError
from world_model.data.labels import read_labels
from world_model.simulator.dataset import export
from world_model.simulator.dataset.calibration import report
from world_model.simulator.dataset.config import DatasetConfig
from world_model.simulator.dataset.export import claim, make_dataset, statistics_of, write_scene

CONFIG = DatasetConfig(scenes=2, seed=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes, one of them held out, made by two processes."""
    root = tmp_path_factory.mktemp("synthetic") / "data"
    frames = make_dataset(root, CONFIG, workers=2)
    assert 78 <= frames <= 82
    return root


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_one_process_in_another_order_gives_the_same_bytes(data: Path, tmp_path: Path) -> None:
    write_scene(tmp_path, CONFIG, 1)
    mine, theirs = files(tmp_path), files(data)
    assert len(mine) > 39
    assert all(theirs[name] == body for name, body in mine.items())


def test_a_killed_run_goes_on_to_the_same_bytes(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    shutil.copytree(data, root)
    # As if killed in mid-scene: no tables, no part, a half-written draft and a stale folder.
    shutil.rmtree(root / CONFIG.version)
    (root / "splits.json").unlink()
    (root / ".parts" / "scene-0002.json").unlink()
    draft = root / ".parts" / "scene-0002.gts" / "half"
    draft.mkdir(parents=True)
    (draft / "labels.npz").write_bytes(b"PK")
    made = []
    monkeypatch.setattr(export, "write_scene", lambda *a: made.append(a[2]) or write_scene(*a))
    make_dataset(root, CONFIG)
    assert made == [1]
    assert files(root) == files(data)


def test_a_scene_that_lacks_a_label_file_is_written_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    shutil.copytree(data, root)
    sorted(root.glob("gts/scene-0001/*/labels.npz"))[3].unlink()
    made = []
    monkeypatch.setattr(export, "write_scene", lambda *a: made.append(a[2]) or write_scene(*a))
    make_dataset(root, CONFIG)
    assert made == [0]
    assert files(root) == files(data)


def test_splits_share_no_town(data: Path) -> None:
    config = DatasetConfig(scenes=23, val_fraction=0.3)
    train, val = range(config.scenes - config.held_out), range(config.scenes - config.held_out, config.scenes)
    assert not {config.town(i) for i in train} & {config.town(i) for i in val}
    splits = json.loads((data / "splits.json").read_text())
    assert splits == {"train": ["scene-0001"], "val": ["scene-0002"]}
    places = {row["location"] for row in json.loads((data / CONFIG.version / "log.json").read_text())}
    assert len(places) == 2


def test_labels_and_timestamps(data: Path) -> None:
    samples = json.loads((data / CONFIG.version / "sample.json").read_text())
    scenes = {row["token"]: row["name"] for row in json.loads((data / CONFIG.version / "scene.json").read_text())}
    for sample in samples[::9]:
        path = data / "gts" / scenes[sample["scene_token"]] / sample["token"] / "labels.npz"
        semantics = read_labels(path)
        assert (read_labels(path, "mask_lidar") >= read_labels(path, "mask_camera")).all()
        assert 0.01 < (semantics != 17).mean() < 0.12
    for scene in scenes:
        gaps = np.diff([s["timestamp"] for s in samples if s["scene_token"] == scene]) * 1e-6
        assert 38 <= len(gaps) <= 40
        assert gaps.min() > 0.399 and gaps.max() < 0.601 and np.isclose(gaps, 0.5).mean() > 0.7


def test_the_devkit_opens_it(data: Path) -> None:
    nuscenes = pytest.importorskip("nuscenes.nuscenes")
    tables = nuscenes.NuScenes(version=CONFIG.version, dataroot=str(data), verbose=False)
    assert len(tables.scene) == 2
    for scene in tables.scene:
        token, count = scene["first_sample_token"], 0
        while token:
            sample = tables.get("sample", token)
            assert tables.get("sample_data", sample["data"]["LIDAR_TOP"])["is_key_frame"]
            token, count = sample["next"], count + 1
        assert count == scene["nbr_samples"]
    for annotation in tables.sample_annotation[::37]:
        velocity = tables.box_velocity(annotation["token"])
        assert np.hypot(*velocity[:2]) < 20 or np.isnan(velocity).any()
        assert annotation["category_name"].split(".")[0] in ("vehicle", "human", "movable_object")


def test_the_report_has_every_row(data: Path) -> None:
    text = report(statistics_of(data, CONFIG), "Calibration")
    for quantity in ("occupied voxels", "share of car", "ego-warp IoU", "boxes a frame", "ego forward", "command left"):
        assert quantity in text
    assert "nan" not in text


@pytest.mark.parametrize("change", [{"seed": 5}, {"scenes": 3}, {"val_fraction": 0.5}])
def test_another_data_set_is_refused(data: Path, change: dict[str, float]) -> None:
    before = files(data)
    with pytest.raises(DataError, match=next(iter(change))):
        make_dataset(data, DatasetConfig(**{"scenes": 2, "seed": 4, **change}))
    assert files(data) == before


def test_an_option_that_only_one_data_set_has_is_named(tmp_path: Path) -> None:
    claim(tmp_path, replace(CONFIG, wild=0.5))
    with pytest.raises(DataError, match=r"wild=0.5\n.*no wild"):
        claim(tmp_path, CONFIG)


def test_a_strangers_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        make_dataset(tmp_path, CONFIG)
    with pytest.raises(DataError, match="is a file"):
        make_dataset(tmp_path / "thesis.txt", CONFIG)
    assert files(tmp_path) == {"thesis.txt": b"mine"}


def test_a_full_disk_is_named_and_loses_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    shutil.copytree(data, root)
    (root / ".parts" / "scene-0002.json").unlink()
    kept = (root / ".parts" / "scene-0001.json").read_bytes()

    def full(self: Path, body: bytes) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        write_scene(root, CONFIG, 1)
    assert (root / ".parts" / "scene-0001.json").read_bytes() == kept
    assert not (root / ".parts" / "scene-0002.json").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((OutputError, DataError), match="file"):
        make_dataset(tmp_path / "file" / "data", CONFIG)


def test_bad_options_are_named() -> None:
    with pytest.raises(ConfigError, match="scenes=0"):
        DatasetConfig(scenes=0)
