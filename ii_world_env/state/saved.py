"""Nested states on disk: one safetensors file, read back into the shape of a given example, so that nothing executes.

The leaves are named by their place, ``world.forecast.tokens``; plain numbers and lengths stand in the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import Field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from world_model.core.errors import ConfigError, DataError
from world_model.core.files import atomic_write

FORMAT = "ii_world_env.State/2"
T = TypeVar("T")


def save_tree(path: str | Path, tree: Any) -> None:
    """Write dataclasses, lists and tuples of tensors, arrays and plain numbers, atomically."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    _flatten(tree, "", tensors, plain)
    data = serialize(tensors, {"format": FORMAT, "plain": json.dumps(plain)})
    with atomic_write(path) as stream:
        stream.write(data)


def load_tree(path: str | Path, like: T, optional: Collection[str] = ()) -> T:
    """Read a file of `save_tree` into the structure of ``like``, on its device.

    Args:
        path: the file.
        like: the structure.
        optional: fields of ``like`` that may be a tensor in one of the two and None in the other; they are not checked.

    Raises:
        DataError: missing, damaged, or of another structure.
    """
    try:
        with safe_open(str(path), "pt") as file:
            meta = file.metadata() or {}
            if meta.get("format") != FORMAT:
                raise _bad(path, f"format {meta.get('format')!r}, not {FORMAT!r}")
            leaves: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            leaves.update(json.loads(meta["plain"]))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise _bad(path, f"it cannot be read ({error})") from error
    _fill_absent(like, "", leaves, next((len(value) for value in leaves.values() if isinstance(value, Tensor)), 0))
    apart = {name: leaves[name] for name in optional if name in leaves}
    leaves.update(dict.fromkeys(apart))
    example: Any = like
    tree: T = _build(replace(example, **dict.fromkeys(apart)), "", leaves, path)
    if leaves:
        raise _bad(path, f"unknown entries {sorted(leaves)[:4]}")
    tree = replace(tree, **apart)  # type: ignore[type-var]  # a dataclass, as ``like`` is
    rows = {len(value) for value in _batched(tree)}
    if len(rows) != 1:
        raise _bad(path, f"batches of different sizes {sorted(rows)}")
    return tree


def to_leaves(tree: Any) -> dict[str, Any]:
    """The tensors and plain numbers of a tree by their place, on the CPU; `from_leaves` is the counterpart."""
    leaves: dict[str, Any] = {}
    _flatten(tree, "", leaves, leaves)
    return leaves


def from_leaves(like: T, leaves: dict[str, Any]) -> T:
    """A tree of the structure of ``like`` and on its device, out of `to_leaves`."""
    tree: T = _build(like, "", dict(leaves), "leaves")
    return tree


def _flatten(value: Any, name: str, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
    elif isinstance(value, np.ndarray):
        tensors[name] = torch.from_numpy(np.ascontiguousarray(value).copy())
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            _flatten(getattr(value, field.name), _join(name, _key(field)), tensors, plain)
    elif isinstance(value, (list, tuple)):
        plain[name] = len(value)
        for i, item in enumerate(value):
            _flatten(item, _join(name, str(i)), tensors, plain)
    elif value is None or type(value) in (bool, int, float, str):
        plain[name] = value
    elif isinstance(value, np.generic):
        plain[name] = value.item()
    else:
        raise ConfigError(
            f"{name} is a {type(value).__name__}",
            "tensors, arrays, numbers, and lists or dataclasses of these",
            "keep something else in the state of your world, or pickle it yourself",
        )


def _build(like: Any, name: str, leaves: dict[str, Any], path: str | Path) -> Any:
    if is_dataclass(like) and not isinstance(like, type):
        return replace(
            like, **{f.name: _build(getattr(like, f.name), _join(name, _key(f)), leaves, path) for f in fields(like)}
        )
    if name not in leaves:
        raise _bad(path, f"{name} is missing")
    value = leaves.pop(name)
    if isinstance(like, (list, tuple)):
        if type(value) is not int or value < 0 or not like:
            raise _bad(path, f"{name} has length {value!r}")
        return type(like)(_build(like[min(i, len(like) - 1)], _join(name, str(i)), leaves, path) for i in range(value))
    if isinstance(like, (Tensor, np.ndarray)):
        return _array(like, value, name, path)
    if like is not None and isinstance(like, np.generic):
        return type(like)(value)
    if type(value) is not type(like):
        raise _bad(path, f"{name} is {type(value).__name__}, not {type(like).__name__}")
    return value


def _fill_absent(like: Any, name: str, leaves: dict[str, Any], rows: int) -> None:
    """Add the leaves of fields that files of earlier versions do not have yet, each by the rule of its field."""
    if isinstance(like, (list, tuple)):
        count = leaves.get(name)
        # Where a length is wrong, the leaves that it asks for are missed later.
        for i in range(min(count, len(leaves)) if type(count) is int and like else 0):
            _fill_absent(like[min(i, len(like) - 1)], _join(name, str(i)), leaves, rows)
    if not is_dataclass(like) or isinstance(like, type):
        return
    for field in fields(like):
        value, place = getattr(like, field.name), _join(name, _key(field))
        blank = field.metadata.get("absent")
        if blank is None or any(leaf == place or leaf.startswith(f"{place}.") for leaf in leaves):
            _fill_absent(value, place, leaves, rows)
        else:
            _flatten(blank(value, rows), place, leaves, leaves)


def _array(like: Any, value: Any, name: str, path: str | Path) -> Any:
    found = value if isinstance(like, Tensor) or not isinstance(value, Tensor) else value.numpy()
    expected = f"{like.dtype} of shape {tuple(like.shape)}"
    if not hasattr(found, "dtype") or found.dtype != like.dtype or found.ndim != like.ndim:
        shape = f"{found.dtype} of shape {tuple(found.shape)}" if hasattr(found, "dtype") else repr(found)
        raise _bad(path, f"{name} is {shape}, not {expected} (other sizes would do)")
    # In tensors only the number of environments may differ; arrays hold one environment each, of any size.
    if isinstance(like, Tensor):
        if found.shape[1:] != like.shape[1:]:
            raise _bad(path, f"{name} is of shape {tuple(found.shape)}, not (B, {str(tuple(like.shape[1:]))[1:]}")
        return torch.as_tensor(found).to(like.device)
    return found


def _batched(value: Any) -> list[Any]:
    """Everything that has one item per environment."""
    if isinstance(value, Tensor):
        return [value] if value.ndim else []
    if is_dataclass(value) and not isinstance(value, type):
        return [found for field in fields(value) for found in _batched(getattr(value, field.name))]
    return [value] if isinstance(value, (list, tuple)) else []


def _key(field: Field[Any]) -> str:
    """The name of a field in files: its own, or the older one that its metadata keeps."""
    return str(field.metadata.get("stored", field.name))


def _join(name: str, field: str) -> str:
    return f"{name}.{field}" if name else field


def _bad(path: str | Path, what: str) -> DataError:
    return DataError(
        f"{path}: {what}",
        "a file of State.save() from an engine with the same world, grid and action mode",
        "make the engine as it was when the file was written",
    )
