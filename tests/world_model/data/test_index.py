from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from world_model.core.errors import DataError, OutputError
from world_model.data.formats.nuscenes import read_nuscenes
from world_model.data.index import INDEX_NAME, SceneIndex


@pytest.fixture
def index(scenes_root: Path) -> SceneIndex:
    return read_nuscenes(scenes_root).to_index()[0]


def test_save_and_load_are_inverse(index: SceneIndex, tmp_path: Path) -> None:
    index.save(tmp_path / "index.npz")
    loaded = SceneIndex.load(tmp_path / "index.npz", root=index.root)
    for field in dataclasses.fields(SceneIndex):
        mine, theirs = getattr(index, field.name), getattr(loaded, field.name)
        if isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, theirs)
        else:
            assert mine == theirs
    assert loaded.fingerprint == index.fingerprint
    index.save(index.root / INDEX_NAME)
    assert SceneIndex.load(index.root).root == index.root


def test_fingerprint_follows_the_content(index: SceneIndex) -> None:
    moved = dataclasses.replace(index, translation_m=index.translation_m + 1e-3)
    renamed = dataclasses.replace(index, source="other")
    elsewhere = dataclasses.replace(index, root=Path("elsewhere"))
    assert len({index.fingerprint, moved.fingerprint, renamed.fingerprint}) == 3
    assert elsewhere.fingerprint == index.fingerprint


def test_frames_boxes_and_poses(index: SceneIndex) -> None:
    assert list(index.frames(1)) == list(range(12, 21))
    assert sum(len(index.boxes(f).class_id) for f in range(21)) == len(index.box_class)
    identity = index.ego_to_global[:, :3, :3] @ index.ego_to_global[:, :3, :3].transpose(0, 2, 1)
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(3), identity.shape), atol=1e-12)
    assert index.scenes("train") == [0] and index.scenes("val") == [1] and index.scenes("all") == [0, 1]
    with pytest.raises(DataError, match="train"):
        index.scenes("test")


@pytest.mark.parametrize(
    ("column", "change", "says"),
    [
        ("rotation", lambda v: v[:-1], "rotation"),
        ("scene_start", lambda v: v[::-1].copy(), "scene_start"),
        ("box_start", lambda v: v + 1, "box_start"),
        ("translation_m", lambda v: v * np.nan, "finite"),
        ("command", lambda v: v + 3, "0..2"),
        ("box_class", lambda v: v + 17, "0..16"),
    ],
)
def test_contradictions_are_refused(index: SceneIndex, column: str, change, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=says) as caught:
        dataclasses.replace(index, **{column: change(getattr(index, column))})
    assert "prepare" in caught.value.remedy


def test_bad_files_are_refused(index: SceneIndex, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no index"):
        SceneIndex.load(tmp_path)
    path = tmp_path / INDEX_NAME
    index.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        SceneIndex.load(path)
    path.write_text("not an npz")
    with pytest.raises(DataError, match="cannot be read"):
        SceneIndex.load(path)
    np.savez(path, meta=np.array('{"format": "iiworld-index", "version": 99}'))
    with pytest.raises(DataError, match="version 2"):
        SceneIndex.load(path)
    np.savez(path, meta=np.array('{"format": "iiworld-index", "version": 1, "source": "x"}'), token=np.zeros(3))
    with pytest.raises(DataError, match="columns"):
        SceneIndex.load(path)


def test_a_failed_write_leaves_the_old_index(
    index: SceneIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / INDEX_NAME
    index.save(path)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.savez_compressed", full)
    with pytest.raises(OutputError, match="No space left"):
        index.save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.glob("*index*")] == [INDEX_NAME]


def test_parts_of_train_are_disjoint_and_never_held_out(index: SceneIndex) -> None:
    runs = [(f"s{i}", range(i, i + 1)) for i in range(9)]
    many = index.part([*runs, ("held", range(12, 13))])
    assert many.scenes("fit") == list(range(7)) and many.scenes("tune") == [7, 8]
    named = dataclasses.replace(many, scene_split=np.array(["train"] * 8 + ["tune", "test"]))
    assert named.scenes("tune") == [8] and named.scenes("test") == [9]
