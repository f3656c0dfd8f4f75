"""How fast things move: velocities read off the observed frames.

Observed frames, aligned by the ego motion, differ where something moved by itself. The network sees the movable voxels
of all of them at once; boxes of the training data are the target (any detector's or annotator's boxes will do).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.core.grid import FREE
from world_model.core.ground import ground_shift
from world_model.core.sparse import count_in_columns
from world_model.models.geometric.config import GeometricConfig
from world_model.models.geometric.evidence import is_movable
from world_model.models.layers import LabelStem, UNet, to_cells

SPEED_SCALE_MPS = 5.0
RIGID_COLUMNS = 9
"""What moves within so many columns (3.6 m) of each other moves as one: their mean is more exact than each."""

MIRRORS: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))
"""Axes along which maps (B, C, X, Y) are mirrored: none, y, x, both."""


class MotionNet(nn.Module):
    """Aligned frames -> velocity of the objects in each cell."""

    def __init__(self, config: GeometricConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = LabelStem(config.slots, config.width)
        self.enter = nn.Conv2d(config.observed * config.patch**2, config.width, 3, padding=1)
        self.body = UNet(config.width)
        self.out = nn.Conv2d(config.width, 3, 1)
        with torch.no_grad():
            assert self.out.bias is not None
            # Most things stand; without boxes in the data, everything does.
            self.out.bias[2] = -2.0

    def forward(self, aligned: Tensor) -> tuple[Tensor, Tensor]:
        """Read velocities.

        Args:
            aligned: (B, P, X, Y, Z) labels in the current ego frame, newest first.

        Returns:
            (B, 2, Xc, Yc) velocity if it moves, m/s; (B, Xc, Yc) logit that it moves.
        """
        return self._read(*movable_of(aligned, self.config.ground_relative))

    def mirror_average(self, aligned: Tensor) -> tuple[Tensor, Tensor]:
        """Test-time augmentation: the mean of `forward` over the frames and their mirror images.

        A mirrored world moves the mirrored way, and the network's errors in the two are not the same.
        """
        height, now = movable_of(aligned, self.config.ground_relative)
        speeds, moves = [], []
        for axes in MIRRORS:
            speed, going = self._read(height.flip(axes), now.flip([axis - 1 for axis in axes]))
            sign = speed.new_tensor([-1.0 if axis in axes else 1.0 for axis in (2, 3)])
            speeds.append(speed.flip(axes) * sign.view(2, 1, 1))
            moves.append(going.flip([axis - 1 for axis in axes]))
        return torch.stack(speeds).mean(0), torch.stack(moves).mean(0)

    def _read(self, height: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` of what `movable_of` returns."""
        (batch, past, size_x, size_y), patch = height.shape, self.config.patch
        cells = height.view(batch, past, size_x // patch, patch, size_y // patch, patch).permute(0, 1, 3, 5, 2, 4)
        classes = self.stem(to_cells(now, patch)).permute(0, 3, 1, 2)
        out = self.out(self.body(self.enter(cells.flatten(1, 3)) + classes))
        return out[:, :2] * SPEED_SCALE_MPS, out[:, 2]

    def velocity(self, aligned: Tensor, *, mirrored: bool = True) -> Tensor:
        """Velocity of the movable columns of the current frame.

        Args:
            aligned: (B, P, X, Y, Z) labels in the current ego frame, newest first.
            mirrored: average over mirror images (`mirror_average`): more exact, at four times the cost.

        Returns:
            (B, X, Y, 2) m/s, zero where nothing moves.
        """
        return self.of_movers(aligned, *self.by_column(aligned, mirrored=mirrored))

    def of_movers(self, aligned: Tensor, speed: Tensor, going: Tensor) -> Tensor:
        """`velocity` from what `by_column` returns."""
        mover = (going & is_movable(aligned[:, 0]).any(-1)[:, None]).to(speed.dtype)
        return rigid(speed, mover).permute(0, 2, 3, 1)

    def by_column(self, aligned: Tensor, *, mirrored: bool = True) -> tuple[Tensor, Tensor]:
        """Velocity (B, 2, X, Y) in m/s of what moves in each column, and whether it does (B, 1, X, Y) bool."""
        speed, moves = self.mirror_average(aligned) if mirrored else self(aligned)
        patch = float(self.config.patch)
        return F.interpolate(speed, scale_factor=patch), F.interpolate(moves[:, None], scale_factor=patch) > 0


def movable_of(aligned: Tensor, ground_relative: bool) -> tuple[Tensor, Tensor]:
    """What moves or may move, of frames (B, P, X, Y, Z), newest first; with heights above the local ground, or not.

    Returns:
        (B, P, X, Y) four times the share of movable voxels of each column: enough to see where an object was, whatever
        its class; (B, X, Y, Z) the movable labels of the newest frame, free elsewhere.
    """
    movable = is_movable(aligned)
    now = torch.where(movable[:, 0], aligned[:, 0], FREE)
    return count_in_columns(movable).float() * (4 / movable.shape[-1]), ground_shift(aligned[:, 0]).lowered(
        now
    ) if ground_relative else now


def rigid(velocity_mps: Tensor, mover: Tensor, columns: int = RIGID_COLUMNS) -> Tensor:
    """Mean velocity of the movers around each mover.

    Args:
        velocity_mps: (B, 2, X, Y).
        mover: (B, 1, X, Y), 1 where something moves, else 0.
        columns: edge of the square that the mean is taken over, odd.

    Returns:
        (B, 2, X, Y), zero where nothing moves.
    """
    total = F.avg_pool2d(velocity_mps * mover, columns, 1, columns // 2)
    return total / F.avg_pool2d(mover, columns, 1, columns // 2).clamp(min=1e-6) * mover
