"""Train in a learned world at the price of a replay: each start is forecast once, then seen from where the ego is.

The learned world is rolled out along the recorded motion at the reset of a start. The episode moves through these
forecasts as `ReplayWorld` moves through recorded labels. In a world whose surroundings do not react to the ego this is
the world itself, but for what the view from another place would have shown. With kept start states
(``--kept-mib``) and few starts (``--starts-per-scene``) nearly all of training costs no model forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from world_model.core.geometry import invert_pose, level_poses, warp_voxels
from world_model.core.grid import VoxelGrid
from world_model.core.tensor_state import TensorState
from world_model.data.clips import Clips
from world_model.rollouts.rollout import roll
from world_model.worlds import build_world
from world_model.worlds.kinds import Checkpoint
from world_model.worlds.replay import ReplayWorld

STEPS = 16
"""Forecast steps of 0.5 s; an episode that lasts longer sees the last one on."""


@dataclass(frozen=True, kw_only=True)
class ForeseenState(TensorState):
    """B forecasts and where the ego is in them.

    Attributes:
        labels: (B) tensors (N, X, Y, Z) uint8, forecast from the reset on: N is 17, 11 MB that no step copies.
        start_to_log: (B, N, 4, 4) float32 planar transforms, ego frame at reset -> ego frame of each forecast.
        ego_to_start: (B, 4, 4) float32 current ego frame -> ego frame at reset.
        time: (B,) int64 steps since the reset.
    """

    labels: tuple[Tensor, ...]
    start_to_log: Tensor
    ego_to_start: Tensor
    time: Tensor

    def clone(self) -> ForeseenState:
        return replace(self.map(lambda value: value.clone()), labels=tuple(one.clone() for one in self.labels))

    def index(self, i: int | slice | Sequence[int] | Tensor) -> ForeseenState:
        rows = slice(i, i + 1 or None) if isinstance(i, int) else i if isinstance(i, Tensor | slice) else list(i)
        chosen = torch.arange(len(self.labels), device=self.time.device)[rows].tolist()
        return replace(self.map(lambda value: value[rows]), labels=tuple(self.labels[k] for k in chosen))

    def expand(self, n: int) -> ForeseenState:
        repeated = self.map(lambda value: value.repeat_interleave(n, 0))
        return replace(repeated, labels=tuple(one for one in self.labels for _ in range(n)))

    def map(self, change: Callable[[Tensor], Tensor]) -> ForeseenState:
        """A state with all but the forecasts changed."""
        start_to_log, ego_to_start = change(self.start_to_log), change(self.ego_to_start)
        return replace(self, start_to_log=start_to_log, ego_to_start=ego_to_start, time=change(self.time))


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

    def reset(self, clips: Clips) -> ForeseenState:  # type: ignore[override]  # a state of its own
        past = clips.past
        poses = level_poses(clips.ego_to_global[:, past : past + STEPS + 1])
        curr_to_next = invert_pose(poses[:, 1:]) @ poses[:, :-1]
        rolled = roll(self.learned, clips, clips.command[:, past : past + curr_to_next.shape[1]], curr_to_next)
        later = torch.stack([rolled.occupancy[step].cpu() for step in sorted(rolled.occupancy)], 1)
        replay = super().reset(replace(clips, future_occupancy=later))
        return ForeseenState(
            labels=tuple(one.clone() for one in replay.labels),
            start_to_log=replay.start_to_log,
            ego_to_start=replay.ego_to_start,
            time=replay.time,
        )

    def step(self, state: ForeseenState, curr_to_next: Tensor, command: Tensor) -> ForeseenState:  # type: ignore[override]
        last = state.start_to_log.shape[1] - 1
        pose = state.ego_to_start @ invert_pose(curr_to_next)
        return replace(state, ego_to_start=pose, time=(state.time + 1).clamp(max=last))

    def occupancy(self, state: ForeseenState) -> Tensor:  # type: ignore[override]
        row = torch.arange(len(state.time), device=self.device)
        ego_to_log = state.start_to_log[row, state.time] @ state.ego_to_start
        now = torch.stack([one[k] for one, k in zip(state.labels, state.time.tolist(), strict=True)])
        return warp_voxels(now, ego_to_log, self.grid)
