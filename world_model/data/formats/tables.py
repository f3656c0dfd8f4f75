"""Read nuScenes tables (plain JSON) without the devkit, which needs numpy < 2 and loads everything.

Tables are parsed row by row while they are read, because the largest of v1.0-trainval (sample_data) has more than 1 GB
of text. A row keeps only the columns that are asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from world_model.core.errors import DataError

Row = dict[str, Any]
Value = TypeVar("Value")

CHUNK = 1 << 22
"""Characters that are read at a time."""
LARGE = 200_000_000
"""Bytes from which the reading of a table shows progress."""
LONGEST_ROW = 1 << 26
"""A row that has not ended after so many characters is broken."""
_BETWEEN = re.compile(r"[\s,]*")

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


def iterate_table(folder: Path, name: str) -> Iterator[Row]:
    """Rows of one table with the columns of `COLUMNS`, one after the other.

    Args:
        folder: the folder of the version, e.g. ``.../v1.0-mini``.
        name: the table, without ``.json``.

    Raises:
        DataError: the table is missing, broken, not a list of rows, or lacks a column.
    """
    path, columns = folder / f"{name}.json", COLUMNS[name]
    for number, row in enumerate(_elements(path)):
        try:
            yield {column: row[column] for column in columns}
        except (KeyError, TypeError):
            found = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise DataError(
                f"{path}: row {number} has {found}", f"the columns {sorted(columns)}", f"fetch {path.name} again"
            ) from None


def read_table(folder: Path, name: str) -> list[Row]:
    """The rows of `iterate_table` as a list."""
    return list(iterate_table(folder, name))


def read_by_token(folder: Path, name: str, keep: Callable[[Row], bool] = lambda row: True) -> dict[str, Row]:
    """The rows of `iterate_table` by their token; rows for which ``keep`` is False are dropped at once.

    Raises:
        DataError: as `iterate_table`, or two rows have the same token.
    """
    table: dict[str, Row] = {}
    for row in filter(keep, iterate_table(folder, name)):
        if table.setdefault(row["token"], row) is not row:
            found = f"{folder / name}.json has several rows with the token {row['token']}"
            raise DataError(found, "every token once", f"fetch {name}.json again")
    return table


def read_json(path: Path, kind: type) -> Any:
    """Parse a JSON file whose top level is a ``kind`` (list or dict).

    Raises:
        DataError: the file is missing, broken, or of another kind.
    """
    try:
        with open(path, encoding="utf-8-sig") as stream:
            value = json.load(stream)
    except FileNotFoundError as error:
        raise _absent(path) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(path, error) from error
    if not isinstance(value, kind):
        raise DataError(f"{path} holds a {type(value).__name__}", f"a {kind.__name__}", f"fetch {path.name} again")
    return value


def _elements(path: Path) -> Iterator[Any]:
    """The elements of a JSON file that is one list, each parsed when it is asked for."""
    decoder = json.JSONDecoder()
    try:
        with open(path, encoding="utf-8-sig") as stream:
            text = stream.read(CHUNK)
            at, read = _skip(text, 0), len(text)
            if text[at : at + 1] != "[":
                raise DataError(f"{path} holds no list", "a list of rows", f"fetch {path.name} again")
            at += 1
            while True:
                at = _skip(text, at)
                if text[at : at + 1] == "]":
                    return
                try:
                    row, at = decoder.raw_decode(text, at)
                except ValueError as error:
                    # Either the row continues in the next chunk of the file, or it is broken.
                    more = stream.read(CHUNK)
                    if not more or len(text) - at > LONGEST_ROW:
                        raise _broken(path, error) from error
                    _progress(path, read, read + len(more))
                    text, at, read = text[at:] + more, 0, read + len(more)
                    continue
                yield row
    except FileNotFoundError as error:
        raise _absent(path) from error
    except (OSError, UnicodeError, RecursionError) as error:
        raise _broken(path, error) from error


def _skip(text: str, at: int) -> int:
    """The next position that is neither white space nor a comma."""
    found = _BETWEEN.match(text, at)
    return found.end() if found else at


def _progress(path: Path, before: int, now: int) -> None:
    """Print how far a large table has been read, at every quarter of it."""
    size = path.stat().st_size
    quarter = now * 4 // size
    if size > LARGE and quarter > before * 4 // size:
        print(f"  {path.name}: {min(25 * quarter, 100)} % of {size / 1e9:.2f} GB", flush=True)


def _absent(path: Path) -> DataError:
    beside = sorted(p.name for p in path.parent.glob("*.json")) if path.parent.is_dir() else []
    return DataError(
        f"{path} does not exist (the folder has: {', '.join(beside) or 'no tables'})",
        "the complete nuScenes metadata",
        "unpack the metadata archive again (for synthetic data: run make_synthetic again)",
    )


def _broken(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read ({error})", "an intact JSON file", f"fetch or write {path.name} again")


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
