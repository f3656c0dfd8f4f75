"""nuScenes annotations: boxes of every keyframe, in its ego frame, with velocities.

Categories become Occ3D classes as the 16-class nuScenes-lidarseg challenge groups them. Occ3D labels were made with
this grouping, so a box and the voxels inside it agree: among people only those on foot are pedestrians (strollers,
wheelchairs and scooters are ``others``), and emergency vehicles are ``others`` too.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import DataError
from world_model.core.geometry import rotation_matrix
from world_model.core.grid import CLASS_ID
from world_model.data.formats.recording import boxes_of
from world_model.data.formats.tables import Row, iterate_table, lookup, read_by_token
from world_model.data.index import Boxes

MAX_VELOCITY_GAP_S = 1.5
"""Longest time between two annotations that give a velocity (twice that for a central difference)."""
WIDTH = {"translation": 3, "size": 3, "rotation": 4}
"""Numbers in the columns of an annotation."""
_CLASS_OF_CATEGORY: dict[str, str] = {
    "animal": "others",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.personal_mobility": "others",
    "human.pedestrian.police_officer": "pedestrian",
    "human.pedestrian.stroller": "others",
    "human.pedestrian.wheelchair": "others",
    "movable_object.barrier": "barrier",
    "movable_object.debris": "others",
    "movable_object.pushable_pullable": "others",
    "movable_object.trafficcone": "traffic_cone",
    "static_object.bicycle_rack": "others",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.emergency.ambulance": "others",
    "vehicle.emergency.police": "others",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}

DETECTION_CLASSES = frozenset(
    (
        *("barrier", "bicycle", "bus", "car", "construction_vehicle"),
        *("motorcycle", "pedestrian", "traffic_cone", "trailer", "truck"),
    )
)
"""The classes of the nuScenes detection benchmark; they are named as in Occ3D."""


def read_boxes(
    folder: Path, frames: Sequence[str], ego_to_global: NDArray[Any], sample_time_us: dict[str, int]
) -> list[Boxes]:
    """The boxes of every frame.

    Args:
        folder: the folder of the nuScenes version.
        frames: (F) sample tokens of the index's frames.
        ego_to_global: (F, 4, 4) their ego poses.
        sample_time_us: timestamps of all samples of the tables.

    Raises:
        DataError: a table is missing or broken, a reference leads nowhere, or a number is not finite.
    """
    classes, instances = _read_instances(folder)
    table = _read_annotations(folder, instances, {token: i for i, token in enumerate(sample_time_us)})
    time_s = np.array(list(sample_time_us.values()), np.int64) * 1e-6
    position = {token: i for i, token in enumerate(frames)}
    frame = np.array([position.get(token, -1) for token in sample_time_us], np.int64)[table.sample]
    rows = np.flatnonzero(frame >= 0)
    rows = rows[np.argsort(frame[rows], kind="stable")]
    frame = frame[rows]

    rotation = ego_to_global[frame, :3, :3]
    # Column vectors are rotated into the ego frame by the transposed rotation: sum over the first matrix index.
    quaternion = table.rotation[rows]
    quaternion = quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)
    heading = np.einsum("nji,nj->ni", rotation, rotation_matrix(quaternion)[:, :, 0])
    velocity = np.einsum("nji,nj->ni", rotation, _velocities(table, time_s, rows))
    center = np.einsum("nji,nj->ni", rotation, table.translation[rows] - ego_to_global[frame, :3, 3])
    boxes = boxes_of(
        center,
        table.size[rows][:, [1, 0, 2]],
        np.arctan2(heading[:, 1], heading[:, 0]),
        velocity[:, :2],
        np.array(classes, np.uint8)[table.instance[rows]],
        table.instance[rows],
    )
    start = np.searchsorted(frame, np.arange(len(frames) + 1))
    return [boxes.select(slice(a, b)) for a, b in itertools.pairwise(start)]


@dataclass(frozen=True, kw_only=True)
class _Annotations:
    """A million rows in columns: as dictionaries they would take gigabytes. Links are row numbers, -1 for none."""

    sample: NDArray[Any]
    instance: NDArray[Any]
    numbers: NDArray[Any]
    before: NDArray[Any]
    after: NDArray[Any]

    @property
    def translation(self) -> NDArray[Any]:
        return self.numbers[:, :3]

    @property
    def size(self) -> NDArray[Any]:
        return self.numbers[:, 3:6]

    @property
    def rotation(self) -> NDArray[Any]:
        return self.numbers[:, 6:]


def _read_annotations(folder: Path, instances: dict[str, int], samples: dict[str, int]) -> _Annotations:
    by_instance = f"{folder / 'instance.json'}, named by sample_annotation.json"
    by_sample = f"{folder / 'sample.json'}, named by sample_annotation.json"
    # Every token gets a number when it is first seen, as a row or as a neighbour of one, so it is kept only once.
    number_of: dict[str, int] = {}
    own, links, sample, instance, numbers = array("q"), array("q"), array("q"), array("q"), array("d")
    for row in iterate_table(folder, "sample_annotation"):
        own.append(number_of.setdefault(row["token"], len(number_of)))
        for side in ("prev", "next"):
            links.append(number_of.setdefault(row[side], len(number_of)) if row[side] else -1)
        sample.append(lookup(samples, row["sample_token"], by_sample))
        instance.append(lookup(instances, row["instance_token"], by_instance))
        for column, width in WIDTH.items():
            _extend(numbers, folder, row, column, width)
    row_of = np.full(len(number_of) + 1, -1, np.int64)  # the last entry answers for -1
    row_of[np.frombuffer(own, np.int64)] = np.arange(len(own))
    if (row_of[np.frombuffer(own, np.int64)] != np.arange(len(own))).any():
        raise DataError(
            f"{folder / 'sample_annotation.json'} has rows with the same token", "every token once", "fetch it again"
        )
    linked = np.frombuffer(links, np.int64).reshape(-1, 2)
    rows = row_of[linked]
    lost = (rows < 0) & (linked >= 0)
    if lost.any():
        token = list(number_of)[int(linked[lost][0])]
        lookup({}, token, f"{folder / 'sample_annotation.json'}, named by prev or next of another annotation")
    return _Annotations(
        sample=np.frombuffer(sample, np.int64),
        instance=np.frombuffer(instance, np.int64),
        numbers=np.frombuffer(numbers, np.float64).reshape(-1, sum(WIDTH.values())),
        before=rows[:, 0],
        after=rows[:, 1],
    )


def _extend(numbers: array[float], folder: Path, row: Row, column: str, width: int) -> None:
    value = row[column]
    if isinstance(value, list) and len(value) == width:
        try:
            if all(map(math.isfinite, value)):
                numbers.extend(value)
                return
        except TypeError:
            pass
    raise DataError(
        f"{folder / 'sample_annotation.json'}: annotation {row['token']} has {column} = {value}",
        f"a list of {width} finite numbers",
        "fetch sample_annotation.json again, or remove the annotation",
    )


def _read_instances(folder: Path) -> tuple[list[int], dict[str, int]]:
    """Class id of every instance number, and the instance number of every token."""
    category = read_by_token(folder, "category")
    instance = read_by_token(folder, "instance")
    where = f"{folder / 'category.json'}, named by instance.json"
    names = [lookup(category, row["category_token"], where)["name"] for row in instance.values()]
    return [class_of_category(name) for name in names], {token: i for i, token in enumerate(instance)}


def _velocities(table: _Annotations, time_s: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
    """(N, 3) global velocities in m/s: central differences, one-sided at the ends of a track, NaN where unknown."""
    first = np.where(table.before[rows] >= 0, table.before[rows], rows)
    last = np.where(table.after[rows] >= 0, table.after[rows], rows)
    dt_s = time_s[table.sample[last]] - time_s[table.sample[first]]
    limit = MAX_VELOCITY_GAP_S * ((table.before[rows] >= 0).astype(float) + (table.after[rows] >= 0))
    known = (dt_s > 0) & (dt_s <= limit)
    moved = table.translation[last] - table.translation[first]
    return np.where(known[:, None], moved / np.where(known, dt_s, 1.0)[:, None], np.nan)


def class_of_category(category: str) -> int:
    """Occ3D class id of a nuScenes category name.

    Raises:
        DataError: the category is not one of nuScenes' 23 annotation categories.
    """
    if category not in _CLASS_OF_CATEGORY:
        raise DataError(
            f"annotations of the category {category!r}",
            f"one of: {', '.join(sorted(_CLASS_OF_CATEGORY))}",
            "rename the category in category.json to the nearest of these",
        )
    return CLASS_ID[_CLASS_OF_CATEGORY[category]]


def class_of_name(name: str) -> int:
    """Occ3D class id of a name in an info file: one of the ten detection classes, or else a nuScenes category.

    Raises:
        DataError: it is neither.
    """
    return CLASS_ID[name] if name in DETECTION_CLASSES else class_of_category(name)
