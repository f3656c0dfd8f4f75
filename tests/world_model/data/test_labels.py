from __future__ import annotations

import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from real_files import REAL

from world_model.core.errors import DataError
from world_model.data.label_check import check_convention
from world_model.data.labels import read_labels, read_labels_of

SHAPE = (8, 6, 4)


def write(path: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, **arrays)
    return path


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 18, SHAPE).astype(np.uint8)


def test_reads_any_integer_type(tmp_path: Path, labels: np.ndarray) -> None:
    for kind in (np.uint8, np.int32, np.int64):
        read = read_labels(write(tmp_path / "labels.npz", semantics=labels.astype(kind)), shape=SHAPE)
        assert read.dtype == np.uint8 and (read == labels).all()
    mask = (labels > 4).astype(np.uint8)
    assert (read_labels(write(tmp_path / "m.npz", mask_camera=mask), "mask_camera", SHAPE) == mask).all()


def test_damage_is_named(tmp_path: Path, labels: np.ndarray) -> None:
    path = tmp_path / "labels.npz"
    bad: list[tuple[dict[str, np.ndarray], str]] = [
        ({"semantic": labels}, "'semantics'"),
        ({"semantics": labels[:-1]}, r"\(7, 6, 4\)"),
        ({"semantics": labels.astype(np.float32)}, "float32"),
        ({"semantics": labels.astype(np.int64) + 1}, r"1\.\.18"),
        ({"semantics": labels.astype(np.int64) - 1}, r"-1\.\.16"),
        ({"semantics": np.array([None])}, "cannot be read"),
    ]
    for arrays, says in bad:
        with pytest.raises(DataError, match=says) as caught:
            read_labels(write(path, **arrays), shape=SHAPE)
        assert str(path) in str(caught.value) and caught.value.expected and caught.value.remedy
    with pytest.raises(DataError, match=r"0\.\.1"):
        read_labels(write(path, mask_lidar=labels), "mask_lidar", SHAPE)


def test_truncated_at_any_length(tmp_path: Path, labels: np.ndarray) -> None:
    whole = write(tmp_path / "whole.npz", semantics=labels).read_bytes()
    path = tmp_path / "labels.npz"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"labels\.npz"):
            read_labels(path, shape=SHAPE)
    half = len(whole) // 2
    path.write_bytes(whole[:half] + bytes(8) + whole[half + 8 :])
    with pytest.raises(DataError, match=r"labels\.npz"):
        read_labels(path, shape=SHAPE)
    path.unlink()
    with pytest.raises(DataError, match="does not exist"):
        read_labels(path, shape=SHAPE)


def test_flipped_bytes_give_a_data_error_or_the_right_labels(tmp_path: Path, labels: np.ndarray) -> None:
    whole = write(tmp_path / "whole.npz", semantics=labels).read_bytes()
    rng, path = np.random.default_rng(1), tmp_path / "labels.npz"
    refused = 0
    for _ in range(600):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 2):
            damaged[place] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            assert (read_labels(path, shape=SHAPE) == labels).all()
        except DataError:
            refused += 1
    assert refused > 300


class Cycle:
    """Garbage whose end takes a moment, so that another thread gets its turn in the middle of a collection."""

    def __init__(self) -> None:
        self.own = self

    def __del__(self) -> None:
        sum(range(50))


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    """Python 3.11 confuses the depths of literals that threads read at the same time, and numpy's headers are such."""
    small = np.zeros((2, 2, 2), np.uint8)
    paths = [write(tmp_path / f"{n}.npz", semantics=small) for n in range(8)]

    def read(number: int, depth: int) -> np.ndarray:
        if depth:
            return read(number, depth - 1)
        garbage = [Cycle() for _ in range(3)]
        del garbage
        return read_labels(paths[number % 8], shape=(2, 2, 2))

    switching, collecting = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(10)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda n: read(n, n % 40), range(1500)))
    finally:
        sys.setswitchinterval(switching)
        gc.set_threshold(*collecting)
    assert all((one == small).all() for one in found)


def scene(free: int, car: int) -> np.ndarray:
    """A car in free space."""
    labels = np.full(SHAPE, free, np.int32)
    labels[2:4, 2:4, :2] = car
    return labels


@pytest.mark.parametrize(("free", "car", "name"), [(16, 0, "openocc"), (0, 4, "free0")])
def test_other_conventions_are_named_and_converted(tmp_path: Path, free: int, car: int, name: str) -> None:
    path = write(tmp_path / "labels.npz", semantics=scene(free, car))
    with pytest.raises(DataError, match="looks like") as caught:
        read_labels_of(path, "occ3d", SHAPE)
    assert f"--labels {name}" in caught.value.remedy
    np.testing.assert_array_equal(read_labels_of(path, name, SHAPE), scene(17, 4))


@pytest.mark.skipif(not REAL.exists(), reason="no real files here")
def test_real_files_of_other_conventions(tmp_path: Path) -> None:
    openocc = REAL / "openocc/3D_occupancy_flow_data.npz"
    with pytest.raises(DataError, match="OpenOcc"):
        read_labels_of(openocc, "occ3d")
    classes = set(np.unique(read_labels_of(openocc, "openocc")).tolist())
    assert {4, 7, 11, 13, 14, 15, 16, 17} == classes
    read_labels_of(REAL / "occ3d/frame_a.npz", "occ3d")
    early = REAL / "early/labels.npz"
    index = SimpleNamespace(label_format="occ3d", token=[""], read_labels=lambda frame: read_labels_of(early, "occ3d"))
    with pytest.raises(DataError, match="early release"):
        check_convention(index)  # type: ignore[arg-type]
