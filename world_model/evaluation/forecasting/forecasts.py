"""Forecasts of windows by any world; the token world begins from tokens that were encoded once per frame.

Legend: B windows, K forecast steps, H horizons, S slots of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from world_model.core.geometry import invert_pose, yaw_from_matrix
from world_model.core.grid import STEP_S
from world_model.evaluation.forecasting.actions import ActionModel, drive_by_actions
from world_model.evaluation.forecasting.scene_data import Window, clips_of
from world_model.evaluation.windows import PAST
from world_model.models.tokenizer import Tokenizer
from world_model.rollouts import fixed_slots, roll
from world_model.worlds.protocol import World, WorldState
from world_model.worlds.token import TokenWorld


def motions_of(windows: Sequence[Window], regime: str, steps: int, actions: ActionModel | None) -> Tensor | None:
    """(B, K, 4, 4) float32 ego motions that forecasts are conditioned on, ego frame -> next ego frame; None: the
    world's own."""
    if regime == "pred-ego":
        return None
    if regime == "gt-ego":
        return torch.stack([w.motions(steps) for w in windows])
    assert actions is not None
    driven = []
    for window in windows:
        speed_mps = float(-window.poses(-1, 0)[0, 0, 3]) / STEP_S
        driven.append(drive_by_actions(actions, window.poses(0, steps), speed_mps))
    return torch.stack(driven).float()


def forecast(
    world: World,
    tokenizer: Tokenizer | None,
    windows: Sequence[Window],
    motions: Tensor | None,
    steps: Sequence[int],
    slots: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Forecast windows.

    Args:
        world: whose forecasts.
        tokenizer: of the tokens that the windows' scene has.
        windows: B windows of one scene.
        motions: (B, K, 4, 4) of `motions_of`.
        steps: (H) forecast steps to decode, rising.
        slots: of each batch, see `fixed_slots`.

    Returns:
        (B, H, X, Y, Z) uint8 labels, each in the ego frame that the forecast took for true; `pose_errors`; and the ego
        poses (B, K + 1, 4, 4) that it took for true, in the current frame.

    Raises:
        DataError: the world's occupancy is not labels of the grid.
        OptionError: there are no motions, and the world has none of its own.
    """
    labels, errors, poses = [], [], []
    for rows, real in fixed_slots([w.number for w in windows], slots):
        chosen = [windows[row] for row in rows]
        commands = torch.stack([w.commands(steps[-1]) for w in chosen])
        start = _start(world, tokenizer, chosen, steps[-1])
        found = roll(world, start, commands, None if motions is None else motions[rows], decode=steps)
        labels.append(torch.stack([found.occupancy[step] for step in steps], 1)[real])
        errors.append(pose_errors(found.ego_pose[:, list(steps)], chosen, steps)[real])
        poses.append(found.ego_pose[real])
    return torch.cat(labels), torch.cat(errors), torch.cat(poses)


def _start(world: World, tokenizer: Tokenizer | None, windows: Sequence[Window], future: int) -> WorldState:
    """S states at the current frames of the windows."""
    if not isinstance(world, TokenWorld) or world.tokenizer is not tokenizer:
        return world.reset(clips_of(windows, future, world.needs_future_labels))
    tokens = []
    for window in windows:
        assert window.scene.tokens is not None
        tokens.append(window.scene.tokens[window.now - PAST : window.now + 1])
    poses = torch.stack([w.scene.poses[w.now - PAST : w.now + 1] for w in windows])
    return world.begin(torch.stack(tokens), poses)


def pose_errors(ego_pose: Tensor, windows: Sequence[Window], steps: Sequence[int]) -> Tensor:
    """(B, H, 2) int64 distance of ego poses from the true ones, micrometres and microradians.

    Whole numbers add up to the same sum in any order.

    Args:
        ego_pose: (B, H, 4, 4) float64 in the current ego frame.
        windows: B windows.
        steps: (H) forecast steps.
    """
    true = torch.stack([w.poses(0, steps[-1])[list(steps)] for w in windows])
    metres = (ego_pose - true)[..., :2, 3].norm(dim=-1)
    radians = yaw_from_matrix(invert_pose(true) @ ego_pose).abs()
    return (torch.stack((metres, radians), -1) * 1e6).round().long()
