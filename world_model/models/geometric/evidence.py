"""What geometry knows of a frame that was not observed.

Most of the next frame is the present one seen from a new place: rigid motion explains it, so it is moved, never
predicted. Objects that move by themselves are moved along their own velocity as well. Everything is sampled straight
from the labels that were observed, however many steps ago: a warp of a warp would blur them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.core.geometry import invert_pose
from world_model.core.grid import FREE, MOVABLE, STATIC, VoxelGrid
from world_model.core.sparse import member, nonzero_indices
from world_model.core.tensor_state import TensorState
from world_model.models.geometric.columns import Arrivals, ColumnMove, arrivals, column_move, moved_columns

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
        velocity_mps=velocity_mps * moving.any(-1, keepdim=True),
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


def remember(aligned: Tensor) -> Tensor:
    """The static labels of earlier frames, the newest that saw anything; aligned (B, P, X, Y, Z), newest first."""
    still = member(aligned, STATIC)
    memory = torch.full_like(aligned[:, 0], FREE)
    for p in range(aligned.shape[1] - 1, 0, -1):
        memory = torch.where(still[:, p], aligned[:, p], memory)
    return torch.where(member(aligned[:, 0], (FREE,)), memory, FREE)


def gather_evidence(
    seen: Observation,
    target_to_source: Tensor,
    elapsed_s: Tensor,
    grid: VoxelGrid,
    *,
    displacement_m: Tensor | None = None,
    previous: PreviousForecast | None = None,
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
    """
    moving = (seen.velocity_mps != 0).any(-1)
    if displacement_m is None:
        displacement_m = seen.velocity_mps * elapsed_s.view(-1, 1, 1, 1)
    still = column_move(target_to_source, grid)
    labels, memory = still.take(seen.still), still.take(seen.memory)
    arrived = arrivals(displacement_m, moving, invert_pose(target_to_source.float()), grid)
    displacement = _place_movers(labels, seen.movers, target_to_source, arrived, grid)
    visibility = still.inside.to(torch.uint8) * OBSERVED
    if previous is not None:
        _fill_unobserved(labels, visibility, previous)
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
