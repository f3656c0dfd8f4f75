"""Forecasts of windows: by the models on tokens that were encoded once per frame, or by any `World`.

Legend: B windows, K forecast steps, H horizons, L lanes (samples per model call).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.core.errors import DataError
from world_model.core.geometry import invert_pose, yaw_from_matrix
from world_model.core.grid import STEP_S
from world_model.evaluation.forecasting.actions import ActionModel, drive_by_actions
from world_model.evaluation.forecasting.lanes import in_lanes
from world_model.evaluation.forecasting.scene_data import PAST, Window, clips_of
from world_model.models.forecaster import Forecaster
from world_model.models.tokenizer import Tokenizer
from world_model.worlds.protocol import World

REGIMES = ("gt-ego", "pred-ego", "action")


@dataclass(frozen=True, kw_only=True)
class Forecasts:
    """What was forecast for B windows.

    Attributes:
        labels: H tensors (B, X, Y, Z) uint8, each in the ego frame that the forecast took for true.
        missed: (B, H, 2) int64 distance of that ego pose from the true one, micrometres and microradians. Whole numbers
            add up to the same sum in any order.
    """

    labels: list[Tensor]
    missed: Tensor


def motions_of(windows: Sequence[Window], regime: str, steps: int, actions: ActionModel | None) -> Tensor | None:
    """(B, K, 4, 4) float32 ego motions that a forecast is told, ego frame -> next ego frame; None: the model's own."""
    if regime == "pred-ego":
        return None
    if regime == "gt-ego":
        return torch.stack([torch.stack([w.motion(k) for k in range(steps)]) for w in windows])
    assert actions is not None
    driven = []
    for window in windows:
        places = torch.stack([window.place(k) for k in range(-1, steps + 1)])
        speed_mps = float(-places[0, 0, 3]) / STEP_S
        driven.append(drive_by_actions(actions, places[1:], speed_mps))
    return torch.stack(driven).float()


def roll_models(
    tokenizer: Tokenizer,
    forecaster: Forecaster,
    windows: Sequence[Window],
    motions: Tensor | None,
    steps: Sequence[int],
    lanes: int,
) -> Forecasts:
    """Forecast with the tokenizer and the forecaster.

    Args:
        tokenizer, forecaster: in evaluation mode, on one device.
        windows: B windows of one scene, with tokens.
        motions: (B, K, 4, 4) of `motions_of`.
        steps: (H) forecast steps to decode, rising.
        lanes: samples per model call.
    """
    labels: list[list[Tensor]] = [[] for _ in steps]
    missed = []
    for rows, real in in_lanes([w.number for w in windows], lanes):
        chosen = [windows[row] for row in rows]
        tokens = _observed_tokens(chosen)
        device = tokens.device
        state = forecaster.start(tokens, _observed_poses(chosen).to(device))
        used = []
        for k in range(steps[-1]):
            command = torch.tensor([w.command(k) for w in chosen], device=device)
            given = None if motions is None else motions[rows, k].to(device)
            state, out = forecaster.step(state, command, given)
            used.append(out.curr_to_next)
            if k + 1 in steps:
                labels[steps.index(k + 1)].append(tokenizer.decode(out.token)[real])
        missed.append(_missed(chosen, torch.stack(used, 1), steps)[real])
    return Forecasts(labels=[torch.cat(parts) for parts in labels], missed=torch.cat(missed))


def roll_world(world: World, windows: Sequence[Window], motions: Tensor, steps: Sequence[int], lanes: int) -> Forecasts:
    """Forecast with any world, driven by given motions; the other arguments are as for `roll_models`.

    Raises:
        DataError: the world's occupancy is not labels of the grid.
    """
    labels: list[list[Tensor]] = [[] for _ in steps]
    for rows, real in in_lanes([w.number for w in windows], lanes):
        chosen = [windows[row] for row in rows]
        state = world.reset(clips_of(chosen, steps[-1], world.needs_future_labels))
        device = world.occupancy(state).device
        for k in range(steps[-1]):
            command = torch.tensor([w.command(k) for w in chosen], device=device)
            state = world.step(state, motions[rows, k].to(device), command)
            if k + 1 in steps:
                found = world.occupancy(state)
                expected = (len(rows), *chosen[0].scene.grid.shape)
                if tuple(found.shape) != expected:
                    raise DataError(
                        f"{type(world).__name__} made occupancy of shape {tuple(found.shape)}",
                        f"{expected}",
                        "return labels of the grid that the world was built with",
                    )
                labels[steps.index(k + 1)].append(found[real])
    return Forecasts(labels=[torch.cat(parts) for parts in labels], missed=_missed(windows, motions, steps))


def _observed_tokens(windows: Sequence[Window]) -> Tensor:
    """(L, PAST + 1, C, Xl, Yl)."""
    tokens = []
    for window in windows:
        assert window.scene.tokens is not None
        tokens.append(window.scene.tokens[window.now - PAST : window.now + 1])
    return torch.stack(tokens)


def _observed_poses(windows: Sequence[Window]) -> Tensor:
    """(L, PAST + 1, 4, 4) float64."""
    return torch.stack([w.scene.poses[w.now - PAST : w.now + 1] for w in windows])


def _missed(windows: Sequence[Window], motions: Tensor, steps: Sequence[int]) -> Tensor:
    """(B, H, 2) int64, from the (B, K, 4, 4) motions that were taken."""
    motions = motions.double().cpu()
    missed = torch.zeros(len(windows), len(steps), 2, dtype=torch.int64)
    for b, window in enumerate(windows):
        pose = torch.eye(4, dtype=torch.float64)
        for k in range(steps[-1]):
            pose = pose @ invert_pose(motions[b, k])
            if k + 1 in steps:
                true = window.place(k + 1)
                off = torch.stack(((pose - true)[:2, 3].norm(), yaw_from_matrix(invert_pose(true) @ pose).abs()))
                missed[b, steps.index(k + 1)] = (off * 1e6).round().long()
    return missed
