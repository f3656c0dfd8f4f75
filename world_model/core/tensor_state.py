"""States as frozen dataclasses of tensors: copy, pick, repeat, join and replace rows of whole states at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from world_model.core.errors import ConfigError

S = TypeVar("S", bound="TensorState")
T = TypeVar("T")


class TensorState:
    """Base of frozen dataclasses whose fields are tensors with a leading batch axis B, states themselves, or None.

    Nothing is ever changed in place, so a kept state can be stepped again at any time with the same result.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__repr__ = TensorState.__repr__  # type: ignore[method-assign]  # else dataclass would print every number

    def __repr__(self) -> str:
        parts = (f"{k}={_described(v) if isinstance(v, Tensor) else v}" for k, v in self._values().items())
        return f"{type(self).__name__}({', '.join(parts)})"

    def clone(self: S) -> S:
        """A copy that shares no memory."""
        return self.map(lambda value: value.clone())

    def index(self: S, i: int | slice | Sequence[int] | Tensor) -> S:
        """The states of some environments; an integer keeps the batch axis, of length 1."""
        rows: Any = slice(i, i + 1 or None) if isinstance(i, int) else list(i) if isinstance(i, Sequence) else i
        return self.map(lambda value: value[rows] if isinstance(value, Tensor) else value.index(rows))

    def expand(self: S, n: int) -> S:
        """Each state n times in a row, (B * n): branches of a search."""
        return self.map(lambda value: value.repeat_interleave(n, 0) if isinstance(value, Tensor) else value.expand(n))

    def put(self: S, rows: Sequence[int], new: S) -> S:
        """The state with rows (N) replaced by those of ``new``, N states of the same kind."""
        return self._with({k: put(v, rows, getattr(new, k)) for k, v in self._values().items()})

    @classmethod
    def cat(cls: type[S], states: Sequence[S]) -> S:
        """States joined along the batch axis."""
        if len(states) == 1:
            return states[0]
        columns = {k: [getattr(state, k) for state in states] for k in states[0]._values()}
        return states[0]._with({k: _cat(values) for k, values in columns.items()})

    def chunks(self: S, size: int) -> list[S]:
        """The state in parts of at most ``size`` rows, the counterpart of `cat`."""
        count = next(len(value) for value in self._values().values() if isinstance(value, Tensor))
        return [self.index(slice(begin, begin + size)) for begin in range(0, count, size)]

    def map(self: S, change: Callable[[Any], Any]) -> S:
        """A state with every field changed (tensors, and states inside it)."""
        return self._with({k: v if v is None else change(v) for k, v in self._values().items()})

    def _values(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]  # subclasses are dataclasses

    def _with(self: S, values: dict[str, Any]) -> S:
        return replace(self, **values)  # type: ignore[type-var]  # subclasses are dataclasses


def _cat(values: list[Any]) -> Any:
    first = values[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.cat(values)
    if isinstance(first, np.ndarray):
        return np.concatenate(values)
    if isinstance(first, (list, tuple)):
        return type(first)(item for value in values for item in value)
    if hasattr(first, "cat"):
        return type(first).cat(values)
    if is_dataclass(first) and not isinstance(first, type):
        columns = {f.name: [getattr(value, f.name) for value in values] for f in fields(first)}
        return replace(first, **{name: _cat(column) for name, column in columns.items()})
    raise ConfigError(
        f"a world state that holds a {type(first).__name__}",
        "tensors, arrays, sequences with one item per environment, or dataclasses of these",
        "give the state a class method cat(states), or keep no start states (kept_mib=0)",
    )


def _described(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')}{tuple(value.shape)}"


def difference(old: Any, new: Any, name: str = "state") -> str:
    """Where two batched states are made of different things, in words; "" if `put` can lay one into the other.

    Batch sizes may differ, and whatever is None in one of them may be there in the other.
    """
    if old is None or new is None:
        return ""
    if type(old) is not type(new):
        return f"{name} is a {type(new).__name__}, not a {type(old).__name__}"
    if is_dataclass(old):
        found = (difference(getattr(old, f.name), getattr(new, f.name), f"{name}.{f.name}") for f in fields(old))
        return next(filter(None, found), "")
    if isinstance(old, (Tensor, np.ndarray)) and (old.dtype, old.shape[1:]) != (new.dtype, new.shape[1:]):
        return f"{name} is {new.dtype} of shape {tuple(new.shape)}, not {old.dtype} of {tuple(old.shape)}"
    return ""


def put(old: T, rows: Sequence[int], new: T) -> T:
    """A batched state with some rows replaced, whatever it is made of; nothing is changed in place.

    Args:
        old: tensors or arrays with a leading batch axis, sequences with one item per environment, or dataclasses of
            these.
        rows: (N) which rows.
        new: the same with N rows.

    Raises:
        ConfigError: a world keeps something else.
    """
    if old is None or new is None:
        return old if new is None else new
    if isinstance(old, Tensor):
        at = torch.as_tensor(list(rows), device=old.device)
        # index_copy makes one new tensor; the old one may still be part of a kept state.
        return old.index_copy(0, at, new.to(old.dtype))  # type: ignore[attr-defined, return-value]
    if isinstance(old, np.ndarray):
        changed = old.copy()
        changed[list(rows)] = new
        return changed
    if hasattr(old, "put"):
        return old.put(rows, new)  # type: ignore[no-any-return]  # a state's own
    if is_dataclass(old) and not isinstance(old, type):
        return replace(old, **{f.name: put(getattr(old, f.name), rows, getattr(new, f.name)) for f in fields(old)})
    if isinstance(old, (list, tuple)):
        by_row = dict(zip(rows, new, strict=True))  # type: ignore[call-overload]
        return type(old)(by_row.get(i, item) for i, item in enumerate(old))
    raise ConfigError(
        f"a world state that holds a {type(old).__name__}",
        "tensors, arrays, sequences with one item per environment, or dataclasses of these",
        "give the state a method put(rows, new), or run the environments one by one",
    )
