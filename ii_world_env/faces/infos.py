"""Infos of many environments as Gymnasium's vector environments lay them out, and back.

Every key of a batch's infos is an array (N, ...) with a mask ``_key`` of the environments that have it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NOTHING_NEAR_S = 10.0
"""``info["time_to_collision_s"]`` where nothing would be touched soon: a finite number, as JSON and tables need it."""

Column = NDArray[Any] | list[Any] | dict[str, Any]
Columns = dict[str, Column]
"""Infos of N environments by key: an array (N, ...) of numbers, a list of N other values, or a dict of columns."""


def info_of(columns: Columns, i: int) -> dict[str, Any]:
    """The info of one environment: plain Python values and arrays that share nothing with the columns."""
    return {key: value_at(column, i) for key, column in columns.items()}


def value_at(column: Column, i: int) -> Any:
    """The value of one environment in a column."""
    if isinstance(column, dict):
        return info_of(column, i)
    value = column[i]
    if isinstance(value, np.generic):
        return value.item()
    return value.copy() if isinstance(value, np.ndarray) else value


def take(columns: Columns, rows: Sequence[int]) -> Columns:
    """The columns of some environments."""

    def some(column: Column) -> Column:
        if isinstance(column, dict):
            return {key: some(inner) for key, inner in column.items()}
        return column[list(rows)] if isinstance(column, np.ndarray) else [column[i] for i in rows]

    return {key: some(column) for key, column in columns.items()}


def merge(infos: dict[str, Any], columns: Mapping[str, Any], rows: Sequence[int], count: int) -> dict[str, Any]:
    """Write columns of some environments into the infos of ``count``, as `VectorEnv._add_info` does one by one.

    Args:
        infos: so far; changed and returned.
        columns: of the environments ``rows``.
    """
    at = list(rows)
    for key, column in columns.items():
        if not at:
            continue
        if isinstance(column, dict):
            infos[key] = merge(infos.get(key, {}), column, at, count)
        else:
            if key not in infos:
                infos[key] = _empty(column, count)
            if isinstance(column, np.ndarray):
                infos[key][at] = column
            else:
                for i, value in zip(at, column, strict=True):
                    infos[key][i] = value
        infos.setdefault(f"_{key}", np.zeros(count, np.bool_))[at] = True
    return infos


def unbatch(infos: Mapping[str, Any], i: int) -> dict[str, Any]:
    """The info of environment ``i`` out of a vector environment's infos, with plain Python numbers."""
    found = {}
    for key, value in infos.items():
        mask = infos.get(f"_{key}")
        if mask is None or not mask[i]:
            continue
        found[key] = unbatch(value, i) if isinstance(value, dict) else value_at(value, i)
    return found


def to_json(info: Mapping[str, Any]) -> str:
    """An info as JSON, of a single environment, of a batch or of SB3: arrays become lists. All numbers are finite."""
    return json.dumps(info, default=_plain, allow_nan=False)


def _plain(value: object) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"an info holds a {type(value).__name__}, which JSON has not")


def _empty(column: NDArray[Any] | list[Any], count: int) -> NDArray[Any]:
    if isinstance(column, np.ndarray):
        return np.zeros((count, *column.shape[1:]), column.dtype)
    return np.full(count, None, dtype=object)


def split_rows(batch: Any, count: int) -> list[Any]:
    """Observations one by one, each with memory of its own."""
    if isinstance(batch, dict):
        return [{name: value[i].copy() for name, value in batch.items()} for i in range(count)]
    return [batch[i].copy() for i in range(count)]
