"""The published training objective: a rollout over known futures, and its three losses (I2-World, ICCV 2025).

B samples, K steps, (C, Xl, Yl) token maps. Deviations are numbered in `world_model.checkpoints.deviations`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.core.geometry import invert_pose
from world_model.models.forecaster.ego import EgoState, prepared_features, rotations_of, slot_between
from world_model.models.forecaster.forecaster import Forecast, Forecaster, ForecastState
from world_model.models.forecaster.losses import rotation_loss, token_loss, trajectory_loss


@dataclass(frozen=True, kw_only=True)
class Future:
    """What happened after the current frame.

    Attributes:
        tokens: (B, K, C, Xl, Yl) tokens of the K next frames.
        position: (B, K+1, 3) metres, global, the current one first.
        rotation: (B, K+1, 4) quaternions ego -> global.
        features: (B, K, 3) vx, vy, yaw rate of frame k, measured over the step into it.
        command: (B, K) long.
        curr_to_next: (B, K, 4, 4) ego frame k -> ego frame k+1.
        valid: (B, K) bool, whether frame k+1 may be scored.
    """

    tokens: Tensor
    position: Tensor
    rotation: Tensor
    features: Tensor
    command: Tensor
    curr_to_next: Tensor
    valid: Tensor


def future_of(tokens: Tensor, poses: Tensor, command: Tensor) -> Future:
    """What happened, out of recorded frames; features as the published data preparation measures them.

    Args:
        tokens: (B, K+1, C, Xl, Yl) from the current frame on.
        poses: (B, K+1 or K+2, 4, 4) ego -> global of the same frames; of the one before them too where there is one,
            which the current frame's features are measured from.
        command: (B, K or more) long, from the current frame on.
    """
    steps = tokens.shape[1] - 1
    position, rotation = poses[..., :3, 3].double(), rotations_of(poses.double())
    features = prepared_features(position, rotation)[:, -(steps + 1) : -1]
    poses, position, rotation = (x[:, -(steps + 1) :] for x in (poses, position, rotation))
    return Future(
        tokens=tokens[:, 1:],
        position=position,
        rotation=rotation,
        features=features,
        command=command[:, :steps],
        curr_to_next=(invert_pose(poses[:, 1:]) @ poses[:, :-1]).float(),
        valid=torch.ones(len(tokens), steps, dtype=torch.bool, device=tokens.device),
    )


@dataclass(frozen=True, kw_only=True)
class RolloutLosses:
    """Losses of one rollout.

    Attributes:
        token: (K,) weighted token losses; they are summed.
        trajectory: (B,) trajectory losses; their mean is taken.
        rotation: scalar.
    """

    token: Tensor
    trajectory: Tensor
    rotation: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        return self.token.sum() + self.trajectory.mean() + self.rotation


def published_rollout(
    model: Forecaster,
    state: ForecastState,
    future: Future,
    forced: Tensor,
    step_weights: tuple[float, ...],
    *,
    couple_batch: bool = False,
) -> tuple[ForecastState, RolloutLosses]:
    """Roll out along known transforms and score every step, as the published model is trained.

    Args:
        model: with ``faithful=True``.
        state: from `Forecaster.resume` or `Forecaster.start`.
        future: what happened.
        forced: (K, B) bool, True where the truth replaces the prediction after step k.
        step_weights: (K,) weights of the steps.
        couple_batch: measure speed over the batch (deviation 5; for tests).

    Returns:
        The state after the last step, and the losses.
    """
    tokens: list[Tensor] = []
    forecasts: list[Forecast] = []
    for k, weight in enumerate(step_weights):
        forecast = model.predict(state, future.command[:, k], future.curr_to_next[:, k], couple_batch=couple_batch)
        tokens.append(weight * token_loss(forecast.token, future.tokens[:, k], future.valid[:, k]))
        state = _next_state(model, state, forecast, future, k, forced[k])
        forecasts.append(forecast)
    motion = torch.stack([forecast.motion for forecast in forecasts], 1)
    shift = (future.position[:, 1:] - future.position[:, :-1])[..., :2].to(motion.dtype)
    relative = torch.stack([slot_between(p, q, p[:, 0])[:, 2:6] for p, q in _steps(future)], 1).to(motion.dtype)
    weights = torch.tensor(step_weights, dtype=motion.dtype, device=motion.device)
    # Deviation 14: the rotation loss takes every step alike.
    losses = RolloutLosses(
        token=torch.stack(tokens),
        trajectory=trajectory_loss(motion[..., :2], shift, future.valid, weights, faithful=True),
        rotation=rotation_loss(F.normalize(motion[..., 2:], dim=-1), relative),
    )
    return state, losses


def _steps(future: Future) -> list[tuple[Tensor, Tensor]]:
    """Per step, the two positions (B, 2, 3) and quaternions (B, 2, 4) that it leads between."""
    steps = range(future.tokens.shape[1])
    return [(future.position[:, k : k + 2], future.rotation[:, k : k + 2]) for k in steps]


def _next_state(
    model: Forecaster, state: ForecastState, forecast: Forecast, future: Future, k: int, forced: Tensor
) -> ForecastState:
    """The next state: predicted, or true where ``forced`` (B,): token, pose and motion."""
    assert forecast.predicted_ego is not None, "published_rollout needs a model with faithful=True"
    ego, slot = forecast.predicted_ego
    position, rotation = _steps(future)[k]
    true_slot = slot_between(position, rotation, future.features[:, k])
    token = torch.where(forced.view(-1, 1, 1, 1), future.tokens[:, k], forecast.token)
    slot = torch.where(forced[:, None], true_slot, slot)
    return model.advance_published(state, token, ego.teacher_forced(position[:, 1], rotation[:, 1], forced), slot)


def observe_first(state: ForecastState, future: Future) -> EgoState:
    """The memory for the next call: whatever the rollout did, exactly the first true step is observed (6)."""
    assert state.ego is not None, "observe_first needs a model with faithful=True"
    return state.ego.observe(future.position[:, :2], future.rotation[:, :2], future.features[:, 0])
