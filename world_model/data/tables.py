"""Read nuScenes tables (plain JSON) without the devkit, which needs numpy < 2 and loads everything.

A row keeps only the columns that are asked for, and rows may be dropped while the file is parsed: the largest table of
v1.0-trainval (sample_data, more than 1 GB of text) shrinks to its LiDAR keyframes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from world_model.errors import DataError

Row = dict[str, Any]
Value = TypeVar("Value")

COLUMNS: dict[str, tuple[str, ...]] = {
    "scene": ("token", "name", "nbr_samples", "first_sample_token"),
    "sample": ("token", "timestamp", "next", "scene_token"),
    "sensor": ("token", "channel"),
    "calibrated_sensor": ("token", "sensor_token"),
    "sample_data": ("sample_token", "ego_pose_token", "calibrated_sensor_token", "is_key_frame"),
    "ego_pose": ("token", "translation", "rotation"),
    "category": ("token", "name"),
    "instance": ("token", "category_token"),
    "sample_annotation": ("token", "sample_token", "instance_token", "translation", "size", "rotation", "prev", "next"),
}
"""The tables and columns that the index is made from."""


def read_table(folder: Path, name: str, keep: Callable[[Row], bool] | None = None) -> list[Row]:
    """Rows of one table, with the columns of `COLUMNS`.

    Args:
        folder: the folder of the version, e.g. ``.../v1.0-mini``.
        name: the table, without ``.json``.
        keep: called with every row; rows for which it is False are dropped at once.

    Raises:
        DataError: the table is missing, broken, not a list of rows, or lacks a column.
    """
    path = folder / f"{name}.json"
    columns = COLUMNS[name]

    def shrink(raw: Row) -> Row | None:
        try:
            row = {column: raw[column] for column in columns}
        except KeyError:
            return raw  # a row without all columns stays as it is, to be reported below
        return row if keep is None or keep(row) else None

    rows = [row for row in read_json(path, list, shrink) if row is not None]
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or len(row) != len(columns) or any(column not in row for column in columns):
            found = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise DataError(
                f"{path}: row {number} has {found}", f"the columns {sorted(columns)}", f"fetch {path.name} again"
            )
    return rows


def read_by_token(folder: Path, name: str, keep: Callable[[Row], bool] | None = None) -> dict[str, Row]:
    """The rows of `read_table` by their token.

    Raises:
        DataError: as `read_table`, or two rows have the same token.
    """
    rows = read_table(folder, name, keep)
    table = {row["token"]: row for row in rows}
    if len(table) != len(rows):
        raise DataError(
            f"{folder / name}.json has {len(rows)} rows but {len(table)} different tokens",
            "every token once",
            f"fetch {name}.json again",
        )
    return table


def read_json(path: Path, kind: type, hook: Callable[[Row], Any] | None = None) -> Any:
    """Parse a JSON file whose top level is a ``kind`` (list or dict).

    Raises:
        DataError: the file is missing, broken, or of another kind.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            value = json.load(stream, object_hook=hook)
    except FileNotFoundError as error:
        beside = sorted(p.name for p in path.parent.glob("*.json")) if path.parent.is_dir() else []
        raise DataError(
            f"{path} does not exist (the folder has: {', '.join(beside) or 'no tables'})",
            "the complete nuScenes metadata",
            "unpack the metadata archive again (for synthetic data: run make_synthetic again)",
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error})", "an intact JSON file", f"fetch or write {path.name} again"
        ) from error
    if not isinstance(value, kind):
        raise DataError(f"{path} holds a {type(value).__name__}", f"a {kind.__name__}", f"fetch {path.name} again")
    return value


def lookup(table: dict[str, Value], token: str, where: str) -> Value:
    """The row (or what else the table maps tokens to) of a token.

    Args:
        table: rows by token.
        token: what to look up.
        where: for the message: "TABLE.json, named by ...".

    Raises:
        DataError: there is no such row.
    """
    try:
        return table[token]
    except KeyError as error:
        raise DataError(
            f"there is no row with token {token!r} in {where}",
            "tables that belong together",
            "take all tables from one release and unpack them again",
        ) from error
