"""The regime `action`: ego poses that come out of actions, as they do for anybody who drives in the learned world.

The actions are those that follow the logged drive best, found step by step from where the actions so far have led. What
an action does is said by the environment; it is found by its name, since this layer knows nothing of the ones above it.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import torch
from torch import Tensor

from world_model.errors import OptionError
from world_model.geometry import invert_pose, se2_matrix, yaw_from_matrix
from world_model.grid import STEP_S

ENVIRONMENT = "ii_world_env.actions:ACTION_MODES"
"""A mapping from names to `ActionModel`."""


class Moved(Protocol):
    """Where an action leads: ``path`` (B, S, 3) x m, y m, yaw rad, the last entry at the end of the step; ``speed_mps``
    (B,) there."""

    @property
    def path(self) -> Tensor: ...
    @property
    def speed_mps(self) -> Tensor: ...


class ActionModel(Protocol):
    """One way to act: ``inverse`` ((B, 3) wanted motion, (B,) speed) -> actions, ``move`` (actions, speed) -> `Moved`,
    and the share of a missing distance that one action should make up."""

    @property
    def tracking(self) -> float: ...
    @property
    def move(self) -> Any: ...
    @property
    def inverse(self) -> Any: ...


def load_action_model(mode: str, source: str = ENVIRONMENT) -> ActionModel:
    """The action model of a name.

    Raises:
        OptionError: there is none, or the environment is not installed.
    """
    module, _, attribute = source.partition(":")
    try:
        modes = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise OptionError(
            f"{source} cannot be imported ({error})", "the package with its environment", "pip install -e ."
        ) from error
    if mode not in modes:
        raise OptionError(f"actions {mode!r}", f"one of {sorted(modes)}", "choose one of them")
    model: ActionModel = modes[mode]
    return model


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
    pose, speed = torch.eye(4, dtype=torch.float64)[None], torch.tensor([speed_mps], dtype=torch.float64)
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
