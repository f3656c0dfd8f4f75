"""Moves of label grids, whole columns at a time.

A vehicle on a road moves in the plane, and everything it sees keeps its height: one index per bird's-eye column moves
sixteen voxels. What tilt there is between two frames lifts or lowers whole columns.

Legend: B grids, (X, Y, Z) voxels, source the frame that labels come from, target the frame to fill.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.geometry import TIE
from world_model.grid import FREE, VoxelGrid


@dataclass(frozen=True, kw_only=True)
class ColumnMove:
    """Where each target column comes from.

    Attributes:
        index: (B, X, Y) int64 position x * Y + y of the source column; clamped where outside.
        inside: (B, X, Y) bool, False where it lies outside the source grid.
        lift: (B, X, Y) int64 voxels to add to z for the source voxel, or None where nothing is lifted.
    """

    index: Tensor
    inside: Tensor
    lift: Tensor | None

    def take(self, labels: Tensor) -> Tensor:
        """Labels (B, X, Y, Z) uint8 of the source frame -> the target frame; what comes from outside is free."""
        batch, size_x, size_y, size_z = labels.shape
        # Eight voxels travel as one number where the height allows it.
        pack = torch.int64 if size_z % 8 == 0 else torch.uint8
        columns = labels.contiguous().view(batch * size_x * size_y, size_z).view(pack)
        offset = torch.arange(batch, device=labels.device).view(-1, 1, 1) * (size_x * size_y)
        moved = columns.index_select(0, (self.index + offset).view(-1))
        free = FREE if pack is torch.uint8 else int.from_bytes(bytes([FREE] * 8), "little")
        moved = moved.masked_fill(~self.inside.view(-1, 1), free).view(torch.uint8).view(labels.shape)
        return moved if self.lift is None else _lifted(moved, self.lift)


def _lifted(labels: Tensor, lift: Tensor) -> Tensor:
    """Columns taken ``lift`` (B, X, Y) voxels higher."""
    size_z = labels.shape[-1]
    z = torch.arange(size_z, device=labels.device) + lift[..., None]
    moved = labels.gather(3, z.clamp(0, size_z - 1))
    return moved.masked_fill((z < 0) | (z >= size_z), FREE)


def column_move(target_to_source: Tensor, grid: VoxelGrid, shift_m: Tensor | None = None) -> ColumnMove:
    """The move of a rigid change of frame.

    Args:
        target_to_source: (B, 4, 4), metres.
        grid: voxel grid of both frames.
        shift_m: (B, X, Y, 2) how far what stands in a target column has moved by itself since, source axes, metres.
    """
    matrix = target_to_source.float()
    (size_x, size_y, _), low, voxel = grid.shape, grid.lower_m, grid.voxel_m
    x = low[0] + voxel * (torch.arange(size_x, device=matrix.device) + 0.5)
    y = low[1] + voxel * (torch.arange(size_y, device=matrix.device) + 0.5)
    # The ground plane z = 0 of the target frame stands for the column.
    source = [
        matrix[:, axis, 0, None, None] * x[:, None]
        + matrix[:, axis, 1, None, None] * y
        + matrix[:, axis, 3, None, None]
        for axis in (0, 1, 2)
    ]
    if shift_m is not None:
        source[0], source[1] = source[0] - shift_m[..., 0], source[1] - shift_m[..., 1]
    i = ((source[0] - low[0]) / voxel + TIE).floor().long()
    j = ((source[1] - low[1]) / voxel + TIE).floor().long()
    inside = (i >= 0) & (i < size_x) & (j >= 0) & (j < size_y)
    lift = (source[2] / voxel).round().long()
    index = i.clamp_(0, size_x - 1) * size_y + j.clamp_(0, size_y - 1)
    return ColumnMove(index=index, inside=inside, lift=lift if bool(lift.any()) else None)


def spread(displacement_m: Tensor, movers: Tensor, source_to_target: Tensor, grid: VoxelGrid) -> tuple[Tensor, Tensor]:
    """Carry the displacements of moving columns to where they arrive, and one voxel around.

    The margin lets the gather that follows find every voxel of an object whose outline, seen from the new frame, falls
    between the columns.

    Args:
        displacement_m: (B, X, Y, 2) how far each source column moves, source axes, metres.
        movers: (B, X, Y) bool, the columns that move.
        source_to_target: (B, 4, 4), metres.
        grid: voxel grid of both frames.

    Returns:
        (B, X, Y, 2) displacement of what arrives in each target column, and (B, X, Y) bool where anything does.
    """
    batch, size_x, size_y = movers.shape
    out = displacement_m.new_zeros(batch * size_x * size_y, 2)
    hit = torch.zeros(batch * size_x * size_y, dtype=torch.bool, device=movers.device)
    b, i, j = movers.nonzero(as_tuple=True)
    moved = displacement_m[b, i, j]
    low = moved.new_tensor(grid.lower_m[:2])
    point = torch.stack((i, j), -1) * grid.voxel_m + grid.voxel_m / 2 + low + moved
    matrix = source_to_target.float()[b]
    place = (matrix[:, :2, :2] @ point[..., None])[..., 0] + matrix[:, :2, 3]
    x, y = ((place - low) / grid.voxel_m + TIE).floor().long().unbind(-1)
    ok = (x >= 0) & (x < size_x) & (y >= 0) & (y < size_y)
    cell, last = _last_of(((b * size_x + x) * size_y + y)[ok])
    out[cell], hit[cell] = moved[ok][last], True
    return _widened(out.view(batch, size_x, size_y, 2), hit.view(batch, size_x, size_y))


def _last_of(index: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct values, and the last position of each: an indexed write without duplicates is deterministic."""
    values, inverse = torch.unique(index, return_inverse=True)
    position = torch.arange(len(index), device=index.device)
    last = torch.zeros(len(values), dtype=torch.long, device=index.device)
    return values, last.scatter_reduce_(0, inverse, position, "amax", include_self=False)


def _widened(values: Tensor, hit: Tensor) -> tuple[Tensor, Tensor]:
    """Fill the columns beside hit ones with a neighbour's value."""
    size_x, size_y = hit.shape[1:]
    wide, found = values.clone(), hit.clone()
    for p, q in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)):
        to_x, from_x = slice(max(p, 0), size_x + min(p, 0)), slice(max(-p, 0), size_x + min(-p, 0))
        to_y, from_y = slice(max(q, 0), size_y + min(q, 0)), slice(max(-q, 0), size_y + min(-q, 0))
        new = hit[:, from_x, from_y] & ~found[:, to_x, to_y]
        wide[:, to_x, to_y] = torch.where(new[..., None], values[:, from_x, from_y], wide[:, to_x, to_y])
        found[:, to_x, to_y] |= new
    return wide, found
