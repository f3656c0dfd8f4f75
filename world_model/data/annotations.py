"""nuScenes annotations as index columns: boxes of every keyframe, in its ego frame, with velocities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from world_model.data.categories import class_of_category
from world_model.data.tables import Row, lookup, read_by_token
from world_model.errors import DataError

MAX_VELOCITY_GAP_S = 1.5
"""Longest time between two annotations of an object that still gives a velocity (twice that for a central one)."""


def read_boxes(
    folder: Path, frames: Sequence[str], ego_to_global: np.ndarray, sample_time_us: dict[str, int]
) -> dict[str, np.ndarray]:
    """The box columns of a `SceneIndex`.

    Args:
        folder: the folder of the nuScenes version.
        frames: (F) sample tokens of the index's frames.
        ego_to_global: (F, 4, 4) their ego poses.
        sample_time_us: timestamps of all samples of the tables.

    Returns:
        ``box_start`` (F + 1,) and, over N boxes sorted by frame, ``box_center_m`` (N, 3), ``box_size_m`` (N, 3: length,
        width, height), ``box_yaw_rad`` (N,), ``box_velocity_mps`` (N, 2), ``box_class`` (N,), ``box_instance`` (N,).

    Raises:
        DataError: a table is missing or broken, a reference leads nowhere, or a number is not finite.
    """
    instance_class, instance_number = _read_instances(folder)
    table = read_by_token(folder, "sample_annotation")
    position = {token: i for i, token in enumerate(frames)}
    chosen = (row for row in table.values() if row["sample_token"] in position)
    rows = sorted(chosen, key=lambda row: position[row["sample_token"]])
    frame = np.array([position[row["sample_token"]] for row in rows], np.int64)
    where = f"{folder / 'instance.json'}, named by sample_annotation.json"
    owners = [lookup(instance_number, row["instance_token"], where) for row in rows]

    center = _numbers(folder, rows, "translation", 3)
    width_length_height = _numbers(folder, rows, "size", 3)
    rotation = ego_to_global[frame, :3, :3]
    # Column vectors are rotated into the ego frame by the transposed rotation: sum over the first matrix index.
    heading = np.einsum("nji,nj->ni", rotation, _heading(_numbers(folder, rows, "rotation", 4)))
    velocity = np.einsum("nji,nj->ni", rotation, _velocities(folder, rows, table, sample_time_us))
    return {
        "box_start": np.searchsorted(frame, np.arange(len(frames) + 1)).astype(np.int64),
        "box_center_m": np.einsum("nji,nj->ni", rotation, center - ego_to_global[frame, :3, 3]).astype(np.float32),
        "box_size_m": width_length_height[:, [1, 0, 2]].astype(np.float32),
        "box_yaw_rad": np.arctan2(heading[:, 1], heading[:, 0]).astype(np.float32),
        "box_velocity_mps": velocity[:, :2].astype(np.float32),
        "box_class": np.array([instance_class[number] for number in owners], np.uint8),
        "box_instance": np.array(owners, np.int64),
    }


def _read_instances(folder: Path) -> tuple[list[int], dict[str, int]]:
    """Class id of every instance number, and the instance number of every token."""
    category = read_by_token(folder, "category")
    instance = read_by_token(folder, "instance")
    where = f"{folder / 'category.json'}, named by instance.json"
    names = [lookup(category, row["category_token"], where)["name"] for row in instance.values()]
    return [class_of_category(name) for name in names], {token: i for i, token in enumerate(instance)}


def _velocities(folder: Path, rows: list[Row], table: dict[str, Row], sample_time_us: dict[str, int]) -> np.ndarray:
    """(N, 3) global velocities in m/s: central differences, one-sided at the ends of a track, NaN where unknown."""
    where = f"{folder / 'sample_annotation.json'}, named by prev or next of another annotation"
    first = [lookup(table, row["prev"], where) if row["prev"] else row for row in rows]
    last = [lookup(table, row["next"], where) if row["next"] else row for row in rows]
    samples = f"{folder / 'sample.json'}, named by sample_annotation.json"
    times = [[lookup(sample_time_us, r["sample_token"], samples) for r in ends] for ends in (first, last)]
    dt_s = np.diff(np.array(times, np.float64).reshape(2, -1), axis=0)[0] * 1e-6
    limit = np.array([MAX_VELOCITY_GAP_S * (bool(row["prev"]) + bool(row["next"])) for row in rows])
    known = (dt_s > 0) & (dt_s <= limit)
    moved = _numbers(folder, last, "translation", 3) - _numbers(folder, first, "translation", 3)
    return np.where(known[:, None], moved / np.where(known, dt_s, 1.0)[:, None], np.nan)


def _heading(quaternion: np.ndarray) -> np.ndarray:
    """(N, 3) direction of the rotated x axis of (N, 4) quaternions (w, x, y, z)."""
    w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).T
    return np.stack((1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)), -1)


def _numbers(folder: Path, rows: list[Row], column: str, width: int) -> np.ndarray:
    """(N, width) float64 of a column of lists."""
    for row in rows:
        value = row[column]
        if not isinstance(value, list) or len(value) != width or not np.isfinite(np.asarray(value, np.float64)).all():
            raise DataError(
                f"{folder / 'sample_annotation.json'}: annotation {row['token']} has {column} = {value}",
                f"a list of {width} finite numbers",
                "fetch sample_annotation.json again, or remove the annotation",
            )
    return np.array([row[column] for row in rows], np.float64).reshape(-1, width)
