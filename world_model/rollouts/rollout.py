"""The one way to drive a world: B drives at once, along given motions or as commands say.

Legend: B drives, K steps of 0.5 s, (X, Y, Z) voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from world_model.core.errors import DataError, OptionError
from world_model.core.geometry import invert_pose
from world_model.data.clips import Clips
from world_model.worlds.protocol import MotionPredicting, SelfDriving, World, WorldState, check_steps


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """What came of B drives.

    Attributes:
        occupancy: (B, X, Y, Z) uint8 labels by step, for the steps that were asked for, each in the ego frame of its
            step; 0 is the start.
        ego_pose: (B, K + 1, 4, 4) float64 on the CPU, the start first: ego -> global where the drives began with clips,
            else ego -> ego frame at the start.
        commands: (B, K) int64 as they were given.
        states: K + 1 states of the world, the start first; empty unless they were asked for.
        predicted: (B, K, 3) float32 on the CPU: dx m, dy m, dyaw rad that the world predicted for the ego in each step;
            None unless it was asked for, and in worlds that predict none.
    """

    occupancy: dict[int, Tensor]
    ego_pose: Tensor
    commands: Tensor
    states: list[WorldState] = field(default_factory=list)
    predicted: Tensor | None = None


@torch.no_grad()
def roll(
    world: World,
    start: Clips | WorldState,
    commands: Tensor,
    motions: Tensor | None = None,
    *,
    decode: Collection[int] | None = None,
    labels_on: torch.device | str | None = None,
    keep_states: bool = False,
    with_predicted: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Rollout:
    """Drive a world.

    Args:
        world: where to drive.
        start: clips, at whose current frames the drives begin, or states of the world.
        commands: (B, K) int64, 0 right, 1 left, 2 straight.
        motions: (B, K, 4, 4) ego frame -> next ego frame of each step, float64 or float32 (which the world gets);
            None: the world drives itself as the commands say.
        decode: steps whose occupancy is wanted, 0 for the start; None for all but the start.
        labels_on: device on which the occupancy is kept; None where the world makes it.
        keep_states: return the states, too.
        with_predicted: return the predicted motions of a world that has some, too.
        progress: called after every step with the number of steps done.

    Raises:
        OptionError: there are no motions, and the world cannot drive itself; or more steps than it has to show.
        DataError: the world's occupancy is not labels of its grid.
    """
    state, pose = start, torch.eye(4, dtype=torch.float64, device="cpu").expand(len(commands), 4, 4)
    if isinstance(start, Clips):
        check_steps(world, commands.shape[1])
        state, pose = world.reset(start), start.ego_to_global[:, start.past]
    device = getattr(world, "device", None) or world.occupancy(state).device
    steps = range(1, commands.shape[1] + 1)
    wanted = set(steps if decode is None else decode)
    occupancy = {0: _labels(world, state, len(commands), labels_on)} if 0 in wanted else {}
    poses, states, predicted = [pose], [state], list[Tensor]()
    for step in steps:
        given = None if motions is None else motions[:, step - 1]
        state, executed, own = _step(world, state, commands[:, step - 1].to(device), given, with_predicted)
        poses.append(poses[-1] @ invert_pose(executed.double().cpu()))
        if keep_states:
            states.append(state)
        predicted += [] if own is None else [own.float().cpu()]
        if step in wanted:
            occupancy[step] = _labels(world, state, len(commands), labels_on)
        progress(step)
    return Rollout(
        occupancy=occupancy,
        ego_pose=torch.stack(poses, 1),
        commands=commands,
        states=states if keep_states else [],
        predicted=torch.stack(predicted, 1) if predicted else None,
    )


def _step(
    world: World, state: WorldState, command: Tensor, given: Tensor | None, with_predicted: bool
) -> tuple[WorldState, Tensor, Tensor | None]:
    """The next state, the executed motion (B, 4, 4), and the predicted one (B, 3) if it is asked for."""
    motion = None if given is None else given.float().to(command.device)
    if with_predicted and isinstance(world, MotionPredicting):
        state, executed, predicted = world.step_with_prediction(state, command, motion)
        return state, executed if given is None else given, predicted
    if given is not None and motion is not None:
        return world.step(state, motion, command), given, None
    if isinstance(world, SelfDriving):
        return *world.drive(state, command), None
    raise OptionError(
        f"a command for {type(world).__name__}, which has no motion model",
        "a world that can choose the ego's motion, such as ii-world",
        "choose that world, or give the motion of each step",
    )


def _labels(world: World, state: WorldState, batch: int, device: torch.device | str | None) -> Tensor:
    """(B, X, Y, Z) uint8 occupancy of a state."""
    labels, expected = world.occupancy(state), (batch, *world.grid.shape)
    if tuple(labels.shape) != expected:
        raise DataError(
            f"{type(world).__name__} made occupancy of shape {tuple(labels.shape)}",
            f"{expected}",
            "return labels of the grid that the world was built with",
        )
    return labels if device is None else labels.to(device)
