"""Labels are compared with what else a data set says: its annotations, its clock, its convention."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_scenes import write_scenes

from world_model.core.errors import DataError
from world_model.core.grid import OCC3D
from world_model.data.boxes import voxels_inside
from world_model.data.formats.nuscenes import read_nuscenes
from world_model.data.index import SceneIndex
from world_model.data.label_check import AXES, check_axes
from world_model.prepare import Prepare, prepare


def with_cars(index: SceneIndex, seed: int = 0, cars: int = 6) -> tuple[SceneIndex, dict[int, np.ndarray]]:
    """An index whose frames hold cars of the same places as voxels and as boxes."""
    rng, frames = np.random.default_rng(seed), len(index.token)
    count = frames * cars
    center = np.concatenate((rng.uniform(-28, 28, (count, 2)), np.full((count, 1), 0.8)), 1).astype(np.float32)
    filled = replace(
        index,
        box_start=np.arange(frames + 1, dtype=np.int64) * cars,
        box_center_m=center,
        box_size_m=np.tile(np.array([4.5, 2.0, 1.6], np.float32), (count, 1)),
        box_yaw_rad=rng.uniform(-3, 3, count).astype(np.float32),
        box_velocity_mps=np.zeros((count, 2), np.float32),
        box_class=np.full(count, 4, np.uint8),
        box_instance=np.full(count, -1, np.int64),
    )
    labels = {}
    for frame in range(frames):
        boxes = filled.boxes(frame)
        labels[frame] = np.full(OCC3D.shape, 17, np.uint8)
        for number in range(cars):
            labels[frame][tuple(voxels_inside(boxes, number, OCC3D).T)] = 4
    return filled, labels


@pytest.fixture
def index(tmp_path: Path) -> SceneIndex:
    return read_nuscenes(write_scenes(tmp_path / "data", frames=(6,), shape=(8, 8, 4))).to_index()[0]


def lying(index: SceneIndex, labels: dict[int, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SceneIndex, "read_truth", lambda self, frame, shape=OCC3D.shape: labels[frame])


def test_right_axes_agree_and_others_are_named(index: SceneIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    filled, labels = with_cars(index)
    lying(filled, labels, monkeypatch)
    assert check_axes(filled, range(6)) == 1.0
    for name, into_ego in AXES.items():
        # What `into_ego` undoes: every one of these is its own inverse, or the inverse of the other quarter turn.
        back = next(b for b in AXES.values() if (b(into_ego(labels[0])) == labels[0]).all())
        lying(filled, {frame: back(one) for frame, one in labels.items()}, monkeypatch)
        with pytest.raises(DataError, match="annotated cars") as caught:
            check_axes(filled, range(6))
        assert f"100% do when the labels are taken as {name}" in str(caught.value)


def test_labels_without_the_annotated_cars_are_doubted(index: SceneIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    filled, labels = with_cars(index)
    lying(filled, {frame: np.full_like(one, 17) for frame, one in labels.items()}, monkeypatch)
    assert check_axes(filled, range(6)) == 0.0


def test_few_cars_prove_nothing(index: SceneIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    filled, labels = with_cars(index, cars=3)
    lying(filled, {frame: one[::-1] for frame, one in labels.items()}, monkeypatch)
    assert check_axes(filled, range(6)) is None


def test_the_convention_is_recorded(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "data", frames=(4, 4))
    before = prepare(Prepare(data_root=root))
    for path in (root / "gts").glob("*/*/labels.npz"):
        with np.load(path) as archive:
            labels = archive["semantics"].astype(np.int32)
        np.savez_compressed(path, semantics=np.where(labels == 17, 0, labels))
    shape = np.load(path)["semantics"].shape
    with pytest.raises(DataError, match="0 = free"):
        before.read_labels(0, shape)
    converted = prepare(Prepare(data_root=root, labels="free0"))
    assert SceneIndex.load(root).label_format == "free0" and converted.fingerprint != before.fingerprint
    assert (converted.read_labels(0, shape) == 17).mean() > 0.5


@pytest.mark.parametrize("step_s", [1 / 12, 1.0])
def test_other_frame_rates_are_refused(tmp_path: Path, step_s: float) -> None:
    data = read_nuscenes(write_scenes(tmp_path / "data", frames=(6, 5), shape=(8, 8, 4)))
    times = [(np.arange(len(r.token)) * step_s * 1e6).astype(np.int64) for r in data.recordings]
    other = [replace(r, timestamp_us=t) for r, t in zip(data.recordings, times, strict=True)]
    with pytest.raises(DataError, match=f"{1 / step_s:.3g} a second") as caught:
        replace(data, recordings=other).to_index()
    assert caught.value.remedy
    data.to_index()
