"""Moves of label grids, whole columns at a time.

A vehicle on a road moves in the plane, and everything it sees keeps its height: one index per bird's-eye column moves
sixteen voxels. What tilt there is between two frames lifts or lowers whole columns.

Legend: B grids, (X, Y, Z) voxels, N some columns by their position (b * X + x) * Y + y in all grids; source the frame
that labels come from, target the frame to fill.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.core.geometry import TIE, take_columns
from world_model.core.grid import FREE, VoxelGrid
from world_model.core.sparse import nonzero_indices


@dataclass(frozen=True, kw_only=True)
class ColumnMove:
    """Where target columns come from: all of them (B, X, Y), or some (N,).

    Attributes:
        index: int64 position of the source column; clamped where outside.
        inside: bool, False where it lies outside the source grid.
        lift: int64 voxels to add to z for the source voxel, or None where nothing is lifted.
    """

    index: Tensor
    inside: Tensor
    lift: Tensor | None

    def at(self, columns: Tensor) -> ColumnMove:
        """The move of some target columns (N,)."""
        parts = (None if part is None else part.reshape(-1)[columns] for part in (self.index, self.inside, self.lift))
        index, inside, lift = parts
        assert index is not None and inside is not None
        return ColumnMove(index=index, inside=inside, lift=lift)

    def take(self, labels: Tensor) -> Tensor:
        """Labels (B, X, Y, Z) uint8 of the source frame -> (..., Z) of the target columns; free from outside."""
        moved = take_columns(labels, self.index, self.inside)
        return moved if self.lift is None else _lifted(moved, self.lift)


def _lifted(labels: Tensor, lift: Tensor) -> Tensor:
    """Columns (..., Z) taken ``lift`` (...) voxels higher."""
    size_z = labels.shape[-1]
    z = torch.arange(size_z, device=labels.device) + lift[..., None]
    moved = labels.gather(-1, z.clamp(0, size_z - 1))
    return moved.masked_fill((z < 0) | (z >= size_z), FREE)


def column_move(target_to_source: Tensor, grid: VoxelGrid) -> ColumnMove:
    """The move of all columns by a rigid change of frame.

    Args:
        target_to_source: (B, 4, 4), metres.
        grid: voxel grid of both frames.
    """
    matrix = target_to_source.float()
    x, y = _centres(grid, matrix)
    batch = torch.arange(len(matrix), device=matrix.device)
    return _sources(matrix[:, None, None], x[:, None], y, batch[:, None, None], grid)


def moved_columns(target_to_source: Tensor, arrived: Arrivals, grid: VoxelGrid) -> ColumnMove:
    """The move of those columns in which something arrives that has moved by itself."""
    b, i, j = _unflat(arrived.column, grid)
    x, y = _centres(grid, target_to_source)
    return _sources(target_to_source.float()[b], x[i], y[j], b, grid, arrived.displacement_m)


def _centres(grid: VoxelGrid, like: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates (X,) and (Y,) of the columns' middles, metres."""
    x, y = (
        grid.lower_m[axis] + grid.voxel_m * (torch.arange(n, dtype=torch.float32, device=like.device) + 0.5)
        for axis, n in enumerate(grid.shape[:2])
    )
    return x, y


def _sources(
    matrix: Tensor, x: Tensor, y: Tensor, batch: Tensor, grid: VoxelGrid, shift_m: Tensor | None = None
) -> ColumnMove:
    """Sources of columns at (x, y) of grids ``batch``, through matrices (..., 4, 4), less a shift (..., 2)."""
    (size_x, size_y, _), low, voxel = grid.shape, grid.lower_m, grid.voxel_m
    # The ground plane z = 0 of the target frame stands for the column.
    source = [matrix[..., axis, 0] * x + matrix[..., axis, 1] * y + matrix[..., axis, 3] for axis in (0, 1)]
    if shift_m is not None:
        source = [source[0] - shift_m[..., 0], source[1] - shift_m[..., 1]]
    i, j = (((at - low[axis]) / voxel + TIE).floor_().to(torch.int32) for axis, at in enumerate(source))
    inside = (i >= 0) & (i < size_x) & (j >= 0) & (j < size_y)
    index = i.clamp_(0, size_x - 1).mul_(size_y).add_(j.clamp_(0, size_y - 1)) + batch * (size_x * size_y)
    return ColumnMove(index=index, inside=inside, lift=_lift(matrix, x, y, voxel))


