"""A car rides on its road: where a motion is level and the ground is not, the ground says how the ego frame stands.

nuScenes' poses have height 0, and the environment's ego vehicle moves in a plane. The labels of the next keyframe are
given in a frame that climbs, pitches and rolls with the road all the same. A plane through the observed road around
the ego, at the reset and where it will be, says how far. A motion with a height or a tilt of its own is left as it is.

Legend: B moments, (X, Y, Z) voxels, (U, V) cells of `CELL` x `CELL` columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.core.grid import DRIVEABLE, VoxelGrid
from world_model.core.ground import lowest_index
from world_model.core.sparse import member
from world_model.core.tensor_state import TensorState

CELL = 4
"""Columns along each side of a cell."""
SMOOTH = 9
"""Cells along each side over which the heights of the road are averaged."""
REACH_M = 8.0
"""Standard deviation of the weights of the ground around the ego: about the car's length before and behind it, and
wide enough for voxels of 0.4 m to show a slope."""
LEAST_COLUMNS = 30.0
"""Ground columns (weighted) that a plane needs."""
TRUST = 0.7
"""Share of the tilt that is believed; planes through voxels are rough."""
LEAST_TILT, LEAST_RISE_M = 0.01, 0.1
"""What is smaller is rounding, and nothing is corrected."""
STEADY = 1e-3
"""Variance (in `REACH_M`) that is added to that of the columns' places."""
LEVEL = 1e-4
"""Largest height (m) and tilt (rad) of a motion that counts as level."""


