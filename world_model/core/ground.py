"""Heights above the local ground: every column is moved so that the road lies at one height, and back.

Real roads climb and fall, and a data set may put its ground anywhere. A network that reads heights above the ground
needs to learn the world once, not once for every height. What leaves the grid by the move is remembered and put back.

Legend: B grids, (X, Y, Z) voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.core.grid import FREE, GROUND
from world_model.core.sparse import member, nonzero_indices

CANONICAL_Z = 2
"""Height index of the ground after the move, that of flat Occ3D-nuScenes roads."""
BAND_TOPS = (2, 4, 8)
"""Height indices above the ground at which bands begin: below ground, ground, low, high."""
BANDS = len(BAND_TOPS) + 1
CELL = 8
"""Columns along each side of the cells in which the ground is averaged: 3.2 m."""


@dataclass(frozen=True, kw_only=True)
class GroundShift:
    """How far the columns of B grids are moved down.

    Attributes:
        voxels: (B, X, Y) int64, positive where the ground lies above `CANONICAL_Z`; None where nothing moves.
    """

    voxels: Tensor | None

    @cached_property
    def _moves(self) -> list[tuple[int, Tensor]]:
        """Distances, and the flat numbers of the columns that are moved so far."""
        assert self.voxels is not None
        flat = self.voxels.reshape(-1)
        found = ((shift, nonzero_indices(flat == shift)) for shift in range(int(flat.min()), int(flat.max()) + 1))
        return [(shift, rows) for shift, rows in found if shift and len(rows)]

    def lowered(self, labels: Tensor) -> Tensor:
        """Labels (B, X, Y, Z) uint8 with the ground at `CANONICAL_Z`; free where nothing was."""
        return labels if self.voxels is None else _shifted(labels, self._moves, 1)

    def raised(self, labels: Tensor, original: Tensor) -> Tensor:
        """The inverse of `lowered`; voxels that have no place there keep those of ``original``."""
        if self.voxels is None:
            return labels
        return _shifted(labels, self._moves, -1, original)


def ground_shift(labels: Tensor) -> GroundShift:
    """The smoothed height of the ground under every column, out of labels (B, X, Y, Z)."""
    ground = member(labels, GROUND)
    size_z = labels.shape[-1]
    z = torch.arange(size_z, 0, -1, device=labels.device, dtype=torch.uint8)
    # The lowest ground voxel has the largest weight; no ground gives 0.
    lowest = (ground.to(torch.uint8) * z).amax(-1)
    known = (lowest > 0).float()
    height = (size_z - lowest.float() - CANONICAL_Z) * known
    cells = _filled(torch.stack((height, known), 1))
    if not bool((cells.abs() >= 0.5).any()):
        return GroundShift(voxels=None)
    fine = F.interpolate(cells, size=labels.shape[1:3], mode="bilinear", align_corners=False)[:, 0]
    voxels = fine.round().long()
    return GroundShift(voxels=voxels if bool(voxels.any()) else None)


def band_of(z: Tensor) -> Tensor:
    """Band numbers of height indices above the canonical ground."""
    return sum(((z >= top).long() for top in BAND_TOPS), torch.zeros_like(z))


def _filled(sums: Tensor) -> Tensor:
    """(B, 2, X, Y) heights of known columns, and which are known -> (B, 1, X / CELL, Y / CELL) heights everywhere.

    Cells without ground take the mean of ever wider surroundings.
    """
    sums = F.avg_pool2d(sums, CELL)
    levels = [sums]
    while max(levels[-1].shape[2:]) > 1:
        levels.append(F.avg_pool2d(levels[-1], 2, ceil_mode=True, count_include_pad=False))
    filled = levels[-1][:, :1] / levels[-1][:, 1:].clamp(min=1e-6)
    for level in reversed(levels[:-1]):
        coarse = F.interpolate(filled, size=level.shape[2:], mode="bilinear", align_corners=False)
        # A few columns' worth of what the surroundings say steadies cells with little ground.
        filled = (level[:, :1] + 0.05 * coarse) / (level[:, 1:] + 0.05)
    padded = F.pad(filled, (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(padded, 3, 1)


def _shifted(labels: Tensor, moves: list[tuple[int, Tensor]], sign: int, fill: Tensor | None = None) -> Tensor:
    """Columns moved down by ``sign`` times their move; what comes in from outside is free, or as ``fill`` has it."""
    size_z = labels.shape[-1]
    columns = labels.reshape(-1, size_z)
    out = columns.clone()
    for voxels, rows in moves:
        shift, moved = sign * voxels, columns.index_select(0, rows)
        base = torch.full_like(moved, FREE) if fill is None else fill.reshape(-1, size_z).index_select(0, rows)
        if 0 < shift < size_z:
            base[:, : size_z - shift] = moved[:, shift:]
        elif -size_z < shift < 0:
            base[:, -shift:] = moved[:, : size_z + shift]
        out.index_copy_(0, rows, base)
    return out.view(labels.shape)
