"""Infos of many environments as columns, and back.

A column is an array (N, ...) of numbers, a list of N other values, or a dict of columns: what N single environments
would each put into their info. `merge` lays columns out as Gymnasium's vector environments do, every key with a mask
``_key``; `unbatch` is the way back to one environment's info.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any] | list[Any] | dict[str, Any]
Columns = dict[str, Column]


def pick(columns: Columns, i: int) -> dict[str, Any]:
    """The info of one environment: plain Python values and arrays that share nothing with the columns."""
    return {key: _item(column, i) for key, column in columns.items()}


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
        found[key] = unbatch(value, i) if isinstance(value, dict) else _item(value, i)
    return found


def _empty(column: NDArray[Any] | list[Any], count: int) -> NDArray[Any]:
    if isinstance(column, np.ndarray):
        return np.zeros((count, *column.shape[1:]), column.dtype)
    return np.full(count, None, dtype=object)


def _item(column: Column, i: int) -> Any:
    if isinstance(column, dict):
        return pick(column, i)
    value = column[i]
    if isinstance(value, np.generic):
        return value.item()
    return value.copy() if isinstance(value, np.ndarray) else value
