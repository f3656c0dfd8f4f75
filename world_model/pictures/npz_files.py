"""Read what can be drawn out of one npz file: labels of a keyframe in any known format, or a forecast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import DataError
from world_model.core.files import DAMAGED_NPZ
from world_model.core.grid import FREE, OCC3D, VoxelGrid
from world_model.data.labels import LABEL_FORMATS, read_labels, read_labels_of

_REMEDY = "write it again with `python -m world_model.generate`"


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Labels (X, Y, Z) and ego poses (4, 4) of every moment.

    Attributes:
        labels: (T) uint8; the observed start comes first where the file has it.
        poses: (T, 4, 4) ego -> global.
        first: step of the first moment: 0 for the start, else 1.
    """

    labels: list[NDArray[Any]]
    poses: NDArray[Any]
    first: int

    @property
    def grid(self) -> VoxelGrid:
        """The grid of the labels."""
        return grid_of(self.labels[0])


def read_forecast(file: Path) -> Forecast:
    """A forecast.npz of `world_model.generate`.

    Raises:
        DataError: the file is damaged, or holds other shapes, types or values.
    """
    occupancy = _class_ids(file, "occupancy", (None, None, None, None))
    poses = _array(file, "ego_to_global")
    right = poses.shape == (len(occupancy) + 1, 4, 4) and poses.dtype.kind == "f" and np.isfinite(poses).all()
    if not right or (np.abs(np.linalg.det(poses)) < 1e-6).any():
        found = f"{file}: ego_to_global is {poses.dtype} {poses.shape}"
        raise DataError(found, f"{(len(occupancy) + 1, 4, 4)} finite poses", _REMEDY)
    start = [_class_ids(file, "start", occupancy.shape[1:])] if "start" in keys_of(file) else []
    labels = [frame.astype(np.uint8) for frame in (*start, *occupancy)]
    return Forecast(labels=labels, poses=poses[-len(labels) :], first=1 - len(start))


def read_keyframe(file: Path, mask: str = "none") -> NDArray[Any]:
    """Labels (X, Y, Z) uint8 of a label file, recognised by the name of its array.

    Args:
        file: the npz file.
        mask: "lidar" or "camera" to empty the voxels outside this mask of the file; "none" for all voxels.

    Raises:
        DataError: the file is missing, damaged or of no known format, or has no such mask.
    """
    keys = keys_of(file)
    name = next((name for name, kind in LABEL_FORMATS.items() if kind.key in keys), None)
    if name is None:
        known = [kind.key for kind in LABEL_FORMATS.values()]
        raise DataError(f"{file} has the keys {sorted(keys)}", f"one of {known}, or a forecast", "check the file")
    shape = _array(file, LABEL_FORMATS[name].key).shape
    if len(shape) != 3 or not all(shape):
        raise DataError(f"{file}: {LABEL_FORMATS[name].key} is {shape}", "(X, Y, Z)", "check the file")
    labels = read_labels_of(file, name, shape)
    return labels if mask == "none" else np.where(read_labels(file, f"mask_{mask}", shape) > 0, labels, np.uint8(FREE))


def grid_of(labels: NDArray[Any]) -> VoxelGrid:
    """The grid of labels without metadata: Occ3D's by its shape, else one with the ego in its middle."""
    if labels.shape == OCC3D.shape:
        return OCC3D
    x, y, z = labels.shape
    return VoxelGrid(shape=(x, y, z), lower_m=(-x * 0.2, -y * 0.2, OCC3D.lower_m[2]))


def keys_of(file: Path) -> set[str]:
    """Names of the arrays of an npz file.

    Raises:
        DataError: it is missing or damaged.
    """
    if not file.exists():
        raise DataError(f"{file} does not exist", "an npz file", "check the path")
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return set(archive.files)
    except (*DAMAGED_NPZ, AttributeError, TypeError) as error:
        raise DataError(f"{file} cannot be read ({error})", "an npz file", "write or fetch it again") from error


def _array(file: Path, key: str) -> NDArray[Any]:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            array: NDArray[Any] = archive[key]
            return array
    except DAMAGED_NPZ as error:
        raise DataError(f"{key} in {file} cannot be read ({error})", "an intact npz file", "write it again") from error


def _class_ids(file: Path, key: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """An array of class ids; None in ``shape`` stands for any length."""
    ids = _array(file, key)
    fits = ids.ndim == len(shape) and all(n in (None, length) for n, length in zip(shape, ids.shape, strict=True))
    if not fits or not ids.size or ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() > FREE:
        expected = f"{len(shape)} axes" if None in shape else f"{shape}"
        raise DataError(f"{file}: {key} is {ids.dtype} {ids.shape}", f"{expected} of integers 0..{FREE}", _REMEDY)
    return ids
