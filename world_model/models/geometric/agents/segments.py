"""Objects out of voxels: the columns of movable voxels, grouped into objects by class, contact and usual size.

Legend: B grids, (X, Y, Z) voxels, N columns with something movable, S segments of all grids.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.core.grid import CLASS_ID, NUM_CLASSES, VoxelGrid
from world_model.core.sparse import nonzero_indices
from world_model.models.geometric.evidence import is_movable

SIZES_M = {
    # length, width, height: means of the annotated boxes of nuScenes (Caesar et al., CVPR 2020)
    "bicycle": (1.70, 0.60, 1.28),
    "bus": (11.1, 2.93, 3.47),
    "car": (4.62, 1.95, 1.73),
    "construction_vehicle": (6.37, 2.85, 3.19),
    "motorcycle": (2.11, 0.77, 1.47),
    "pedestrian": (0.73, 0.67, 1.77),
    "trailer": (12.3, 2.90, 3.87),
    "truck": (6.93, 2.51, 2.84),
}
"""Usual sizes by class."""
REACH = 2
"""Columns of one vehicle may lie so far apart: gaps of a sensor's view."""
SMALL = ("bicycle", "motorcycle", "pedestrian")
"""Classes whose members stand close together: their columns touch."""
TOO_LONG, TOO_WIDE = 1.5, 1.7
"""Times the usual size from which a segment holds several objects."""
BETWEEN_M = 0.5
"""Space between objects that stand side by side."""
MOST_PARTS = 16


