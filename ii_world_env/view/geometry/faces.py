"""From labels to few rectangles: only the faces of voxels that touch free space, and equal neighbours merged.

Greedy meshing in its plain form: equal faces side by side along x become one, then equal rows along y, then along z.
Each pass is one sort of all faces and a comparison of neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import VoxelGrid

SIDES = ((0, -1), (0, 1), (1, -1), (1, 1), (2, 1))
"""Axis and direction of the faces that are drawn. Faces that look down are seen from no camera above the ground."""
TOP = 4
"""Number of the side that looks up."""


@dataclass(frozen=True, kw_only=True)
class Faces:
    """N rectangles on the sides of boxes of whole voxels, one voxel thick.

    Attributes:
        first: (N, 3) int64 lowest voxel. size: (N, 3) int64 voxels along x, y, z; 1 along the axis of the side.
        side: (N,) int64 number of the side in `SIDES`, in rising order. key: (N,) int64 what they have in common.
    """

    first: NDArray[Any]
    size: NDArray[Any]
    side: NDArray[Any]
    key: NDArray[Any]

    def __len__(self) -> int:
        return len(self.key)

    def centers_m(self, grid: VoxelGrid) -> NDArray[Any]:
        """(N, 3) float32 middles of the boxes in metres."""
        centers: NDArray[Any] = (self.first + self.size / 2) * grid.voxel_m + np.asarray(grid.lower_m)
        return centers.astype(np.float32)

    def sizes_m(self, grid: VoxelGrid) -> NDArray[Any]:
        """(N, 3) float32 edges of the boxes in metres."""
        return (self.size * grid.voxel_m).astype(np.float32)


def visible(filled: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Faces between filled and free voxels; beyond the grid all is free.

    Args:
        filled: (X, Y, Z) bool.

    Returns:
        (M, 3) int64 voxels, and (M,) int64 numbers of their sides in `SIDES`, in rising order.
    """
    cells = []
    for axis, direction in SIDES:
        beyond = np.zeros_like(filled)
        here, there = [slice(None)] * 3, [slice(None)] * 3
        here[axis], there[axis] = (slice(None, -1), slice(1, None))[::direction]
        beyond[tuple(here)] = filled[tuple(there)]
        flat = np.flatnonzero(filled & ~beyond)
        cells.append(np.stack(np.unravel_index(flat, filled.shape), 1))
    sides = np.repeat(np.arange(len(SIDES)), [len(one) for one in cells])
    return np.concatenate(cells), sides


def merged(cells: NDArray[Any], sides: NDArray[Any], keys: NDArray[Any], shape: tuple[int, ...]) -> Faces:
    """Few rectangles that cover exactly the faces, each of one side and one key.

    Args:
        cells: (M, 3) voxels. sides: (M,) their sides. keys: (M,) what a rectangle must share. shape: of the grid.
    """
    faces = Faces(first=cells, size=np.ones_like(cells), side=sides, key=keys.astype(np.int64))
    for axis in range(3):
        faces = _stacked(faces, axis, shape)
    order = np.argsort(faces.side, kind="stable")
    return Faces(first=faces.first[order], size=faces.size[order], side=faces.side[order], key=faces.key[order])


def _stacked(faces: Faces, axis: int, shape: tuple[int, ...]) -> Faces:
    """Equal rectangles that follow each other along an axis, each row of them as one."""
    if not len(faces):
        return faces
    code = faces.key * len(SIDES) + faces.side
    for other in (a for a in range(3) if a != axis):
        code = (code * shape[other] + faces.first[:, other]) * (shape[other] + 1) + faces.size[:, other]
    at, length = faces.first[:, axis], faces.size[:, axis]
    order = np.argsort(code * shape[axis] + at)
    code, at, length = code[order], at[order], length[order]
    head = np.ones(len(code), np.bool_)
    head[1:] = (code[1:] != code[:-1]) | (at[1:] != at[:-1] + length[:-1])
    rows = order[head]
    size = faces.size[rows]
    size[:, axis] = np.add.reduceat(length, np.flatnonzero(head))
    return Faces(first=faces.first[rows], size=size, side=faces.side[rows], key=faces.key[rows])
