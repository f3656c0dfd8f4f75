"""Read the occupancy labels of one keyframe, and trust nothing about the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from world_model.errors import DataError
from world_model.files import DAMAGED_NPZ
from world_model.grid import FREE, OCC3D


def read_labels(path: str | Path, key: str = "semantics", shape: tuple[int, ...] = OCC3D.shape) -> np.ndarray:
    """Read one array of an Occ3D ``labels.npz``.

    Args:
        path: the npz file.
        key: "semantics" (class ids 0..17), "mask_lidar" or "mask_camera" (0 or 1).
        shape: the expected (X, Y, Z).

    Returns:
        (X, Y, Z) uint8.

    Raises:
        DataError: the file is missing, truncated, or holds another shape, type or range; names file, key, what was
            found and expected.
    """
    remedy = "fetch or write this file again (for synthetic data: delete it and rerun make_synthetic)"
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if key not in archive.files:
                raise DataError(f"{path} has the keys {archive.files}", f"the key {key!r}", remedy)
            labels = archive[key]
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", "an Occ3D labels.npz", remedy) from error
    except DataError:
        raise
    except DAMAGED_NPZ as error:
        raise DataError(f"{path} cannot be read ({error})", "an intact npz file", remedy) from error
    if labels.shape != tuple(shape) or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: {key} is {labels.dtype} {labels.shape}", f"integers of shape {tuple(shape)}", remedy)
    highest = FREE if key == "semantics" else 1
    if labels.size and (labels.min() < 0 or labels.max() > highest):
        raise DataError(f"{path}: {key} ranges over {labels.min()}..{labels.max()}", f"0..{highest}", remedy)
    return labels.astype(np.uint8, copy=False)