@dataclass(frozen=True, kw_only=True)
class RoadPlane(TensorState):
    """The driveable surface that was observed around B vehicles, in the ego frame of the observation.

    Attributes:
        sums: (B, 2, U, V) float32 sum of the heights (m) of the columns with road in a cell, and their number.
        start: (B, 4) float32 plane under the ego then: height (m), gradient along x and y, columns it is made of.
    """

    sums: Tensor
    start: Tensor

    @classmethod
    def of(cls, labels: Tensor, grid: VoxelGrid) -> RoadPlane:
        """The road of labels (B, X, Y, Z) uint8."""
        lowest, known = lowest_index(member(labels, (DRIVEABLE,)))
        height = (grid.lower_m[2] + grid.voxel_m * (lowest + 0.5)) * known
        sums = F.avg_pool2d(torch.stack((height, known), 1), CELL) * CELL**2
        return cls(sums=sums, start=fit_plane(sums, sums.new_zeros(len(sums), 2), grid))

    def blank(self, batch: int) -> RoadPlane:
        """No road was observed: every motion is left as it is."""
        return self.map(lambda value: value.new_zeros(batch, *value.shape[1:]))

    def heights(self) -> Tensor:
        """(B, U, V) height of the road in metres, averaged over `SMOOTH` cells; 0 where none was observed near."""
        height, count = F.avg_pool2d(self.sums, SMOOTH, 1, SMOOTH // 2).unbind(1)
        return height / count.clamp(min=1e-6)

    def climb(self, start: Tensor, end: Tensor, grid: VoxelGrid) -> Tensor:
        """(B, K) metres by which the road is higher at places ``end`` (B, K, 2) than at ``start``; 0 where it was not
        observed near both."""
        heights, count = self.heights(), F.avg_pool2d(self.sums[:, 1], SMOOTH, 1, SMOOTH // 2)
        row, low = torch.arange(len(heights), device=start.device)[:, None], start.new_tensor(grid.lower_m[:2])
        top = torch.tensor(heights.shape[1:], device=start.device) - 1
        cells = [
            torch.minimum(((place - low) / (CELL * grid.voxel_m)).floor().long().clamp(min=0), top)
            for place in (start, end)
        ]
        here, there = (heights[row, cell[..., 0], cell[..., 1]] for cell in cells)
        known = torch.minimum(*(count[row, cell[..., 0], cell[..., 1]] for cell in cells)) > 0
        return (there - here) * known

    def ride(self, ego_to_start: Tensor, grid: VoxelGrid) -> Tensor:
        """Later ego frames as the road lets them stand.

        Args:
            ego_to_start: (B, 4, 4) float32 later ego frame -> ego frame of the observation, metres.
            grid: the voxel grid.

        Returns:
            The same; level ones over known ground that differs from that at the start have its height and tilt.
        """
        pose, start = ego_to_start, self.start
        # Beyond the grid the grade at its edge goes on.
        edge = pose.new_tensor([-m for m in grid.lower_m[:2]])
        seen_m = torch.minimum(torch.maximum(pose[:, :2, 3], -edge), edge)
        plane = fit_plane(self.sums, seen_m, grid)
        level = (pose[:, 2, 3].abs() < LEVEL) & (pose[:, 2, :2].abs().amax(1) < LEVEL)
        known = torch.minimum(plane[:, 3], start[:, 3]) > LEAST_COLUMNS
        forward = F.normalize(pose[:, :2, 0], dim=1)
        left = torch.stack((-forward[:, 1], forward[:, 0]), 1)
        # What the ground had under the ego at the start, it has again.
        tilt = plane[:, 1:3] - forward * start[:, 1:2] - left * start[:, 2:3]
        tilt = tilt * TRUST * (tilt.norm(dim=1, keepdim=True) > LEAST_TILT)
        rise = plane[:, 0] - start[:, 0] + (plane[:, 1:3] * (pose[:, :2, 3] - seen_m)).sum(1)
        changed = level & known & ((rise.abs() > LEAST_RISE_M) | (tilt != 0).any(1))
        x = F.normalize(torch.cat((forward, (tilt * forward).sum(1, keepdim=True)), 1), dim=1)
        z = F.normalize(torch.cat((-tilt, torch.ones_like(rise[:, None])), 1), dim=1)
        ridden = pose.clone()
        ridden[:, :3, :3] = torch.stack((x, torch.linalg.cross(z, x), z), 2)
        ridden[:, 2, 3] = rise
        return torch.where(changed[:, None, None], ridden, pose)


def fit_plane(sums: Tensor, place_m: Tensor, grid: VoxelGrid) -> Tensor:
    """The plane through the ground around places, nearer ground counting more.

    Args:
        sums: see `RoadPlane`.
        place_m: (B, 2).
        grid: the voxel grid.

    Returns:
        (B, 4) float32 height at the place (m), gradient along x and y, and the columns (weighted) it is made of.
    """
    axes = []
    for axis, count in enumerate(sums.shape[2:]):
        center = torch.arange(count, dtype=torch.float32, device=sums.device) * (CELL * grid.voxel_m)
        center = center + grid.lower_m[axis] + CELL * grid.voxel_m / 2
        axes.append((center - place_m[:, axis : axis + 1]) / REACH_M)
    x, y = axes[0][:, :, None], axes[1][:, None, :]
    weight = torch.exp(-0.5 * (x * x + y * y))
    columns, height = sums[:, 1] * weight, sums[:, 0] * weight
    n, h, nx, ny, hx, hy, nxx, nxy, nyy = (
        part.flatten(1).sum(1)
        for part in (
            columns,
            height,
            columns * x,
            columns * y,
            height * x,
            height * y,
            columns * (x * x),
            columns * (x * y),
            columns * (y * y),
        )
    )
    safe = n.clamp(min=1e-6)
    # Centred moments; a little of the number of columns keeps a bare strip of road from tilting across itself.
    mx, my, mh = nx / safe, ny / safe, h / safe
    xx, yy = nxx - mx * nx + STEADY * n, nyy - my * ny + STEADY * n
    xy, xh, yh = nxy - mx * ny, hx - mx * h, hy - my * h
    determinant = (xx * yy - xy * xy).clamp(min=1e-9)
    along, across = (xh * yy - yh * xy) / determinant, (yh * xx - xh * xy) / determinant
    return torch.stack((mh - along * mx - across * my, along / REACH_M, across / REACH_M, n), 1)