def usual_sizes(device: torch.device) -> Tensor:
    """(18, 3) usual length, width and height in metres by class id; zeros for what can't move."""
    table = torch.zeros(NUM_CLASSES, 3, dtype=torch.float32, device=device)
    for name, size in SIZES_M.items():
        table[CLASS_ID[name]] = torch.tensor(size, device=device)
    return table


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of B grids that hold something movable.

    Attributes:
        place: (N,) int64 positions (b * X + x) * Y + y, ascending.
        grid: (N,) int64 b.
        xy: (N, 2) float32 their middles, ego metres.
        label: (N,) int64 the movable class that most of its movable voxels have.
        count: (N,) float32 voxels of that class.
    """

    place: Tensor
    grid: Tensor
    xy: Tensor
    label: Tensor
    count: Tensor


def movable_columns(labels: Tensor, grid: VoxelGrid) -> Columns:
    """The movable columns of labels (B, X, Y, Z) uint8."""
    size_x, size_y, size_z = labels.shape[1:]
    voxel = nonzero_indices(is_movable(labels))
    place, row = torch.unique_consecutive(voxel // size_z, return_inverse=True)
    votes = torch.zeros(len(place), NUM_CLASSES, dtype=torch.float32, device=labels.device)
    name = labels.reshape(-1).index_select(0, voxel).long()
    votes.view(-1).index_add_(0, row * NUM_CLASSES + name, torch.ones_like(votes[:1, 0]).expand(len(voxel)))
    count, label = votes.max(1)
    xy = torch.stack((place // size_y % size_x, place % size_y), 1).float()
    low = xy.new_tensor(grid.lower_m[:2])
    middle = low + grid.voxel_m * (xy + 0.5)
    return Columns(place=place, grid=place // (size_x * size_y), xy=middle, label=label, count=count)


def segments(columns: Columns, going: Tensor, grid: VoxelGrid) -> Tensor:
    """(N,) int64 number of the segment of every column, 0 .. S - 1.

    Columns of one class that touch (of vehicles: within `REACH`), all moving or all standing, are one segment; where it
    is longer or wider than two of its class could be, it is cut into equal parts along its longer axis.

    Args:
        columns: N columns.
        going: (N,) bool, whether what stands there moves.
        grid: the voxel grid.
    """
    if not len(columns.place):
        return columns.place
    number = _connected(columns, columns.label * 2 + going, grid)
    return _cut(columns, number, grid.voxel_m)


def _connected(columns: Columns, key: Tensor, grid: VoxelGrid) -> Tensor:
    """Components of columns (N,) of equal key, numbered 0 .. S - 1."""
    size_x, size_y = grid.shape[:2]
    total, device = len(columns.place), columns.place.device
    row = torch.full((int(columns.grid[-1] + 1) * size_x * size_y,), -1, dtype=torch.long, device=device)
    own = torch.arange(total, device=device)
    row[columns.place] = own
    x, y = columns.place // size_y % size_x, columns.place % size_y
    small = small_classes(device)[columns.label]
    beside = []
    for p in range(-REACH, REACH + 1):
        for q in range(-REACH, REACH + 1):
            inside = (x + p >= 0) & (x + p < size_x) & (y + q >= 0) & (y + q < size_y)
            inside &= ~small if max(abs(p), abs(q)) > 1 else inside
            other = row[torch.where(inside, columns.place + p * size_y + q, columns.place)]
            beside.append(torch.where(inside & (other >= 0) & (key[other] == key), other, own))
    neighbour, label = torch.stack(beside), own
    while True:
        # Every column takes the largest number around it, and then what that one has found.
        larger = label[neighbour].amax(0)
        larger = larger[larger]
        if bool((larger == label).all()):
            numbers: Tensor = torch.unique(label, return_inverse=True)[1]
            return numbers
        label = larger


def _cut(columns: Columns, number: Tensor, voxel_m: float) -> Tensor:
    """Segments (N,) cut where they are larger than one object of their class."""
    shape = measure(columns.xy, number)
    usual = usual_sizes(number.device)[columns.label]
    offset = columns.xy - shape.middle[number]
    axis = shape.axis[number]
    along = (offset * axis).sum(1)
    across = offset[:, 1] * axis[:, 0] - offset[:, 0] * axis[:, 1]
    (low, high), (left, right) = (bounds(part, number) for part in (along, across))
    # A column is as wide as a voxel.
    long, wide = (high - low + voxel_m)[number], (right - left + voxel_m)[number]
    unit = torch.where(wide > TOO_WIDE * usual[:, 1], usual[:, 1] + BETWEEN_M, usual[:, 0])
    parts = torch.where(long > TOO_LONG * torch.maximum(usual[:, 0], unit), (long / unit).round(), 1.0)
    parts = parts.clamp(1, MOST_PARTS)
    share = (along - low[number] + voxel_m / 2) / long
    part = (share * parts).floor().clamp(max=MOST_PARTS - 1).long()
    numbers: Tensor = torch.unique(number * MOST_PARTS + part, return_inverse=True)[1]
    return numbers


def bounds(value: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    """Least and largest value (S,) of the columns (N,) of each segment."""
    total = int(number.max()) + 1
    zero = value.new_zeros(total)
    low = zero.scatter_reduce(0, number, value, "amin", include_self=False)
    return low, zero.scatter_reduce(0, number, value, "amax", include_self=False)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Ground plans of S segments.

    Attributes:
        count: (S,) columns.
        middle: (S, 2) mean of their middles, metres.
        axis: (S, 2) unit vector along which they are longest.
    """

    count: Tensor
    middle: Tensor
    axis: Tensor


def small_classes(device: torch.device) -> Tensor:
    """(18,) bool, by class id, whether it is one of `SMALL`."""
    table = torch.zeros(NUM_CLASSES, dtype=torch.bool, device=device)
    table[[CLASS_ID[name] for name in SMALL]] = True
    return table


def measure(xy: Tensor, number: Tensor) -> Shape:
    """The ground plans of segments of columns at xy (N, 2)."""
    total = int(number.max()) + 1
    count = xy.new_zeros(total).index_add_(0, number, torch.ones_like(xy[:, 0]))
    middle = xy.new_zeros(total, 2).index_add_(0, number, xy) / count[:, None]
    x, y = (xy - middle[number]).unbind(1)
    moments = torch.stack((x * x, x * y, y * y), 1)
    xx, xy_, yy = (xy.new_zeros(total, 3).index_add_(0, number, moments)).unbind(1)
    angle = torch.atan2(2 * xy_, xx - yy) / 2
    return Shape(count=count, middle=middle, axis=torch.stack((angle.cos(), angle.sin()), 1))
