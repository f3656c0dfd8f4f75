"""Compressed labels, read back by numpy and zipfile."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from world_model.core.files import DAMAGED_NPZ
from world_model.core.grid import FREE, OCC3D
from world_model.simulator.dataset.packing import npz_bytes
from world_model.simulator.sensing.labels import Labels


def random_labels(seed: int) -> Labels:
    rng = np.random.default_rng(seed)
    semantics = np.where(rng.random(OCC3D.shape) < 0.05, rng.integers(0, 17, OCC3D.shape), FREE).astype(np.uint8)
    masks = [(rng.random(OCC3D.shape) < 0.2).astype(np.uint8) for _ in range(2)]
    return Labels(semantics, *masks)


def test_numpy_and_zip_read_what_was_packed() -> None:
    labels = random_labels(0)
    body = npz_bytes(vars(labels))
    with np.load(io.BytesIO(body), allow_pickle=False) as archive:
        assert archive.files == ["semantics", "mask_lidar", "mask_camera"]
        for name in archive.files:
            assert archive[name].dtype == np.uint8
            assert (archive[name] == getattr(labels, name)).all()
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
        assert {i.date_time[:3] for i in archive.infolist()} == {(1980, 1, 1)}


def test_equal_labels_give_equal_bytes_and_damage_is_found() -> None:
    body = npz_bytes(vars(random_labels(1)))
    assert body == npz_bytes(vars(random_labels(1)))
    broken = bytearray(body)
    broken[len(body) // 2] ^= 255
    with pytest.raises(DAMAGED_NPZ), np.load(io.BytesIO(bytes(broken))) as archive:
        for name in archive.files:
            archive[name]


def test_arrays_that_lie_otherwise_in_memory_are_packed_too() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(4, 6).T
    with np.load(io.BytesIO(npz_bytes({"a": array, "b": array[::2]}))) as archive:
        assert (archive["a"] == array).all() and (archive["b"] == array[::2]).all()