def _lift(matrix: Tensor, x: Tensor, y: Tensor, voxel: float) -> Tensor | None:
    """Voxels by which tilt lifts each column, or None where it lifts none."""
    if not bool(matrix[..., 2, [0, 1, 3]].any()):
        return None
    height = matrix[..., 2, 0] * x + matrix[..., 2, 1] * y + matrix[..., 2, 3]
    lift = (height / voxel).round().long()
    return lift if bool(lift.any()) else None


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """Target columns that may hold something that has moved by itself.

    Attributes:
        column: (N,) int64 positions, none twice.
        displacement_m: (N, 2) how far it has moved, source axes, metres.
    """

    column: Tensor
    displacement_m: Tensor


def arrivals(displacement_m: Tensor, movers: Tensor, source_to_target: Tensor, grid: VoxelGrid) -> Arrivals:
    """Where moving columns arrive, and one voxel around.

    The margin lets the gather that follows find every voxel of an object whose outline, seen from the new frame, falls
    between the columns.

    Args:
        displacement_m: (B, X, Y, 2) how far each source column moves, source axes, metres.
        movers: (B, X, Y) bool, the columns that move.
        source_to_target: (B, 4, 4), metres.
        grid: voxel grid of both frames.
    """
    size_x, size_y, _ = grid.shape
    column = nonzero_indices(movers)
    b, i, j = _unflat(column, grid)
    moved = displacement_m.reshape(-1, 2).index_select(0, column)
    low = moved.new_tensor(grid.lower_m[:2])
    point = torch.stack((i, j), -1) * grid.voxel_m + grid.voxel_m / 2 + low + moved
    matrix = source_to_target.float()[b]
    place = (matrix[:, :2, :2] @ point[..., None])[..., 0] + matrix[:, :2, 3]
    x, y = ((place - low) / grid.voxel_m + TIE).floor().long().unbind(-1)
    ok = (x >= 0) & (x < size_x) & (y >= 0) & (y < size_y)
    hit, last = _last_of(((b * size_x + x) * size_y + y)[ok])
    return _widened(Arrivals(column=hit, displacement_m=moved[ok][last]), len(movers), grid)


def _unflat(column: Tensor, grid: VoxelGrid) -> tuple[Tensor, Tensor, Tensor]:
    """Grid, x and y of columns (N,)."""
    size_x, size_y, _ = grid.shape
    return column // (size_x * size_y), column // size_y % size_x, column % size_y


def _last_of(index: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct values, and the last position of each: an indexed write without duplicates is deterministic."""
    values, inverse = torch.unique(index, return_inverse=True)
    position = torch.arange(len(index), device=index.device)
    last = torch.zeros(len(values), dtype=torch.long, device=index.device)
    return values, last.scatter_reduce_(0, inverse, position, "amax", include_self=False)


def _widened(hit: Arrivals, batch: int, grid: VoxelGrid) -> Arrivals:
    """Also the columns beside, with a neighbour's displacement."""
    size_x, size_y, _ = grid.shape
    _, x, y = _unflat(hit.column, grid)
    found = torch.zeros(batch * size_x * size_y, dtype=torch.bool, device=hit.column.device)
    found[hit.column] = True
    columns, displacements = [hit.column], [hit.displacement_m]
    for p, q in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)):
        beside = (x + p >= 0) & (x + p < size_x) & (y + q >= 0) & (y + q < size_y)
        beside &= ~found[torch.where(beside, hit.column + p * size_y + q, 0)]
        columns.append(hit.column[beside] + p * size_y + q)
        displacements.append(hit.displacement_m[beside])
        found[columns[-1]] = True
    return Arrivals(column=torch.cat(columns), displacement_m=torch.cat(displacements))
