"""States as frozen dataclasses of tensors: copy, pick and repeat whole states at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from torch import Tensor

S = TypeVar("S", bound="TensorState")


class TensorState:
    """Base of frozen dataclasses whose fields are tensors with a leading batch axis B, or states themselves.

    Nothing is ever changed in place, so a kept state can be stepped again at any time with the same result.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__repr__ = TensorState.__repr__  # type: ignore[method-assign]  # else dataclass would print every number

    def __repr__(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        parts = (f"{k}={_shown(v) if isinstance(v, Tensor) else v}" for k, v in values.items())
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

    def map(self: S, change: Callable[[Any], Any]) -> S:
        """A state with every field changed (tensors, and states inside it)."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return replace(self, **{k: v if v is None else change(v) for k, v in values.items()})  # type: ignore[type-var]


def _shown(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')}{tuple(value.shape)}"
