"""From labels to few boxes: only voxels that touch free space, and equal neighbours merged.

Greedy meshing in its plain form: runs of equal voxels along x, equal runs side by side along y, equal plates on top of
each other along z. Everything is sorting and comparing of whole arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import FREE, VoxelGrid

HIDDEN = 255
"""Key of a voxel that is not drawn."""


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """N boxes of whole voxels.

    Attributes:
        first: (N, 3) int64 lowest voxel. size: (N, 3) int64 voxels along x, y, z. key: (N,) uint8, see `merged`.
    """

    first: NDArray[Any]
    size: NDArray[Any]
    key: NDArray[Any]

    def __len__(self) -> int:
        return len(self.key)

    def centers_m(self, grid: VoxelGrid) -> NDArray[Any]:
        """(N, 3) float32 metres."""
        centers: NDArray[Any] = (self.first + self.size / 2) * grid.voxel_m + np.asarray(grid.lower_m)
        return centers.astype(np.float32)

    def sizes_m(self, grid: VoxelGrid) -> NDArray[Any]:
        """(N, 3) float32 edges in metres."""
        return (self.size * grid.voxel_m).astype(np.float32)


def surface(labels: NDArray[Any]) -> NDArray[Any]:
    """(X, Y, Z) bool: occupied voxels with a free neighbour, or at the edge of the grid.

    Args:
        labels: (X, Y, Z) class ids.
    """
    filled = labels < FREE
    inner = filled.copy()
    for axis in range(3):
        low, high = [slice(None)] * 3, [slice(None)] * 3
        low[axis], high[axis] = slice(1, None), slice(None, -1)
        inner[tuple(low)] &= filled[tuple(high)]
        inner[tuple(high)] &= filled[tuple(low)]
        edge: list[Any] = [slice(None)] * 3
        edge[axis] = [0, -1]
        inner[tuple(edge)] = False
    return filled & ~inner


def merged(keys: NDArray[Any]) -> Boxes:
    """Few boxes that cover exactly the voxels with a key, each box of one key.

    Args:
        keys: (X, Y, Z) uint8, `HIDDEN` where nothing is drawn.
    """
    x, y, _ = keys.shape
    flat = np.ascontiguousarray(keys.transpose(2, 1, 0)).ravel()
    new = np.ones(len(flat), np.bool_)
    new[1:] = flat[1:] != flat[:-1]
    new[::x] = True
    start = np.flatnonzero(new)
    length = np.diff(start, append=len(flat))
    drawn = flat[start] != HIDDEN
    start, length = start[drawn], length[drawn]
    row, first_x = np.divmod(start, x)
    first_z, first_y = np.divmod(row, y)
    first = np.stack((first_x, first_y, first_z), 1)
    size = np.ones_like(first)
    size[:, 0] = length
    boxes = Boxes(first=first, size=size, key=flat[start])
    return _stacked(_stacked(boxes, 1, keys.shape), 2, keys.shape)


def _stacked(boxes: Boxes, axis: int, shape: tuple[int, ...]) -> Boxes:
    """Equal boxes that follow each other along an axis, each row of them as one."""
    if not len(boxes):
        return boxes
    others = [a for a in range(3) if a != axis]
    code = boxes.key.astype(np.int64)
    for a in others:
        code = (code * (shape[a] + 1) + boxes.first[:, a]) * (shape[a] + 1) + boxes.size[:, a]
    at = boxes.first[:, axis]
    order = np.argsort(code * (shape[axis] + 1) + at, kind="stable")
    code, at, size = code[order], at[order], boxes.size[order]
    follows = (code[1:] == code[:-1]) & (at[1:] == at[:-1] + size[:-1, axis])
    head = np.flatnonzero(np.concatenate(([True], ~follows)))
    size = np.where(np.arange(3) == axis, 0, size[head])
    size[:, axis] = np.add.reduceat(boxes.size[order, axis], head)
    return Boxes(first=boxes.first[order][head], size=size, key=boxes.key[order][head])
