"""Read the occupancy labels of one keyframe in any known format, and check everything about the file.

Every format ends in Occ3D's 18 classes on its grid, so no other module depends on the format of the label files.
Files may hold 255 where nothing is known. Models see free space there; losses and scores leave it out.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.errors import DataError
from world_model.core.files import DAMAGED_NPZ, cause_of, read_npy, remedy_for
from world_model.core.grid import FREE, IGNORE, OCC3D

WAYMO_CLASSES: dict[int, int] = {
    **{0: 0, 1: 4, 2: 7, 3: 15, 4: 2, 5: 15, 6: 15, 7: 8, 8: 2, 9: 6},
    **{10: 15, 11: 16, 12: 16, 13: 11, 14: 13, 23: 17},
}
"""Occ3D-Waymo -> Occ3D: 0 general object, 1 vehicle, 2 pedestrian, 3 sign, 4 cyclist, 5 traffic light, 6 pole,
7 construction cone, 8 bicycle, 9 motorcycle, 10 building, 11 vegetation, 12 trunk, 13 road, 14 walkable, 23 free."""
UNIOCC_CLASSES: dict[int, int] = {0: 0, 1: 4, 2: 2, 3: 6, 4: 7, 5: 8, 6: 16, 7: 11, 8: 14, 9: 15, 10: 17}
"""UniOcc -> Occ3D: 0 undefined, 1 car (all motor vehicles on four wheels or more), 2 bicycle, 3 motorcycle,
4 pedestrian, 5 traffic cone, 6 vegetation, 7 road, 8 terrain, 9 building, 10 free."""


OPENOCC_CLASSES: dict[int, int] = {
    **{0: 4, 1: 10, 2: 9, 3: 3, 4: 5, 5: 2, 6: 6, 7: 7, 8: 8, 9: 1},
    **{10: 11, 11: 12, 12: 13, 13: 14, 14: 15, 15: 16, 16: 17},
}
"""OpenOcc -> Occ3D: 0 car, 1 truck, 2 trailer, 3 bus, 4 construction vehicle, 5 bicycle, 6 motorcycle, 7 pedestrian,
8 traffic cone, 9 barrier, 10 driveable surface, 11 other flat, 12 sidewalk, 13 terrain, 14 manmade, 15 vegetation,
16 free."""
FREE0_CLASSES: dict[int, int] = {0: 17, **{n: n for n in range(1, 17)}}
"""nuScenes' LiDAR classes with 0 = free -> Occ3D: 1 barrier ... 16 vegetation are the same."""


@dataclass(frozen=True, kw_only=True)
class LabelFormat:
    """How label files of one kind are read.

    Attributes:
        key: the array in the npz.
        classes: class id in the file -> Occ3D class id; None where they are the same.
    """

    key: str
    classes: Mapping[int, int] | None = None
    table: NDArray[Any] | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        if self.classes is not None:
            table = np.full(256, FOREIGN, np.uint8)
            table[list(self.classes)] = list(self.classes.values())
            table[IGNORE] = IGNORE
            object.__setattr__(self, "table", table)


FOREIGN = 254
"""Stands in a table for class ids that a format does not have."""
LABEL_FORMATS: dict[str, LabelFormat] = {
    "occ3d": LabelFormat(key="semantics"),
    "openocc": LabelFormat(key="semantics", classes=OPENOCC_CLASSES),
    "free0": LabelFormat(key="semantics", classes=FREE0_CLASSES),
    "waymo": LabelFormat(key="voxel_label", classes=WAYMO_CLASSES),
    "uniocc": LabelFormat(key="occ_label", classes=UNIOCC_CLASSES),
}
"""The formats that an index may name: Occ3D (and STCOcc, whose files have the same arrays), Occ3D-Waymo, UniOcc."""


def read_labels_of(
    path: str | Path, label_format: str, shape: tuple[int, ...] = OCC3D.shape, *, unknown: int = FREE
) -> NDArray[Any]:
    """Read a label file of a named format and map its classes to Occ3D's.

    Args:
        path: the npz file.
        label_format: one of `LABEL_FORMATS`.
        shape: the expected (X, Y, Z).
        unknown: what is returned where the file holds 255; `IGNORE` for what is learned from or scored against.

    Returns:
        (X, Y, Z) uint8, class ids 0..17, or ``unknown``.

    Raises:
        DataError: the file is missing, truncated, or holds another key, shape, type or class.
    """
    kind = LABEL_FORMATS[label_format]
    labels = _read(path, kind.key, shape, FREE if kind.table is None else IGNORE)
    if kind.classes is None or kind.table is None:
        _check_free(labels, path)
        return _filled(labels, unknown)
    mapped: NDArray[Any] = kind.table[labels]
    if (mapped == FOREIGN).any():
        foreign = np.unique(labels[mapped == FOREIGN]).tolist()
        found, expected = f"{path}: {kind.key} holds the class ids {foreign[:8]}", f"{sorted(kind.classes)}"
        remedy = "check which data set and release the file is from, and prepare it with the right --format"
        raise DataError(found, f"those of {label_format}: {expected}", remedy)
    return _filled(mapped, unknown)


