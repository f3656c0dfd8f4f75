"""What the observed frames of a recording say about the moment at which an episode begins."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ii_world_env.ego.footprint import FootprintConfig, ground_votes, solid_columns
from world_model.core.geometry import invert_pose, level_poses, planar_pose, warp_voxels
from world_model.core.grid import STEP_S, VoxelGrid
from world_model.core.ground import on_level_ground
from world_model.data.clips import Clips

STEP_TOLERANCE_S = 0.1
"""Frames farther from half a second apart say nothing about the motion of a step."""


def observed_ground(clips: Clips, grid: VoxelGrid, config: FootprintConfig) -> Tensor:
    """Votes (B, X, Y) int8 of `ground_votes` of all observed frames, laid over each other in the start frame."""
    past = clips.past
    votes = ground_votes(on_level_ground(clips.occupancy.flatten(0, 1)), grid, config)
    planar = level_poses(clips.ego_to_global[:, : past + 1])
    # Start frame (the last one) -> each observed frame.
    to_observed = (invert_pose(planar) @ planar[:, -1:]).flatten(0, 1)
    moved = warp_voxels(votes[..., None], to_observed, grid, fill=0)
    return moved.view(*clips.occupancy.shape[:4]).sum(1, dtype=torch.int8)


def observed_before(clips: Clips, grid: VoxelGrid, config: FootprintConfig) -> tuple[Tensor, Tensor]:
    """The observed frame before the current one: `solid_columns` (B, X, Y) uint8 in its ego frame, and its pose (B, 3)
    in the current one; NaN where there is none, or not half a second ago."""
    before = max(clips.past - 1, 0)
    pair = clips.ego_to_global[:, [clips.past, before]]
    pose = planar_pose(level_poses(pair)[:, 1]).float()
    known = clips.valid[:, before] & (clips.past > 0)
    if clips.past:
        known = known & ((clips.dt_s[:, before] - STEP_S).abs() < STEP_TOLERANCE_S)
    return solid_columns(on_level_ground(clips.occupancy[:, before].contiguous()), grid, config), pose.masked_fill(
        ~known[:, None], math.nan
    )


def motion_at(clips: Clips, frame: int) -> Tensor:
    """(B, 3) velocity and yaw rate at a frame: the mean of the recorded steps into and out of it."""
    both = clips.valid[:, frame] & clips.valid[:, frame + 1]
    mean = (clips.motion[:, frame] + clips.motion[:, frame + 1]) / 2
    return torch.where(both[:, None], mean, clips.motion[:, frame])
