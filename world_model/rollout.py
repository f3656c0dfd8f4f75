"""Drive one recorded scene inside a world: along the log, along a given trajectory, or as a command says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from world_model.data.clips import Clips
from world_model.data.index import COMMANDS
from world_model.errors import OptionError
from world_model.geometry import invert_pose, se2_matrix
from world_model.worlds.learned import LearnedState, LearnedWorld
from world_model.worlds.protocol import World, WorldState


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One drive inside a world.

    Attributes:
        start: (X, Y, Z) uint8 observed labels of the current frame.
        occupancy: (H, X, Y, Z) uint8 forecast after each step, in the ego frame of that step.
        ego_to_global: (H + 1, 4, 4) float64 poses, the current one first.
        command: (H,) int64.
    """

    start: np.ndarray
    occupancy: np.ndarray
    ego_to_global: np.ndarray
    command: np.ndarray


def parse_trajectory(text: str) -> np.ndarray:
    """Ego motions (H, 3) dx m, dy m, dyaw rad out of a CSV file or out of the text itself.

    Raises:
        OptionError: a row does not hold three finite numbers, or there are none.
    """
    remedy = 'write "4,0,0; 4,0,0.1" or name a CSV file with rows dx,dy,dyaw (a first line of names is allowed)'
    expected = "rows dx,dy,dyaw of three finite numbers (metres, metres, radians)"
    is_file = text.endswith((".csv", ".txt")) or Path(text).is_file()
    try:
        content = Path(text).read_text() if is_file else text
    except OSError as error:
        raise OptionError(f"trajectory file {text} cannot be read ({error.strerror})", "a CSV file", remedy) from error
    rows = [row.strip() for row in content.replace(";", "\n").splitlines() if row.strip()]
    if rows and rows[0].replace(" ", "").lower().startswith("dx"):
        rows = rows[1:]
    motions = []
    for number, row in enumerate(rows, 1):
        try:
            values = [float(value) for value in row.split(",")]
        except ValueError:
            values = []
        if len(values) != 3 or not np.isfinite(values).all():
            raise OptionError(f"row {number} of the trajectory is {row!r}", expected, remedy)
        motions.append(values)
    if not motions:
        raise OptionError("the trajectory is empty", expected, remedy)
    return np.array(motions)


@torch.no_grad()
def roll(
    world: World,
    clips: Clips,
    steering: str,
    motions: np.ndarray | None,
    steps: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Rollout:
    """Drive one scene.

    Args:
        world: where to drive.
        clips: one clip (batch 1), with ``steps`` future poses for logged control.
        steering: logged, fine, or a command (right, left, straight).
        motions: (N, 3) dx, dy, dyaw of each step for fine control.
        steps: number of steps.
        progress: called after every step with the number of steps done.

    Raises:
        OptionError: a command is given to a world without a motion model of its own.
    """
    state, pose = world.reset(clips), clips.ego_to_global[:, clips.past]
    device = world.occupancy(state).device
    poses, labels, commands = [pose], [], []
    for step in range(steps):
        now = clips.past + step
        command = clips.command[:, min(now, clips.command.shape[1] - 1)]
        if steering in COMMANDS:
            command = torch.full_like(command, COMMANDS.index(steering))
            state, curr_to_next = _step_predicted(world, state, command.to(device))
        else:
            curr_to_next = _given_motion(clips, motions if steering == "fine" else None, step)
            state = world.step(state, curr_to_next.float().to(device), command.to(device))
        pose = pose @ invert_pose(curr_to_next.double().cpu())
        poses.append(pose)
        commands.append(command)
        labels.append(world.occupancy(state)[0].cpu().numpy())
        progress(step + 1)
    return Rollout(
        start=clips.occupancy[0, -1].numpy(),
        occupancy=np.stack(labels),
        ego_to_global=torch.cat(poses).numpy(),
        command=torch.cat(commands).numpy(),
    )


def _given_motion(clips: Clips, motions: np.ndarray | None, step: int) -> Tensor:
    """(1, 4, 4) current ego frame -> next ego frame, out of a trajectory or, without one, the log."""
    if motions is not None:
        return invert_pose(se2_matrix(*torch.tensor(motions[step], dtype=torch.float64))[None])
    now = clips.past + step
    return invert_pose(clips.ego_to_global[:, now + 1]) @ clips.ego_to_global[:, now]


def _step_predicted(world: World, state: WorldState, command: Tensor) -> tuple[WorldState, Tensor]:
    """One step by the forecaster's own ego motion: the next state and the transform it used."""
    if not isinstance(world, LearnedWorld):
        raise OptionError(
            f"a command for {type(world).__name__}, which has no motion model",
            "the learned world, whose forecaster predicts its own motion",
            "use --world learned, or --control logged or fine",
        )
    forecast, out = world.forecaster.step(state.forecast, command, None)
    return LearnedState(forecast=forecast, token=out.token), out.curr_to_next
