"""Drive one recorded scene inside a world: along the log, along a given trajectory, or as a command says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.errors import OptionError
from world_model.core.geometry import invert_pose, se2_matrix
from world_model.data.clips import Clips
from world_model.data.ego_motion import commands_from_poses
from world_model.data.index import COMMANDS
from world_model.generation.trajectories.read import parse_trajectory
from world_model.worlds.protocol import World, WorldState
from world_model.worlds.token import TokenWorld

__all__ = ["Rollout", "parse_trajectory", "roll"]


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One drive inside a world.

    Attributes:
        start: (X, Y, Z) uint8 observed labels of the current frame.
        occupancy: (H, X, Y, Z) uint8 forecast after each step, in the ego frame of that step.
        ego_to_global: (H + 1, 4, 4) float64 poses, the current one first.
        command: (H,) int64.
        proposed: (H, 3) float32 dx m, dy m, dyaw rad that the model itself would have driven in each step; None in
            worlds without a motion model.
    """

    start: NDArray[Any]
    occupancy: NDArray[Any]
    ego_to_global: NDArray[Any]
    command: NDArray[Any]
    proposed: NDArray[Any] | None = None


@torch.no_grad()
def roll(
    world: World,
    clips: Clips,
    steering: str,
    motions: NDArray[Any] | None,
    steps: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Rollout:
    """Drive one scene.

    Args:
        world: where to drive.
        clips: one clip (batch 1), with ``steps`` future poses for logged control.
        steering: logged, a command (right, left, straight), or any other word for the given motions.
        motions: of each step for given control: (N, 3) dx, dy, dyaw or (N, 4, 4) next ego frame -> current ego frame.
        steps: number of steps.
        progress: called after every step with the number of steps done.

    Raises:
        OptionError: a command is given to a world without a motion model of its own, or the motions end early.
    """
    given = None if steering == "logged" or steering in COMMANDS else _transforms(motions, steps)
    commands = _commands(clips, steering, given, steps)
    state, pose = world.reset(clips), clips.ego_to_global[:, clips.past]
    device = world.occupancy(state).device
    poses, labels, proposed = [pose], [], []
    for step in range(steps):
        command = commands[step : step + 1].to(device)
        planned = None
        if steering not in COMMANDS:
            planned = _logged(clips, step) if given is None else invert_pose(given[step : step + 1])  # float64
        state, moved, own = _step(world, state, planned, command)
        pose = pose @ invert_pose((moved if planned is None else planned).double().cpu())
        poses.append(pose)
        labels.append(world.occupancy(state)[0].cpu().numpy())
        proposed += [] if own is None else [own[0].float().cpu().numpy()]
        progress(step + 1)
    return Rollout(
        start=clips.occupancy[0, -1].numpy(),
        occupancy=np.stack(labels),
        ego_to_global=torch.cat(poses).numpy(),
        command=commands.numpy(),
        proposed=np.stack(proposed) if proposed else None,
    )


def _transforms(motions: NDArray[Any] | None, steps: int) -> Tensor:
    """(N, 4, 4) float64 next ego frame -> current ego frame."""
    found = 0 if motions is None else len(motions)
    if motions is None or found < steps:
        raise OptionError(f"motions of {found} steps", f"{steps} steps", "give a longer trajectory or roll fewer steps")
    steps_given = torch.as_tensor(np.array(motions, np.float64))
    return steps_given if steps_given.ndim == 3 else se2_matrix(*steps_given.unbind(-1))


def _commands(clips: Clips, steering: str, given: Tensor | None, steps: int) -> Tensor:
    """(H,) the command asked for, the recorded one, or the one that describes the given motions."""
    if steering in COMMANDS:
        return torch.full((steps,), COMMANDS.index(steering))
    if given is None:
        row = torch.arange(clips.past, clips.past + steps).clamp(max=clips.command.shape[1] - 1)
        return clips.command[0, row]
    poses = [torch.eye(4, dtype=torch.float64)]
    for step in given:
        poses.append(poses[-1] @ step)
    return torch.from_numpy(commands_from_poses(torch.stack(poses).numpy())[:steps].astype(np.int64))


def _logged(clips: Clips, step: int) -> Tensor:
    """(1, 4, 4) current ego frame -> next ego frame, as recorded."""
    now = clips.past + step
    return invert_pose(clips.ego_to_global[:, now + 1]) @ clips.ego_to_global[:, now]


def _step(
    world: World, state: WorldState, planned: Tensor | None, command: Tensor
) -> tuple[WorldState, Tensor, Tensor | None]:
    """One step along a given transform, or by the model's own motion without one.

    Returns:
        The next state, the transform used (1, 4, 4), and the motion (1, 3) that the model proposed, if it has any.
    """
    if planned is not None:
        planned = planned.float().to(command.device)
    if isinstance(world, TokenWorld):
        forecast, out = world.forecaster.step(state.forecast, command, planned)
        return replace(state, forecast=forecast, token=out.token), out.curr_to_next, out.predicted_motion
    if planned is None:
        raise OptionError(
            f"a command for {type(world).__name__}, which has no motion model",
            "the token world, whose forecaster predicts its own motion",
            "use --world ii-world, or --control logged, fine or sampled",
        )
    return world.step(state, planned, command), planned, None
