"""The logged occupancy, seen from where the ego is now: agents move as recorded and do not react.

Beyond the end of the recording the last frame stays. Where nothing is known the world is free.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from world_model.core.errors import DataError
from world_model.core.geometry import invert_pose, level_poses, warp_voxels
from world_model.core.grid import OCC3D, VoxelGrid
from world_model.core.tensor_state import TensorState
from world_model.data.clips import Clips
from world_model.data.labels import unknown_as_free


@dataclass(frozen=True, kw_only=True)
class ReplayState(TensorState):
    """B recordings and where the ego is in them.

    Attributes:
        labels: (B, N, X, Y, Z) uint8 recorded from the reset on, N = F + 1.
        start_to_log: (B, N, 4, 4) float32 planar transforms, ego frame at reset -> recorded ego frame.
        ego_to_start: (B, 4, 4) float32 current ego frame -> ego frame at reset.
        time: (B,) int64 steps since the reset.
    """

    labels: Tensor
    start_to_log: Tensor
    ego_to_start: Tensor
    time: Tensor


class ReplayWorld:
    """Recorded occupancy re-posed to the ego's own path.

    Args:
        grid: voxel grid of the labels.
        device: where the states live.
    """

    needs_future_labels = True

    def __init__(self, grid: VoxelGrid = OCC3D, device: str | torch.device = "cpu") -> None:
        self.grid, self.device = grid, torch.device(device)

    def reset(self, clips: Clips) -> ReplayState:
        """Start a replay.

        Raises:
            DataError: the clips hold no labels of future frames.
        """
        if clips.future_occupancy is None:
            raise DataError(
                "the clips hold no labels of future frames",
                "clips with future_occupancy",
                "load them with load_clips(..., with_future_labels=True)",
            )
        labels = unknown_as_free(torch.cat((clips.occupancy[:, -1:], clips.future_occupancy), 1).to(self.device))
        return self.begin(labels, clips.ego_to_global[:, clips.past : clips.past + labels.shape[1]])

    def begin(self, labels: Tensor, ego_to_global: Tensor) -> ReplayState:
        """Replay frames that are given: labels (B, N, X, Y, Z) on the world's device, poses (B, N, 4, 4) float64."""
        batch = len(labels)
        return ReplayState(
            labels=labels,
            start_to_log=invert_pose(level_poses(ego_to_global)).float().to(self.device),
            ego_to_start=torch.eye(4, dtype=torch.float32, device=self.device).repeat(batch, 1, 1),
            time=torch.zeros(batch, dtype=torch.long, device=self.device),
        )

    def step(self, state: ReplayState, curr_to_next: Tensor, command: Tensor) -> ReplayState:
        return replace(
            state,
            ego_to_start=state.ego_to_start @ invert_pose(curr_to_next),
            time=(state.time + 1).clamp(max=state.labels.shape[1] - 1),
        )

    def occupancy(self, state: ReplayState) -> Tensor:
        row = torch.arange(len(state.time), device=self.device)
        ego_to_log = state.start_to_log[row, state.time] @ state.ego_to_start
        return warp_voxels(state.labels[row, state.time], ego_to_log, self.grid)
