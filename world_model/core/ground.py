"""Heights above the local ground: every column is moved so that the road lies at one height, and back.

Real roads climb and fall, and a data set may put its ground anywhere. A network that reads heights above the ground
needs to learn the world once, not once for every height. What leaves the grid by the move is remembered and put back.

Legend: B grids, (X, Y, Z) voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.core.geometry import packed
from world_model.core.grid import DRIVEABLE, FREE, GROUND
from world_model.core.sparse import member, nonzero_indices

CANONICAL_Z = 2
"""Height index of the ground after the move, that of flat Occ3D-nuScenes roads."""
BAND_TOPS = (2, 4, 8)
"""Height indices above the ground at which bands begin: below ground, ground, low, high."""
BANDS = len(BAND_TOPS) + 1
CELL = 8
"""Columns along each side of the cells in which the ground is averaged: 3.2 m."""
EVERY = 2
"""For driving, only every second column along x and y is read."""
WORDS, ALL_BITS = 2, 2**128 - 1
"""Of a column of 16 bytes."""


@dataclass(frozen=True, kw_only=True)
class GroundShift:
    """How far the columns of B grids are moved down.

    Attributes:
        voxels: (B, X, Y) integers, positive where the ground lies above `CANONICAL_Z`; None where nothing moves.
    """

    voxels: Tensor | None

    @cached_property
    def _moves(self) -> list[tuple[int, Tensor]]:
        """Distances, and the flat numbers of the columns that are moved so far."""
        assert self.voxels is not None
        flat = self.voxels.reshape(-1).to(torch.int8)  # a quarter of the time
        low, high = flat.aminmax()
        found = ((shift, nonzero_indices(flat == shift)) for shift in range(int(low), int(high) + 1))
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
    cells = _filled(_cell_sums(member(labels, GROUND), CELL))
    if not bool((cells.abs() >= 0.5).any()):
        return GroundShift(voxels=None)
    fine = F.interpolate(cells, size=labels.shape[1:3], mode="bilinear", align_corners=False)[:, 0]
    voxels = fine.round().long()
    return GroundShift(voxels=voxels if bool(voxels.any()) else None)


def on_level_ground(labels: Tensor) -> Tensor:
    """Labels (B, X, Y, Z) uint8 with heights above the local ground, for a body that drives on it.

    Grids whose road lies at `CANONICAL_Z` all over stay as they are, to the bit, whatever lies beside the road. Where
    no ground is known it goes on along the plane that fits all of it: roads leave the grid downhill, but what stands on
    them does not.
    """
    some = _sampled(labels, EVERY)
    road = member(some, (DRIVEABLE,))
    level = _counts(road[..., CANONICAL_Z])
    uneven = [k for k, count in enumerate(_counts(road)) if count != level[k]]
    if uneven:
        heights = _filled(_cell_sums(road[uneven], CELL // EVERY)).abs().amax((1, 2, 3)).tolist()
        uneven = [k for k, height in zip(uneven, heights, strict=True) if height >= 0.5]
    if not uneven:
        return labels
    sums = _cell_sums(member(some[uneven], GROUND), CELL // EVERY)
    plane = _plane(sums)
    cells = (plane + _filled(torch.cat((sums[:, :1] - plane * sums[:, 1:], sums[:, 1:]), 1)))[:, 0]
    to_x, to_y = (_between(*sizes).to(cells) for sizes in zip(cells.shape[1:], labels.shape[1:3], strict=True))
    voxels = torch.zeros(labels.shape[:3], dtype=torch.int8, device=labels.device)
    voxels[uneven] = (to_x @ cells @ to_y.T).round().to(torch.int8)
    return GroundShift(voxels=voxels).lowered(labels)


@lru_cache(maxsize=8)
def _between(cells: int, columns: int) -> Tensor:
    """(columns, cells) weights of linear interpolation, as in `ground_shift` but along one axis."""
    one = torch.eye(cells, device="cpu", dtype=torch.float32)[None]
    return F.interpolate(one, size=columns, mode="linear", align_corners=False)[0].T.contiguous()


def _sampled(labels: Tensor, every: int) -> Tensor:
    """Every so-manieth column of (B, X, Y, Z) along x and y."""
    if every == 1:
        return labels
    return packed(labels)[:, ::every, ::every].contiguous().view(labels.dtype)


def _counts(masks: Tensor) -> list[int]:
    """How much each of B masks (B, ...) holds."""
    if masks.device.type == "cpu":
        return [int(np.count_nonzero(mask)) for mask in masks.numpy()]
    found: list[int] = masks.flatten(1).sum(1).tolist()
    return found


def lowest_index(ground: Tensor) -> tuple[Tensor, Tensor]:
    """Height indices (B, X, Y) float32 of the lowest voxel of each column of (B, X, Y, Z) bool, and 1 where there is
    one, else 0 (a height without ground means nothing)."""
    size_z = ground.shape[-1]
    z = torch.arange(size_z, 0, -1, device=ground.device, dtype=torch.uint8)
    # The lowest ground voxel has the largest weight; no ground gives 0.
    lowest = (ground.to(torch.uint8) * z).amax(-1)
    return size_z - lowest.float(), (lowest > 0).float()


def _cell_sums(ground: Tensor, cell: int) -> Tensor:
    """(B, 2, X / cell, Y / cell) means over cells of the lowest ground of (B, X, Y, Z) bool: its height over
    `CANONICAL_Z` in voxels, 0 where there is none, and whether there is any."""
    lowest, known = lowest_index(ground)
    height = (lowest - CANONICAL_Z) * known
    return F.avg_pool2d(torch.stack((height, known), 1), cell)


def _plane(sums: Tensor) -> Tensor:
    """(B, 1, x, y) the plane that fits the heights of known cells best; level where too few are known."""
    x, y = (torch.linspace(-1, 1, n, device=sums.device) for n in sums.shape[2:])
    terms = torch.stack((torch.ones_like(x[:, None] + y), x[:, None] + 0 * y, 0 * x[:, None] + y)).flatten(1)
    height, weight = sums.flatten(2).unbind(1)
    square = torch.einsum("ik,bk,jk->bij", terms, weight, terms)
    square = square + torch.diag(sums.new_tensor((1e-6, 1.0, 1.0)))  # pulls the slopes of a few cells to zero
    found: Tensor = torch.linalg.solve(square, height @ terms.T)
    return (found @ terms).view(-1, 1, *sums.shape[2:])


def band_of(z: Tensor) -> Tensor:
    """Band numbers of height indices above the canonical ground."""
    return sum(((z >= top).long() for top in BAND_TOPS), torch.zeros_like(z))


def _filled(sums: Tensor) -> Tensor:
    """(B, 2, x, y) weighted heights of cells, and their weights -> (B, 1, x, y) heights everywhere.

    Cells without ground take the mean of ever wider surroundings.
    """
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
    columns = packed(labels.reshape(-1, size_z))
    base = columns if fill is None else packed(fill.reshape(-1, size_z))
    out = columns.clone()
    for voxels, rows in moves:
        moved, there = (source.index_select(0, rows).view(labels.dtype).view(-1, size_z) for source in (columns, base))
        if fill is None:
            there.fill_(FREE)
        out.index_copy_(0, rows, packed(_lowered(moved, sign * voxels, there)))
    return out.view(labels.dtype).view(labels.shape)


def _lowered(columns: Tensor, by: int, base: Tensor) -> Tensor:
    """Columns (N, Z) moved down by some voxels; what comes in from outside is as in ``base`` (N, Z)."""
    size_z = columns.shape[1]
    if columns.device.type == "cpu" and size_z == 8 * WORDS and 0 < abs(by) < size_z:
        return _lowered_words(columns, by, base)
    if 0 < by < size_z:
        base[:, : size_z - by] = columns[:, by:]
    elif -size_z < by < 0:
        base[:, -by:] = columns[:, : size_z + by]
    return base


def _lowered_words(columns: Tensor, by: int, base: Tensor) -> Tensor:
    """The same for columns of two 64-bit words (little-endian): shifts of whole words instead of single bytes."""
    (low, high), (base_low, base_high) = (c.numpy().view(np.uint64).T for c in (columns, base))
    bits = 8 * abs(by)
    inner, outer = np.uint64(bits % 64), np.uint64(64 - bits % 64)
    if by > 0:
        low, high = (low, high) if bits < 64 else (high, np.zeros_like(high))
        # A shift by all 64 bits gives 0 in numpy.
        low, high = (low >> inner) | (high << outer), high >> inner
        kept = ALL_BITS >> bits
    else:
        low, high = (low, high) if bits < 64 else (np.zeros_like(low), low)
        low, high = low << inner, (high << inner) | (low >> outer)
        kept = (ALL_BITS << bits) & ALL_BITS
    beyond = ALL_BITS ^ kept
    words = np.empty((len(columns), WORDS), np.uint64)
    words[:, 0] = low | (base_low & np.uint64(beyond & (2**64 - 1)))
    words[:, 1] = high | (base_high & np.uint64(beyond >> 64))
    return torch.from_numpy(words.view(np.uint8))
