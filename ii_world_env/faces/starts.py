"""Start states that stay in memory: a learner begins at the same places again and again.

A label grid shrinks to a fortieth, so that all starts of a data set fit, and it unpacks much faster than a reset takes.
The numbers are those of the reset, to the bit.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ii_world_env.scenes import Start
from ii_world_env.state.saved import from_leaves, to_leaves
from ii_world_env.state.state import State

SMALL_BYTES = 2048
"""Smaller arrays are kept as they are."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """One compressed array: its bytes, type and shape."""

    data: bytes
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class StartStates:
    """The least recently used ones go first. Only starts without variations are kept: the others seldom come again.

    Args:
        limit_mib: memory that the packed states may take; 0 keeps none.
    """

    def __init__(self, limit_mib: float) -> None:
        self.limit = limit_mib * 2**20
        self.bytes = 0
        self._like: State | None = None
        self._kept: OrderedDict[tuple[int, int], tuple[dict[str, Any], int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def states(self, starts: Sequence[Start], reset: Callable[[Sequence[Start]], State]) -> State:
        """States of R starts in one batch: kept ones, and the others by ``reset``, together."""
        if not self.limit:
            return reset(starts)
        missing = list(dict.fromkeys(n for n, start in enumerate(starts) if self._key(start) not in self._kept))
        found = {n: self._unpacked(start) for n, start in enumerate(starts) if n not in missing}
        if missing:
            made = reset([starts[n] for n in missing])
            if len(missing) == len(starts):
                self._keep_all(starts, made)
                return made
            for row, n in enumerate(missing):
                found[n] = made.index(row)
            self._keep_all([starts[n] for n in missing], made)
        return State.cat([found[n] for n in range(len(starts))])

    def _keep_all(self, starts: Sequence[Start], states: State) -> None:
        for row, start in enumerate(starts):
            key = self._key(start)
            if key is not None and key not in self._kept:
                self._keep(key, states.index(row))

    def _keep(self, key: tuple[int, int], state: State) -> None:
        self._like = state if self._like is None else self._like
        leaves = {name: _pack(value) for name, value in to_leaves(state).items()}
        size = sum(_size(value) for value in leaves.values())
        self._kept[key] = leaves, size
        self.bytes += size
        while self.bytes > self.limit:
            self.bytes -= self._kept.popitem(last=False)[1][1]

    def _unpacked(self, start: Start) -> State:
        key = self._key(start)
        assert key is not None and self._like is not None
        self._kept.move_to_end(key)
        known: dict[bytes, Tensor] = {}
        return from_leaves(self._like, {name: _unpack(value, known) for name, value in self._kept[key][0].items()})

    @staticmethod
    def _key(start: Start) -> tuple[int, int] | None:
        plain = replace(start, speed_mps=0.0) == Start(scene=start.scene, frame=start.frame, speed_mps=0.0)
        return (start.scene, start.frame) if plain and np.isnan(start.speed_mps) else None


def _pack(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.nbytes < SMALL_BYTES:
        return value
    array: NDArray[Any] = value.numpy()
    return Packed(data=zlib.compress(array.tobytes(), 1), dtype=array.dtype, shape=array.shape)


def _unpack(value: Any, known: dict[bytes, Tensor]) -> Any:
    """The array again; equal bytes share memory, as a state that is never changed may."""
    if not isinstance(value, Packed):
        return value
    if value.data not in known:
        array = np.frombuffer(bytearray(zlib.decompress(value.data)), value.dtype)
        known[value.data] = torch.from_numpy(array)
    return known[value.data].view(value.shape)


def _size(value: Any) -> int:
    """Bytes of a leaf, with what Python needs to hold it."""
    return 200 + (len(value.data) if isinstance(value, Packed) else getattr(value, "nbytes", 8))
