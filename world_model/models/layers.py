"""Blocks that the networks on bird's-eye maps share: residual blocks, a U-Net, labels in and labels out.

Residual blocks are those of VQGAN (Esser et al., CVPR 2021), the U-Net is that of Ronneberger et al., MICCAI 2015.
Parameter names follow the published checkpoints.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.core.geometry import packed
from world_model.core.grid import NUM_CLASSES, VoxelGrid
from world_model.core.sparse import occupied_indices, quotient


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 32 groups, or groups of four channels where there are 32 channels or fewer."""
    return nn.GroupNorm(channels // 4 if channels <= 32 else 32, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two norm-swish-conv stages plus the input. (B, C_in, X, Y) -> (B, C_out, X, Y)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = group_norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = self.nin_shortcut(x) + h
        return out


class LabelStem(nn.Module):
    """Labels as a bird's-eye map: every occupied voxel adds a learned row for its class and place in the cell.

    The same as embedding all voxels and a linear map per cell, at the cost of the one in twenty that is occupied.

    Args:
        slots: voxels of a cell.
        channels: width of the map.
    """

    def __init__(self, slots: int, channels: int) -> None:
        super().__init__()
        self.slots, self.channels = slots, channels
        self.rows = nn.Parameter(torch.randn(slots * NUM_CLASSES, channels) * 0.1)

    def forward(self, cells: Tensor) -> Tensor:
        """Labels in cells (B, Xc, Yc, slots) -> (B, Xc, Yc, C)."""
        return sum_rows(cells, self.rows)


def sum_rows(cells: Tensor, rows: Tensor) -> Tensor:
    """Labels in cells (B, Xc, Yc, slots) -> (B, Xc, Yc, C): the sum of a row (slots * K, C) for each occupied voxel."""
    slots, flat = cells.shape[3], cells.reshape(-1)
    occupied = occupied_indices(flat)
    cell, slot = quotient(occupied, slots)
    row = slot * NUM_CLASSES + flat.index_select(0, occupied)
    count = torch.bincount(cell, minlength=len(flat) // slots)
    total = F.embedding_bag(row, rows, count.cumsum(0) - count, mode="sum")
    return total.view(*cells.shape[:3], rows.shape[1])


class UNet(nn.Module):
    """Three levels, (B, width, X, Y) -> same; X and Y divisible by four. Levels are joined by sums, not by stacking."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fine = nn.Conv2d(width, width, 3, padding=1)
        self.down_1 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.middle = ResidualBlock(2 * width, 2 * width)
        self.down_2 = nn.Conv2d(2 * width, 3 * width, 3, stride=2, padding=1)
        self.coarse = nn.Sequential(ResidualBlock(3 * width, 3 * width), ResidualBlock(3 * width, 3 * width))
        self.up_2 = nn.Conv2d(3 * width, 2 * width, 1)
        self.middle_up = ResidualBlock(2 * width, 2 * width)
        self.up_1 = nn.Conv2d(2 * width, width, 1)
        self.fine_up = ResidualBlock(width, width)

    def forward(self, x: Tensor) -> Tensor:
        # Weights in half precision stay in here: what goes in and comes out is as the rest of the network is.
        kind = self.fine.weight.dtype
        return self._levels(x) if kind == torch.float32 else self._levels(x.to(kind)).to(x.dtype)

    def _levels(self, x: Tensor) -> Tensor:
        fine = x + self.fine(F.silu(x))
        middle = self.middle(self.down_1(fine))
        coarse = self.coarse(self.down_2(middle))
        middle = self.middle_up(middle + F.interpolate(self.up_2(coarse), scale_factor=2.0))
        out: Tensor = self.fine_up(fine + F.interpolate(self.up_1(middle), scale_factor=2.0))
        return out


def to_cells(labels: Tensor, patch: int) -> Tensor:
    """(B, X, Y, Z) -> (B, X/patch, Y/patch, patch * patch * Z)."""
    batch, size_x, size_y, _ = labels.shape
    columns = packed(labels)
    split = columns.view(batch, size_x // patch, patch, size_y // patch, patch, -1).transpose(2, 3).contiguous()
    return split.view(torch.uint8).view(batch, size_x // patch, size_y // patch, -1)


def from_cells(cells: Tensor, patch: int, grid: VoxelGrid) -> Tensor:
    """The inverse of `to_cells`."""
    batch, rows, columns = cells.shape[:3]
    split = packed(cells.view(batch, rows, columns, patch, patch, grid.shape[2]))
    return split.transpose(2, 3).contiguous().view(torch.uint8).view(batch, *grid.shape)


def best_class(logits: Tensor) -> Tensor:
    """Arg max (N,) uint8 of logits (K, N), at most 32 classes outermost; overwrites them on a CPU.

    There the lowest five bits of each logit make room for its class, so that one vectorised maximum finds both: several
    times faster than argmax, and wrong only where logits agree to 4e-6 relative.
    """
    if logits.device.type != "cpu" or logits.dtype != torch.float32:
        return logits.argmax(0).to(torch.uint8)
    classes = torch.arange(len(logits), dtype=torch.int32, device=logits.device)[:, None]
    packed = logits.view(torch.int32).bitwise_and_(-32).bitwise_or_(classes).view(torch.float32)
    return packed.amax(0).view(torch.int32).bitwise_and_(31).to(torch.uint8)
