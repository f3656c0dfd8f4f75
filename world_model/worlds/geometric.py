"""The geometry-first world: what was seen moves with the ego and by itself, a network weighs and completes it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from world_model.core.geometry import invert_pose
from world_model.core.grid import STEP_S
from world_model.core.tensor_state import TensorState
from world_model.data.clips import Clips
from world_model.models.geometric import GeometricForecaster, Observation
from world_model.models.geometric.evidence import gather_evidence, previous_forecast
from world_model.models.geometric.fusion import Certainty


@dataclass(frozen=True, kw_only=True)
class GeometricState(TensorState):
    """B forecasts.

    Attributes:
        seen: what was observed at reset, in the ego frame of the reset.
        ego_to_start: (B, 4, 4) float32 current ego frame -> ego frame at reset, metres.
        displacement_m: (B, X, Y, 2) how far each observed mover has gone since.
        elapsed_s: (B,) time since the reset.
        labels: (B, X, Y, Z) uint8 occupancy now; the memory of what was forecast where nothing was ever observed.
        certainty: how sure the forecast is.
    """

    seen: Observation
    ego_to_start: Tensor
    displacement_m: Tensor
    elapsed_s: Tensor
    labels: Tensor
    certainty: Certainty


class GeometricWorld:
    """A trained geometry-first forecaster.

    Args:
        model: the forecaster.
    """

    needs_future_labels = False

    def __init__(self, model: GeometricForecaster) -> None:
        self.model, self.grid = model.eval(), model.config.grid

    @property
    def device(self) -> torch.device:
        """Where the states live."""
        return next(self.model.parameters()).device

    def reset(self, clips: Clips) -> GeometricState:
        device = self.device
        count = self.model.config.observed
        # The oldest frame stands in for frames before the recording.
        first = clips.past + 1 - count
        rows = [max(p, 0) for p in range(first, clips.past + 1)]
        pose = clips.ego_to_global[:, rows]
        # Relative poses before float32: global coordinates run to kilometres.
        to_current = (invert_pose(pose[:, -1:]) @ pose).float().to(device)
        labels = clips.occupancy[:, rows].to(device)
        seen = self.model.observe(labels, to_current)
        batch = len(labels)
        return GeometricState(
            seen=seen,
            ego_to_start=torch.eye(4, device=device).repeat(batch, 1, 1),
            displacement_m=torch.zeros_like(seen.velocity_mps),
            elapsed_s=torch.zeros(batch, device=device),
            labels=seen.labels,
            certainty=Certainty.of_observation(batch, device),
        )

    def step(self, state: GeometricState, curr_to_next: Tensor, command: Tensor) -> GeometricState:
        next_to_curr = invert_pose(curr_to_next)
        ego_to_start = state.ego_to_start @ next_to_curr
        displacement = state.displacement_m + state.seen.velocity_mps * STEP_S
        elapsed = state.elapsed_s + STEP_S
        previous = previous_forecast(state.labels, next_to_curr, self.grid)
        evidence = gather_evidence(
            state.seen, ego_to_start, elapsed, self.grid, displacement_m=displacement, previous=previous
        )
        labels, certainty = self.model.fusion.forecast(evidence)
        return GeometricState(
            seen=state.seen,
            ego_to_start=ego_to_start,
            displacement_m=displacement,
            elapsed_s=elapsed,
            labels=labels,
            certainty=certainty,
        )

    def occupancy(self, state: GeometricState) -> Tensor:
        return state.labels

    def trust_figures(self, state: GeometricState) -> dict[str, Tensor]:
        """What the forecast trust is made of, (B,) by name; see `Certainty`."""
        return {field.name: getattr(state.certainty, field.name) for field in fields(Certainty)}
