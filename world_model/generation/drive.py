"""Drive one recorded scene inside a world: along the log, along a given trajectory, or as a command says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.errors import OptionError
from world_model.core.geometry import invert_pose, se2_matrix, yaw_from_matrix
from world_model.core.grid import STEP_S
from world_model.data.clips import Clips
from world_model.data.ego_motion import commands_from_poses
from world_model.data.index import COMMANDS
from world_model.rollouts import Rollout, roll
from world_model.worlds.protocol import World, limits_of


def drive(
    world: World,
    clips: Clips,
    steps: int,
    *,
    motions: NDArray[Any] | None = None,
    command: str | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Rollout:
    """Drive one scene along the log, or as ``motions`` or a ``command`` say.

    Args:
        world: where to drive.
        clips: one clip (batch 1), with ``steps`` future poses for the log.
        steps: H, number of steps.
        motions: (N, 3) dx, dy, dyaw of each step or (N, 4, 4) next ego frame -> current ego frame, N >= H.
        command: right, left or straight for all steps: the world drives itself.
        progress: called after every step with the number of steps done.

    Returns:
        All labels on the CPU, and the predicted motions. Where motions are given, the commands describe them.

    Raises:
        OptionError: a command is given to a world without a motion model of its own, or the motions end early.
    """
    now = clips.past
    if command is not None:
        curr_to_next, commands = None, torch.full((1, steps), COMMANDS.index(command), device="cpu")
    elif motions is None:
        pose = clips.ego_to_global[:, now : now + steps + 1]
        curr_to_next, commands = invert_pose(pose[:, 1:]) @ pose[:, :-1], clips.command[:, now : now + steps]
    else:
        next_to_curr = _transforms(motions, steps)
        if not limits_of(world).get("answers_actions", True):
            clips = planned(clips, next_to_curr[:steps])  # drawn for a drive, so it has to know this one
        curr_to_next, commands = invert_pose(next_to_curr)[None, :steps], _commands(next_to_curr)[None, :steps]
    return roll(world, clips, commands, curr_to_next, labels_on="cpu", with_predicted=True, progress=progress)


def planned(clips: Clips, next_to_curr: Tensor) -> Clips:
    """Clips whose future poses, commands and motions are those of another drive (H, 4, 4); without future labels."""
    now, batch = clips.past, len(clips.occupancy)
    poses = [clips.ego_to_global[:, now]]
    for step in next_to_curr:
        poses.append(poses[-1] @ step)
    # A recorded velocity lies along the axes of the later frame.
    moved = torch.cat((-invert_pose(next_to_curr)[:, :2, 3], yaw_from_matrix(next_to_curr)[:, None]), 1)
    velocity = (moved / STEP_S).float().expand(batch, -1, -1)
    command = _commands(next_to_curr).expand(batch, -1)
    ahead = torch.ones(batch, len(next_to_curr), dtype=torch.bool, device="cpu")
    return replace(
        clips,
        ego_to_global=torch.cat((clips.ego_to_global[:, :now], torch.stack(poses, 1)), 1),
        # A command describes the step that begins at a frame, a motion the one that ends there.
        command=torch.cat((clips.command[:, :now], command, command[:, -1:]), 1),
        motion=torch.cat((clips.motion[:, : now + 1], velocity), 1),
        dt_s=torch.cat((clips.dt_s[:, :now], torch.full(ahead.shape, STEP_S, dtype=torch.float32, device="cpu")), 1),
        valid=torch.cat((clips.valid[:, : now + 1], ahead), 1),
        future_occupancy=None,
    )


def _transforms(motions: NDArray[Any], steps: int) -> Tensor:
    """(N, 4, 4) float64 next ego frame -> current ego frame."""
    if len(motions) < steps:
        raise OptionError(
            f"motions of {len(motions)} steps", f"{steps} steps", "give a longer trajectory or roll fewer steps"
        )
    given = torch.from_numpy(np.array(motions, np.float64))
    return given if given.ndim == 3 else se2_matrix(*given.unbind(-1))


def _commands(next_to_curr: Tensor) -> Tensor:
    """(N,) commands that describe the motions."""
    poses = [torch.eye(4, dtype=torch.float64, device="cpu")]
    for step in next_to_curr:
        poses.append(poses[-1] @ step)
    return torch.from_numpy(commands_from_poses(torch.stack(poses).numpy())[:-1].astype(np.int64))
