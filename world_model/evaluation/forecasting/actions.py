"""The regime `action`: ego poses that follow from actions, as they do for every policy that drives in a world.

The actions are those that follow the logged drive best, found step by step from where the actions so far have led.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.core.errors import OptionError
from world_model.core.geometry import invert_pose, se2_matrix, yaw_from_matrix
from world_model.core.grid import STEP_S
from world_model.core.vehicle import KINEMATIC_TRACKING, Motion, delta, delta_for, kinematic, kinematic_for


@dataclass(frozen=True, kw_only=True)
class ActionModel:
    """One way to act.

    Attributes:
        move: (actions, (B,) speed) -> motion.
        inverse: ((B, 3) wanted dx, dy, yaw, (B,) speed) -> the actions that come closest.
        tracking: share of a missing distance that one action should make up.
    """

    move: Callable[[Tensor, Tensor], Motion]
    inverse: Callable[[Tensor, Tensor], Tensor]
    tracking: float


ACTION_MODELS = {
    "kinematic": ActionModel(move=kinematic, inverse=kinematic_for, tracking=KINEMATIC_TRACKING),
    "delta": ActionModel(move=delta, inverse=delta_for, tracking=1.0),
}


def action_model(mode: str) -> ActionModel:
    """The action model of a name.

    Raises:
        OptionError: there is none.
    """
    if mode not in ACTION_MODELS:
        raise OptionError(f"actions {mode!r}", f"one of {sorted(ACTION_MODELS)}", "choose one of them")
    return ACTION_MODELS[mode]


def drive_by_actions(model: ActionModel, places: Tensor, speed_mps: float) -> Tensor:
    """Follow a drive with actions.

    Args:
        model: what an action does.
        places: (K + 1, 4, 4) float64 logged ego poses in one frame, the current one first.
        speed_mps: speed over the step into the current frame.

    Returns:
        (K, 4, 4) float64, ego frame -> next ego frame of each step.
    """
    log = invert_pose(places[:1]) @ places
    pose = torch.eye(4, dtype=torch.float64, device="cpu")[None]
    speed = torch.tensor([speed_mps], dtype=torch.float64, device="cpu")
    motions = []
    for goal in log[1:]:
        missing = invert_pose(pose) @ goal[None]
        steady = speed * STEP_S
        dx = steady + model.tracking * (missing[:, 0, 3] - steady)
        wanted = torch.stack((dx, missing[:, 1, 3], yaw_from_matrix(missing)), -1)
        moved = model.move(model.inverse(wanted, speed), speed)
        step = se2_matrix(*moved.path[:, -1].unbind(-1))
        motions.append(invert_pose(step))
        pose, speed = pose @ step, moved.speed_mps
    return torch.cat(motions)