def unknown_as_free(labels: Tensor) -> Tensor:
    """Labels of any shape as a model sees them: free where nothing is known."""
    return labels.masked_fill(labels == IGNORE, FREE)


def _filled(labels: NDArray[Any], unknown: int) -> NDArray[Any]:
    if unknown == IGNORE or not labels.size or labels.max() != IGNORE:
        return labels
    return np.where(labels == IGNORE, np.uint8(unknown), labels)


def _check_free(labels: NDArray[Any], path: str | Path) -> None:
    """Nine tenths of every real scene are free: where hardly a voxel is 17, another number means free."""
    if not labels.size or np.count_nonzero(labels == FREE) > 0.01 * labels.size:
        return
    labels = labels[labels != IGNORE]
    if np.count_nonzero(labels == FREE) > 0.01 * labels.size:
        return
    for free, name, words in ((16, "openocc", "OpenOcc (16 = free)"), (0, "free0", "labels with 0 = free")):
        if np.count_nonzero(labels == free) > 0.5 * labels.size:
            raise DataError(
                f"{path}: semantics looks like {words}: {(labels == free).mean():.0%} of it are {free}",
                "Occ3D's classes, 17 = free",
                f"run `python -m world_model.prepare` again with --labels {name}, which converts them",
            )


def read_labels(path: str | Path, key: str = "semantics", shape: tuple[int, ...] = OCC3D.shape) -> NDArray[Any]:
    """Read one array of an Occ3D ``labels.npz``.

    Args:
        path: the npz file.
        key: "semantics" (class ids 0..17; free where the file holds 255), "mask_lidar" or "mask_camera" (0 or 1).
        shape: the expected (X, Y, Z).

    Returns:
        (X, Y, Z) uint8.

    Raises:
        DataError: the file is missing, truncated, or holds another shape, type or range; names file, key, what was
            found and expected.
    """
    return _filled(_read(path, key, shape, FREE if key == "semantics" else 1), FREE)


MASKS = ("none", "camera", "lidar")
"""What part of a frame is scored: all of it, or what its cameras or its LiDAR have seen (Occ3D's masks)."""


def read_mask(path: str | Path, mask: str, shape: tuple[int, ...] = OCC3D.shape) -> NDArray[Any]:
    """Read a visibility mask of a label file in Occ3D's layout.

    Args:
        path: the npz file.
        mask: "camera" or "lidar".
        shape: the expected (X, Y, Z).

    Returns:
        (X, Y, Z) bool, True where the sensors have seen.

    Raises:
        DataError: the file is missing or damaged, or holds no such mask.
    """
    remedy = "score without --mask, or prepare labels that hold masks (Occ3D-nuScenes does)"
    return _read(path, f"mask_{mask}", shape, 1, remedy).astype(bool)


def _read(path: str | Path, key: str, shape: tuple[int, ...], highest: int, absent: str = "") -> NDArray[Any]:
    remedy = "fetch or write this file again (for synthetic data: delete it and rerun make_synthetic)"
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if key not in archive.files:
                raise DataError(f"{path} has the keys {archive.files}", f"the key {key!r}", absent or remedy)
            # What a file claims to hold is bounded before it is unpacked: a small file may claim terabytes.
            claimed = archive.zip.getinfo(f"{key}.npy").file_size
            if claimed > 8 * math.prod(shape) + 4096:
                raise DataError(f"{path}: {key} takes {claimed} bytes", f"integers of shape {tuple(shape)}", remedy)
            # Unpacked outside the lock of `read_npy`, so that threads gain.
            unpacked = io.BytesIO(archive.zip.read(f"{key}.npy"))
        labels = read_npy(unpacked)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", "a label file (npz)", remedy) from error
    except DataError:
        raise
    except DAMAGED_NPZ as error:
        found = f"{path} cannot be read ({cause_of(path, error)})"
        raise DataError(found, "an intact npz file", remedy_for(error, remedy)) from error
    if labels.shape != tuple(shape) or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: {key} is {labels.dtype} {labels.shape}", f"integers of shape {tuple(shape)}", remedy)
    if labels.size and (labels.min() < 0 or labels.max() > highest):
        known = labels[labels != IGNORE] if highest >= FREE else labels
        if not known.size:
            raise DataError(f"{path}: all of {key} is {IGNORE} (unknown)", "some class ids", "leave the frame out")
        if known.min() < 0 or known.max() > highest:
            raise DataError(f"{path}: {key} ranges over {known.min()}..{known.max()}", f"0..{highest}", remedy)
    small: NDArray[Any] = labels.astype(np.uint8, copy=False)
    return small
