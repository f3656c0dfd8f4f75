"""Cutting scenes out of a data set, and drawing frames by class."""

from pathlib import Path

import numpy as np
import pytest
from formats.uniocc import write_uniocc

from world_model.core.errors import DataError
from world_model.data import demo
from world_model.data.balance import BalancedFrames
from world_model.data.formats.nuscenes import read_nuscenes
from world_model.data.index import SceneIndex
from world_model.data.labels import read_labels
from world_model.prepare import Prepare, prepare


@pytest.fixture
def index(scenes_root: Path) -> SceneIndex:
    return read_nuscenes(scenes_root).to_index()[0]


def test_a_cut_holds_the_same_frames(index: SceneIndex) -> None:
    name = str(index.scene_name[1])
    small = demo.cut(index, (name,))
    assert small.scene_name.tolist() == [name] and len(small.token) == len(index.frames(1))
    for new, old in zip(small.frames(0), index.frames(1), strict=True):
        assert small.token[new] == index.token[old]
        np.testing.assert_array_equal(small.ego_to_global[new], index.ego_to_global[old])
        np.testing.assert_array_equal(small.boxes(new).center_m, index.boxes(old).center_m)
    with pytest.raises(DataError, match="nowhere"):
        demo.cut(index, ("nowhere",))


def test_small_files_hold_the_labels(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 18, (200, 200, 16), dtype=np.uint8)
    demo.write_semantics(tmp_path / "labels.npz", labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.npz"), labels)
    first = (tmp_path / "labels.npz").read_bytes()
    demo.write_semantics(tmp_path / "labels.npz", labels)
    assert (tmp_path / "labels.npz").read_bytes() == first


def test_bundled_scenes_are_synthetic_and_held_out() -> None:
    index = SceneIndex.load(demo.demo_root())
    assert index.source == "synthetic" and set(index.scene_split.tolist()) == {"val"}
    assert len(index.scene_name) >= 3
    assert read_labels(index.root / str(index.label_path[0])).shape == (200, 200, 16)


def test_balanced_frames_show_rare_classes() -> None:
    index = SceneIndex.load(demo.demo_root())
    frames = np.arange(len(index.token))
    balanced = BalancedFrames(index, frames)
    drawn = balanced.draw(600, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, balanced.draw(600, np.random.default_rng(0)))

    def share(class_id: int, among: np.ndarray) -> float:
        """How many of some frames show a class near the ego vehicle."""
        near = [
            (np.abs(b.center_m[:, :2]) < 30).all(1) & (b.class_id == class_id)
            for b in (index.boxes(int(f)) for f in among)
        ]
        return float(np.mean([n.any() for n in near]))

    shares = {c: share(c, frames) for c in np.unique(index.box_class)}
    rare = min((c for c in shares if shares[c] > 0), key=lambda c: shares[c])
    assert share(rare, drawn) > max(1.3 * shares[rare], 0.05)


def test_scenes_of_another_format_become_occ3d(tmp_path: Path) -> None:
    root = write_uniocc(tmp_path, frames=(2, 2))
    prepare(Prepare(data_root=root))
    before = SceneIndex.load(root)
    demo.main(demo.Args(index=root, scenes=("scene-0103",), out=tmp_path / "small"))
    after = SceneIndex.load(tmp_path / "small")
    assert after.label_format == "occ3d" and after.source == before.source
    np.testing.assert_array_equal(after.read_labels(1), before.read_labels(3))
