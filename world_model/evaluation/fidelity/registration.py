"""How far the static scene moved between two frames of labels, found in the labels alone.

The ground plan of what cannot move (walls and plants, kerbs, the edges of road, pavement and grass) is laid over that
of the frame before, in two stages: a search over all shifts and many turns by correlation in the frequency domain, on
maps of half the resolution, then finer and finer searches around its best answer whose peaks are taken from parabolas,
so that the answer is not bound to voxels. Nothing is known of the commanded motion here: an answer that was near it by
construction would prove nothing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.core.geometry import invert_pose, se2_matrix, warp_bev
from world_model.core.grid import OCC3D, VoxelGrid

LAYERS: tuple[tuple[int, ...], ...] = ((1, 8, 15, 16), (11,), (13,), (12, 14))
"""Classes drawn on one map each: what stands, road, pavement, other ground."""
FINE, COARSE = 0.8, 4.0
"""Widths of the two blurs, in voxels, whose difference leaves edges: it has no mean, so that a large overlap alone is
no agreement, and it is the same in all directions, so that it can be rotated."""
MARGIN = 4
"""Voxels at the border of the grid that are left out: the scene does not end there."""


REACH_M, TURN_DEG, TURN_STEP_DEG = 12.0, 24.0, 3.0
"""Largest shift along x or y and largest turn of the first search, and the step of its turns."""
COARSE_ROUNDS, FINE_ROUNDS = 3, 2
"""Searches around the answer on maps of half and of full resolution, each with half the spacing of the one before."""
BATCH = 4
"""Pairs of frames in memory at once; no matter of results."""


def recover_motion(before: Tensor, after: Tensor, grid: VoxelGrid = OCC3D) -> Tensor:
    """The ego's motion between frames, by what is static in them.

    Args:
        before: (N, X, Y, Z) class ids in the earlier ego frame.
        after: the same, in the later ego frame.
        grid: of both.

    Returns:
        (N, 3) float64: the later ego's x and y in metres and its yaw in rad, in the earlier ego frame; NaN where one of
        the frames holds nothing static.
    """
    if not len(before):
        return torch.zeros(0, 3, dtype=torch.float64)
    pairs = zip(torch.split(before, BATCH), torch.split(after, BATCH), strict=True)
    return torch.cat([_recover(edges(a), edges(b), grid) for a, b in pairs])


def edges(labels: Tensor) -> Tensor:
    """(N, C, X, Y) float32 maps of the edges of static things in (N, X, Y, Z) labels, zero near the border."""
    drawn = [torch.isin(labels, torch.tensor(layer, device=labels.device)).any(-1) for layer in LAYERS]
    maps = torch.stack(drawn, 1).float()
    sharp = _blur(maps, FINE) - _blur(maps, COARSE)
    inner = torch.zeros_like(sharp)
    inside = (..., slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
    inner[inside] = sharp[inside]
    return inner


def _blur(maps: Tensor, width: float) -> Tensor:
    """Gaussian blur of (N, C, X, Y); the border row is repeated outside."""
    margin = math.ceil(3 * width)
    offset = torch.arange(-margin, margin + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-(offset**2) / (2 * width**2))
    kernel = kernel / kernel.sum()
    flat = F.pad(maps.flatten(0, 1)[:, None], (margin,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(flat, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return blurred.view(maps.shape)


def _recover(before: Tensor, after: Tensor, grid: VoxelGrid) -> Tensor:
    small = [F.avg_pool2d(maps, 2) for maps in (before, after)]
    wide_m = 2 * grid.voxel_m
    motion = _search(small[0], small[1], grid)
    spacing = torch.tensor((wide_m / 2, wide_m / 2, math.radians(TURN_STEP_DEG) / 2)).double()
    for number in range(COARSE_ROUNDS + FINE_ROUNDS):
        pair, cell_m = (small, wide_m) if number < COARSE_ROUNDS else ([before, after], grid.voxel_m)
        motion = _refine(pair[0], pair[1], motion, spacing, grid.lower_m[:2], cell_m)
        spacing = spacing / 2
    empty = (before.abs().amax((1, 2, 3)) == 0) | (after.abs().amax((1, 2, 3)) == 0)
    return torch.where(empty.cpu()[:, None], torch.nan, motion)


def _search(before: Tensor, after: Tensor, grid: VoxelGrid) -> Tensor:
    """(N, 3) best motion among shifts by whole cells and the grid of turns; maps of half the resolution."""
    cell_m = 2 * grid.voxel_m
    count = round(TURN_DEG / TURN_STEP_DEG)
    turns = torch.arange(-count, count + 1, dtype=torch.float64) * math.radians(TURN_STEP_DEG)
    cells = round(REACH_M / cell_m)
    size = [_fast_size(n + cells) for n in before.shape[-2:]]
    rows = torch.arange(-cells, cells + 1)
    spectrum, zero = torch.fft.rfft2(before, s=size), torch.zeros(len(before), dtype=torch.float64)
    best, motion = torch.full((len(before),), -torch.inf), torch.zeros(len(before), 3, dtype=torch.float64)
    for turn in turns:
        rotated = _aligned(after, torch.stack((zero, zero, zero + turn), 1), grid.lower_m[:2], cell_m)
        match = torch.fft.irfft2((spectrum * torch.fft.rfft2(rotated, s=size).conj()).sum(1), s=size).cpu()
        score, place = match[:, rows % size[0]][:, :, rows % size[1]].flatten(1).max(1)
        shift = torch.stack((rows[place // len(rows)], rows[place % len(rows)]), 1) * cell_m
        better = score > best
        motion[better] = torch.cat((shift.double(), (zero + turn)[:, None]), 1)[better]
        best = torch.maximum(best, score)
    return motion


def _refine(
    before: Tensor, after: Tensor, motion: Tensor, spacing: Tensor, lower_m: tuple[float, float], cell_m: float
) -> Tensor:
    """Along one axis after the other: three samples, and the top of the parabola through them."""
    for axis in (2, 0, 1):
        offset = torch.zeros(3, dtype=torch.float64)
        offset[axis] = spacing[axis]
        below, here, above = (
            _agreement(before, _aligned(after, motion + side * offset, lower_m, cell_m)) for side in (-1, 0, 1)
        )
        bend = below - 2 * here + above
        top = torch.where(bend < 0, 0.5 * (below - above) / bend, torch.sign(above - below))
        motion = motion + top.clamp(-1, 1)[:, None] * offset
    return motion


def _agreement(before: Tensor, aligned: Tensor) -> Tensor:
    """(N,) float64 product of the earlier maps with the later ones laid over them, per unit of the latter."""
    product = (before * aligned).sum((1, 2, 3)).double().cpu()
    return product / aligned.square().sum((1, 2, 3)).double().cpu().sqrt().clamp(min=1e-9)


def _aligned(after: Tensor, motion: Tensor, lower_m: tuple[float, float], cell_m: float) -> Tensor:
    """Maps of the later frame, drawn in the earlier one under a supposed motion (N, 3)."""
    earlier_to_later = invert_pose(se2_matrix(*motion.unbind(1))).float().to(after.device)
    return warp_bev(after, earlier_to_later, lower_m, cell_m, 0.0)


def _fast_size(size: int) -> int:
    """Smallest length >= size without prime factors above 5."""
    # Every such length up to 2**20 divides this product of primes.
    while (2 * 3 * 5) ** 20 % size:
        size += 1
    return size
