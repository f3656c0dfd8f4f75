"""What geometry knows of a frame that was not observed.

Most of the next frame is the present one seen from a new place: rigid motion explains it, so it is moved, never
predicted. Objects that move by themselves are moved along their own velocity as well. Everything is sampled straight
from the labels that were observed, however many steps ago: a warp of a warp would blur them.

A vehicle on a road moves in the plane, and everything it sees keeps its height: one index per bird's-eye column moves
sixteen voxels (`ColumnMove`). What tilt there is between two frames lifts or lowers whole columns.

Legend: B grids, (X, Y, Z) voxels, N some columns by their position (b * X + x) * Y + y in all grids; source the frame
that labels come from, target the frame to fill.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.core.geometry import TIE, invert_pose, take_columns
from world_model.core.grid import FREE, MOVABLE, STATIC, VoxelGrid
from world_model.core.sparse import any_in_columns, member, nonzero_indices
from world_model.core.tensor_state import TensorState

UNKNOWN, FORECAST, OBSERVED = 0, 1, 2
"""Where the evidence of a column comes from: nowhere, the previous forecast, an observed frame."""


@dataclass(frozen=True, kw_only=True)
class Observation(TensorState):
    """What was seen around B vehicles, in the ego frame of the current keyframe.

    Attributes:
        still: (B, X, Y, Z) uint8 labels of the current keyframe without what moves.
        movers: (B, X, Y, Z) uint8 labels of what moves, free elsewhere.
        memory: (B, X, Y, Z) uint8 static labels that earlier keyframes saw where the current one has nothing, and the
            movers at their old place.
        velocity_mps: (B, X, Y, 2) ground velocity of the columns with movers; zero elsewhere.
    """

    still: Tensor
    movers: Tensor
    memory: Tensor
    velocity_mps: Tensor

    @property
    def labels(self) -> Tensor:
        """(B, X, Y, Z) uint8 labels of the current keyframe."""
        return torch.where(self.movers != FREE, self.movers, self.still)


def observe(aligned: Tensor, velocity_mps: Tensor) -> Observation:
    """Sort what was seen.

    Args:
        aligned: (B, P, X, Y, Z) labels in the current ego frame, newest first.
        velocity_mps: (B, X, Y, 2) of what moves, zero elsewhere.
    """
    now = aligned[:, 0]
    moving = is_movable(now) & (velocity_mps.abs().amax(-1) > 0)[..., None]
    movers = torch.where(moving, now, FREE)
    return Observation(
        still=now.masked_fill(moving, FREE),
        movers=movers,
        memory=torch.where(moving, now, remember(aligned)),
        velocity_mps=velocity_mps * any_in_columns(moving)[..., None],
    )


@dataclass(frozen=True, kw_only=True)
class PreviousForecast:
    """What was forecast one step before.

    Attributes:
        labels: (B, X, Y, Z) uint8, in the frame of that step.
        move: from that frame into the target frame; inside are the columns that were in view then.
    """

    labels: Tensor
    move: ColumnMove


@dataclass(frozen=True, kw_only=True)
class Evidence(TensorState):
    """What geometry expects in the target frame.

    Attributes:
        labels: (B, X, Y, Z) uint8, movers at their new place.
        memory: (B, X, Y, Z) uint8, what was seen earlier, and movers where they were.
        visibility: (B, X, Y) uint8, `UNKNOWN`, `FORECAST` or `OBSERVED`.
        displacement_m: (B, X, Y, 2) how far the objects in a column have moved by themselves, target axes.
        elapsed_s: (B,) time since the observation.
    """

    labels: Tensor
    memory: Tensor
    visibility: Tensor
    displacement_m: Tensor
    elapsed_s: Tensor


def is_movable(labels: Tensor) -> Tensor:
    """Where labels are of a class that can move."""
    return member(labels, MOVABLE)


def align_past(labels: Tensor, frame_to_current: Tensor, grid: VoxelGrid) -> Tensor:
    """Observed frames in the frame of the newest.

    Args:
        labels: (B, P, X, Y, Z) oldest first, the last is the current one.
        frame_to_current: (B, P, 4, 4) ego frame of each -> current ego frame, metres.
        grid: the voxel grid.

    Returns:
        (B, P, X, Y, Z), **newest first**.
    """
    frames = [labels[:, -1]]
    for p in range(labels.shape[1] - 2, -1, -1):
        frames.append(column_move(invert_pose(frame_to_current[:, p]), grid).take(labels[:, p]))
    return torch.stack(frames, 1)


def previous_forecast(labels: Tensor, target_to_previous: Tensor, grid: VoxelGrid) -> PreviousForecast:
    """Labels (B, X, Y, Z) that were forecast for the previous frame, as evidence for the target frame."""
    return PreviousForecast(labels=labels, move=column_move(target_to_previous, grid))


def without_movers(
    labels: Tensor, seen: Observation, displacement_m: Tensor, target_to_source: Tensor, grid: VoxelGrid
) -> Tensor:
    """Labels (B, X, Y, Z) of the target frame, a copy without the movers that `gather_evidence` places there.

    What was forecast is remembered where nothing was observed. A mover that is remembered with it would stay there as a
    ghost, one at each step.
    """
    moving = (seen.velocity_mps != 0).any(-1)
    column = arrivals(displacement_m, moving, invert_pose(target_to_source.float()), grid).column
    cleared = labels.clone()
    rows = cleared.view(-1, labels.shape[-1])
    rows[column] = rows[column].masked_fill(is_movable(rows[column]), FREE)
    return cleared


def remember(aligned: Tensor) -> Tensor:
    """The static labels of earlier frames, the newest that saw anything; aligned (B, P, X, Y, Z), newest first."""
    memory = torch.full_like(aligned[:, 0], FREE)
    for p in range(aligned.shape[1] - 1, 0, -1):
        frame = aligned[:, p]
        memory = torch.where(member(frame, STATIC), frame, memory)
    return memory.masked_fill_(member(aligned[:, 0], (FREE,)).logical_not_(), FREE)


def gather_evidence(
    seen: Observation,
    target_to_source: Tensor,
    elapsed_s: Tensor,
    grid: VoxelGrid,
    *,
    displacement_m: Tensor | None = None,
    previous: PreviousForecast | None = None,
    draw: Callable[[Tensor], Tensor] | None = None,
) -> Evidence:
    """Move what was seen into a target frame.

    Args:
        seen: the observation, in the source frame.
        target_to_source: (B, 4, 4) target ego frame -> source ego frame, metres.
        elapsed_s: (B,) time since the observation.
        grid: the voxel grid.
        displacement_m: (B, X, Y, 2) how far each source column has moved by now, source axes; None: at the observed
            velocity all the time.
        previous: the forecast of the step before, for columns that were never observed; or None.
        draw: puts whole bodies into labels (B, X, Y, Z) of the target frame, in place, and returns how far those in
            each column have moved by themselves (B, X, Y, 2), target axes; then only other movers have a velocity.
    """
    still = column_move(target_to_source, grid)
    labels, memory = still.take(seen.still), still.take(seen.memory)
    if displacement_m is None:
        displacement_m = seen.velocity_mps * elapsed_s.view(-1, 1, 1, 1)
    moving = (seen.velocity_mps != 0).any(-1)
    arrived = arrivals(displacement_m, moving, invert_pose(target_to_source.float()), grid)
    visibility = still.inside.to(torch.uint8) * OBSERVED
    if previous is not None:
        _fill_unobserved(labels, visibility, previous)
    # After the forecast of the step before: movers are also where nothing was ever observed.
    displacement = _place_movers(labels, seen.movers, target_to_source, arrived, grid)
    if draw is not None:
        bodies = draw(labels)
        displacement = torch.where((bodies != 0).any(-1, keepdim=True), bodies, displacement)
    return Evidence(
        labels=labels, memory=memory, visibility=visibility, displacement_m=displacement, elapsed_s=elapsed_s
    )


def _fill_unobserved(labels: Tensor, visibility: Tensor, previous: PreviousForecast) -> None:
    """Take what was forecast before in the columns that were never observed; writes into both tensors."""
    columns = nonzero_indices(visibility == UNKNOWN)
    move = previous.move.at(columns)
    labels.view(-1, labels.shape[-1])[columns] = move.take(previous.labels)
    visibility.view(-1)[columns] = move.inside.to(torch.uint8) * FORECAST


def _place_movers(
    labels: Tensor, movers: Tensor, target_to_source: Tensor, arrived: Arrivals, grid: VoxelGrid
) -> Tensor:
    """Put what moves into the labels of the target frame, in place.

    Returns:
        (B, X, Y, 2) how far the objects in a column have moved by themselves, target axes.
    """
    rows = labels.view(-1, labels.shape[-1])
    moved = moved_columns(target_to_source, arrived, grid).take(movers)
    here = moved != FREE
    rows[arrived.column] = torch.where(here, moved, rows[arrived.column])
    rotation = target_to_source.float()[arrived.column // (grid.shape[0] * grid.shape[1]), :2, :2]
    rotated = torch.einsum("ni,nij->nj", arrived.displacement_m, rotation) * here.any(-1, keepdim=True)
    displacement = rotated.new_zeros(len(rows), 2).index_copy_(0, arrived.column, rotated)
    return displacement.view(*labels.shape[:3], 2)


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
    return ColumnMove(index=index, inside=inside, lift=lift_of(matrix, x, y, voxel))


def lift_of(matrix: Tensor, x: Tensor, y: Tensor, voxel: float) -> Tensor | None:
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
    point = torch.stack((i, j), -1).to(moved) * grid.voxel_m + grid.voxel_m / 2 + low + moved
    matrix = source_to_target.float()[b]
    place = (matrix[:, :2, :2] @ point[..., None])[..., 0] + matrix[:, :2, 3]
    x, y = ((place - low) / grid.voxel_m + TIE).floor().long().unbind(-1)
    ok = (x >= 0) & (x < size_x) & (y >= 0) & (y < size_y)
    hit, last = last_of(((b * size_x + x) * size_y + y)[ok])
    return _widened(Arrivals(column=hit, displacement_m=moved[ok][last]), len(movers), grid)


def _unflat(column: Tensor, grid: VoxelGrid) -> tuple[Tensor, Tensor, Tensor]:
    """Grid, x and y of columns (N,)."""
    size_x, size_y, _ = grid.shape
    return column // (size_x * size_y), column // size_y % size_x, column % size_y


def last_of(index: Tensor) -> tuple[Tensor, Tensor]:
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
