"""Labels that read without an error and are not what they should be: other conventions, other axes, another release."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import DataError
from world_model.core.grid import CLASS_ID, FREE, IGNORE, OCC3D
from world_model.data.boxes import voxels_inside
from world_model.data.index import SceneIndex

GROUND = [CLASS_ID[name] for name in ("driveable_surface", "other_flat", "sidewalk", "terrain")]
UNDER_CELLS = 2
"""Columns on each side of the ego's origin that count as under it."""
LOOKED_AT = 16
"""Frames, spread over a data set, that show which convention its labels have."""
LEAST_GROUND = 200
"""Driveable voxels of a frame that tells where the ground is."""
NEAR_M = 30.0
"""Boxes whose centres are within this distance along x and y: nearly all of them hold voxels."""
LEAST_BOXES = 20
"""Cars from which on the axes are known."""
LEAST_AGREEMENT = 0.5
"""Share of cars that hold a car voxel; real labels reach 0.9, turned or mirrored ones 0.05."""
AXES: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "left and right swapped": lambda labels: labels[:, ::-1],
    "front and back swapped": lambda labels: labels[::-1],
    "turned by half a turn": lambda labels: labels[::-1, ::-1],
    "along the LiDAR's axes (x right, y forward)": lambda labels: np.rot90(labels, -1),
    "turned by a quarter to the left": lambda labels: np.rot90(labels, 1),
    "x and y exchanged": lambda labels: np.swapaxes(labels, 0, 1),
}
"""How labels may lie, and what brings them into the ego frame."""


def check_convention(index: SceneIndex) -> None:
    """Look at some frames; files that are damaged are not this check's subject.

    Raises:
        DataError: the labels have another convention than the index says, or their ground lies at the lowest level.
    """
    if index.label_format != "occ3d":
        return
    lowest = []
    for frame in spread_frames(index, LOOKED_AT):
        try:
            labels = index.read_labels(frame)
        except DataError as error:
            if "--labels" in error.remedy:
                raise
            continue
        road = labels == CLASS_ID["driveable_surface"]
        if road.sum() >= LEAST_GROUND:
            lowest.append(road[:, :, 0].sum() / road.sum() > 0.8)
    if lowest and all(lowest):
        raise DataError(
            f"the road of all {len(lowest)} frames looked at lies at z index 0, as in an early release of Occ3D",
            "Occ3D's current release: a flat road at z index 2 (-0.2..+0.2 m)",
            "fetch the current release; --labels occ3d takes these labels as they are",
        )


def unknown_share(index: SceneIndex) -> float:
    """Share of unknown voxels (255) in the observed labels of some frames; damaged ones are skipped."""
    shares = []
    for frame in spread_frames(index, LOOKED_AT):
        try:
            shares.append(float((index.read_labels(frame, unknown=IGNORE) == IGNORE).mean()))
        except DataError:
            continue
    return float(np.mean(shares)) if shares else 0.0


def spread_frames(index: SceneIndex, count: int) -> list[int]:
    """Up to ``count`` frame numbers, evenly spread over the data set."""
    total = len(index.token)
    return sorted({n * (total - 1) // max(count - 1, 1) for n in range(count)})


def agreement(index: SceneIndex, frames: Sequence[int]) -> tuple[float | None, float | None]:
    """How well poses, boxes and labels fit together.

    Returns:
        The share of frames with driveable ground under the ego, of those with any ground there; and of the labelled
        voxels inside near boxes the share that has the class of its box. None where there is nothing to compare.
    """
    ground, road, inside, right = 0, 0, 0, 0
    middle = tuple(slice(n // 2 - UNDER_CELLS, n // 2 + UNDER_CELLS) for n in OCC3D.shape[:2])
    for frame in frames:
        labels = index.read_truth(frame)
        under = labels[middle]
        ground += bool(np.isin(under, GROUND).any())
        road += bool((under == CLASS_ID["driveable_surface"]).any())
        boxes = index.boxes(frame)
        for n in np.flatnonzero((np.abs(boxes.center_m[:, :2]) < NEAR_M).all(1)):
            found = labels[tuple(voxels_inside(boxes, n, OCC3D).T)]
            found = found[(found != FREE) & (found != IGNORE) & ~np.isin(found, GROUND)]
            inside += len(found)
            right += int((found == boxes.class_id[n]).sum())
    return road / ground if ground else None, right / inside if inside else None


def check_axes(index: SceneIndex, frames: Sequence[int]) -> float | None:
    """Compare annotated cars with the voxels in them.

    Returns:
        The share of near cars that hold a car voxel; None where there are fewer than `LEAST_BOXES`.

    Raises:
        DataError: most cars hold none, and would hold some in labels that are mirrored or turned.
    """
    hits, total = dict.fromkeys(("", *AXES), 0), 0
    for frame in frames:
        boxes = index.boxes(frame)
        near = (np.abs(boxes.center_m[:, :2]) < NEAR_M).all(1) & (boxes.class_id == CLASS_ID["car"])
        boxes = boxes.select(near)
        if not len(boxes.class_id):
            continue
        cars = index.read_truth(frame) == CLASS_ID["car"]
        inside = [tuple(voxels_inside(boxes, n, OCC3D).T) for n in range(len(boxes.class_id))]
        total += len(inside)
        for name in hits:
            lying = AXES[name](cars) if name else cars
            hits[name] += sum(bool(lying[voxels].any()) for voxels in inside)
    if total < LEAST_BOXES:
        return None
    share = hits[""] / total
    best = max(AXES, key=lambda name: hits[name])
    if share < LEAST_AGREEMENT <= hits[best] / total:
        raise DataError(
            f"{share:.0%} of {total} annotated cars within {NEAR_M:g} m hold a voxel of a car, and "
            f"{hits[best] / total:.0%} do when the labels are taken as {best}",
            "about 90 %: array axis 0 along ego x (forward), axis 1 along ego y (left)",
            "bring the labels into the ego frame",
        )
    return share
