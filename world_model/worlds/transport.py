"""The baseline to beat: the last observed occupancy, moved by the ego motion. Nothing else in it moves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.core.geometry import invert_pose, warp_voxels
from world_model.core.grid import OCC3D, VoxelGrid
from world_model.core.tensor_state import TensorState
from world_model.data.clips import Clips


@dataclass(frozen=True, kw_only=True)
class TransportState(TensorState):
    """B frozen surroundings.

    Attributes:
        labels: (B, X, Y, Z) uint8 observed at reset.
        ego_to_start: (B, 4, 4) float32 current ego frame -> ego frame at reset, metres.
    """

    labels: Tensor
    ego_to_start: Tensor


class TransportWorld:
    """A static world that needs no model.

    Args:
        grid: voxel grid of the labels.
        device: where the states live.
    """

    needs_future_labels = False

    def __init__(self, grid: VoxelGrid = OCC3D, device: str | torch.device = "cpu") -> None:
        self.grid, self.device = grid, torch.device(device)

    def reset(self, clips: Clips) -> TransportState:
        labels = clips.occupancy[:, -1].to(self.device)
        return TransportState(
            labels=labels, ego_to_start=torch.eye(4, dtype=torch.float32, device=self.device).repeat(len(labels), 1, 1)
        )

    def step(self, state: TransportState, curr_to_next: Tensor, command: Tensor) -> TransportState:
        return TransportState(labels=state.labels, ego_to_start=state.ego_to_start @ invert_pose(curr_to_next))

    def occupancy(self, state: TransportState) -> Tensor:
        # Always from the labels of the reset: a warp of a warp would blur the voxels step after step.
        return warp_voxels(state.labels, state.ego_to_start, self.grid)
