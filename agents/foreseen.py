"""Train in a learned world at the price of a replay: each start is forecast once, then seen from where the ego is.

The learned world is rolled out along the recorded motion at the reset of a start. The episode moves through these
forecasts as `ReplayWorld` moves through recorded labels. In a world whose surroundings do not react to the ego this is
the world itself, but for what the view from another place would have shown. With kept start states
(``--kept-mib``) and few starts (``--starts-per-scene``) nearly all of training costs no model forward.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from world_model.core.geometry import invert_pose, level_poses
from world_model.core.grid import VoxelGrid
from world_model.data.clips import Clips
from world_model.rollouts.rollout import roll
from world_model.worlds import build_world
from world_model.worlds.kinds import Checkpoint
from world_model.worlds.replay import ReplayState, ReplayWorld

STEPS = 16
"""Forecast steps of 0.5 s; an episode that lasts longer sees the last one on."""


class Foreseen(ReplayWorld):
    """``world="agents.foreseen:Foreseen"``: forecasts of the checkpoint's learned world, replayed.

    Args:
        checkpoint: of the learned world; None is the bundled one.
        device: where it computes.
        grid: its grid.
    """

    needs_future_labels = False

    def __init__(self, *, checkpoint: Checkpoint = None, device: torch.device, grid: VoxelGrid) -> None:
        self.learned = build_world("learned", checkpoint=checkpoint, device=str(device))
        super().__init__(self.learned.grid, device)

    def reset(self, clips: Clips) -> ReplayState:
        past = clips.past
        poses = level_poses(clips.ego_to_global[:, past : past + STEPS + 1])
        curr_to_next = invert_pose(poses[:, 1:]) @ poses[:, :-1]
        rolled = roll(self.learned, clips, clips.command[:, past : past + curr_to_next.shape[1]], curr_to_next)
        later = torch.stack([rolled.occupancy[step].cpu() for step in sorted(rolled.occupancy)], 1)
        return super().reset(replace(clips, future_occupancy=later))
