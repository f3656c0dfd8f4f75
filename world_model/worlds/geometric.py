"""The geometry-first world: what was seen moves with the ego and by itself, a network weighs and completes it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from world_model.core.geometry import invert_pose
from world_model.core.grid import STEP_S
from world_model.core.tensor_state import TensorState
from world_model.data.clips import Clips
from world_model.models.geometric import GeometricForecaster
from world_model.models.geometric.agents.bodies import place_bodies, without_bodies
from world_model.models.geometric.agents.boxes import tracks_of_boxes
from world_model.models.geometric.agents.completion import completed
from world_model.models.geometric.agents.drivers import Styles, road_of
from world_model.models.geometric.agents.state import Agents
from world_model.models.geometric.agents.tracker import Found, find_tracks, observe_bodies
from world_model.models.geometric.agents.tracks import Tracks
from world_model.models.geometric.belief import Belief, absent_classes
from world_model.models.geometric.evidence import (
    OBSERVED,
    Evidence,
    Observation,
    gather_evidence,
    observe,
    previous_forecast,
    remember,
)
from world_model.models.geometric.fusion import Certainty
from world_model.models.geometric.riding import RoadPlane
from world_model.worlds.traffic import BOXES, CONSTANT_VELOCITY, DRAWN, LOG_LIKE, TrafficConfig

CHECK_STEPS = 2
"""The self-check forecasts the current frame from what was known so many steps ago: 1 s."""
CHECK_COLUMNS = 88
"""Columns along each side of the square around the ego that the self-check compares: 35 m."""


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
        belief: how far the network is believed, found at the reset.
        agents: the objects that were tracked at the reset.
        road: the ground at the reset, on which the ego rides.
    """

    seen: Observation
    ego_to_start: Tensor
    displacement_m: Tensor
    elapsed_s: Tensor
    labels: Tensor
    certainty: Certainty
    belief: Belief = field(metadata={"absent": lambda like, rows: Belief.blank(rows, like.named.device)})
    agents: Agents = field(metadata={"absent": Agents.absent})
    road: RoadPlane = field(metadata={"absent": lambda like, rows: like.blank(rows)})


class GeometricWorld:
    """A trained geometry-first forecaster.

    Args:
        model: the forecaster.
        self_check: forecast the known past at every reset, and let the evidence win where the network is worse.
        traffic: how others move, and where they are known from.
        rides: level motions follow the observed road (see `RoadPlane`).
    """

    needs_future_labels = False

    def __init__(
        self,
        model: GeometricForecaster,
        *,
        self_check: bool = True,
        traffic: TrafficConfig | None = None,
        rides: bool = True,
    ) -> None:
        self.model, self.grid, self.self_check = model.eval(), model.config.grid, self_check
        self.traffic, self.rides = traffic or TrafficConfig(), rides

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
        road = RoadPlane.of(labels[:, -1], self.grid)
        road = road if self.rides else road.blank(len(labels))
        to_current = torch.stack([road.ride(one, self.grid) for one in to_current.unbind(1)], 1)
        aligned = self.model.align(labels, to_current)
        seen, found = self._observe(aligned, clips)
        batch = len(labels)
        return GeometricState(
            seen=seen,
            ego_to_start=torch.eye(4, dtype=torch.float32, device=device).repeat(batch, 1, 1),
            displacement_m=torch.zeros_like(seen.velocity_mps),
            elapsed_s=torch.zeros(batch, dtype=torch.float32, device=device),
            labels=seen.labels if self.traffic.traffic == CONSTANT_VELOCITY else aligned[:, 0].clone(),
            certainty=Certainty.of_observation(batch, device),
            belief=self._check(labels, aligned),
            agents=Agents.of(found, road_of(seen.still, seen.memory, self.grid)),
            road=road,
        )

    def _observe(self, aligned: Tensor, clips: Clips) -> tuple[Observation, Found]:
        """What stands, what moves and how fast, and the tracks of objects."""
        motion = self.model.motion
        speed, going = motion.by_column(aligned)
        boxes = None if clips.index is None else [clips.index.boxes(frame) for frame in clips.frame]
        if self.traffic.agents == BOXES and boxes is not None and any(len(one.class_id) for one in boxes):
            found = tracks_of_boxes(aligned[:, 0], boxes, self.grid)
        else:
            found = find_tracks(aligned, speed.permute(0, 2, 3, 1), going[:, 0], self.grid)
        column_mps = motion.of_movers(aligned, speed, going)
        if self.traffic.traffic == CONSTANT_VELOCITY:
            return observe(aligned, column_mps), found
        seen = observe_bodies(aligned, found, column_mps)
        movers, found = completed(seen.movers, found, self.grid)
        return replace(seen, movers=movers), found

    def _check(self, labels: Tensor, aligned: Tensor) -> Belief:
        """What the network makes of the current frame, out of the frames up to one second before it.

        Args:
            labels: (B, P, X, Y, Z) the observed frames.
            aligned: (B, P, X, Y, Z) the same in the current ego frame, newest first.
        """
        batch, device = len(labels), labels.device
        if not self.self_check or aligned.shape[1] < CHECK_STEPS + 2:
            return Belief.blank(batch, device)
        margins = [max(n - CHECK_COLUMNS, 0) // 2 for n in self.grid.shape[:2]]
        x, y = (slice(margin, n - margin) for margin, n in zip(margins, self.grid.shape[:2], strict=True))
        now, past = aligned[:, 0, x, y].contiguous(), aligned[:, CHECK_STEPS:, x, y]
        columns = now.shape[:3]
        # Velocities are the other network's; here everything stands.
        evidence = Evidence(
            labels=past[:, 0].contiguous(),
            memory=remember(past),
            visibility=torch.full(columns, OBSERVED, dtype=torch.uint8, device=device),
            displacement_m=torch.zeros(*columns, 2, dtype=torch.float32, device=device),
            elapsed_s=torch.full((batch,), CHECK_STEPS * STEP_S, dtype=torch.float32, device=device),
        )
        # The newest frame and those one and two seconds before it show which classes there are.
        return self.model.fusion.check(evidence, now).without(absent_classes(labels[:, ::2]))

    def step(self, state: GeometricState, curr_to_next: Tensor, command: Tensor) -> GeometricState:
        next_to_curr = invert_pose(curr_to_next)
        ego_to_start = state.ego_to_start @ next_to_curr
        displacement = state.displacement_m + state.seen.velocity_mps * STEP_S
        elapsed = state.elapsed_s + STEP_S
        here, there = (state.road.ride(pose, self.grid) for pose in (state.ego_to_start, ego_to_start))
        # Rounded once, not twice, where the road is level.
        level = (here == state.ego_to_start) & (there == ego_to_start)
        level = level.flatten(1).all(1)[:, None, None]
        before = state.labels
        if self.traffic.traffic != CONSTANT_VELOCITY:
            before = without_bodies(before, state.agents.found, state.agents.now, here, self.grid)
        previous = previous_forecast(before, torch.where(level, next_to_curr, invert_pose(here) @ there), self.grid)
        if self.traffic.traffic == LOG_LIKE or self.traffic.traffic in DRAWN:
            agents = state.agents.reacted(state.ego_to_start, next_to_curr, self.grid)
        else:
            agents = state.agents.stepped()
        bodies = None
        if self.traffic.traffic != CONSTANT_VELOCITY:
            bodies = place_bodies(state.seen.movers, agents.found, agents.now, there, self.grid)
        evidence = gather_evidence(
            state.seen,
            there,
            elapsed,
            self.grid,
            displacement_m=displacement,
            previous=previous,
            draw=None if bodies is None else bodies.onto,
        )
        labels, certainty = self.model.fusion.forecast(evidence, state.belief if self.self_check else None)
        if bodies is not None:
            # A body keeps its voxels, whatever the network makes of them far ahead.
            bodies.onto(labels)
        return GeometricState(
            seen=state.seen,
            ego_to_start=ego_to_start,
            displacement_m=displacement,
            elapsed_s=elapsed,
            labels=labels,
            certainty=certainty,
            belief=state.belief,
            agents=agents,
            road=state.road,
        )

    def occupancy(self, state: GeometricState) -> Tensor:
        return state.labels

    def draw_traffic(self, state: GeometricState, seed: Tensor) -> GeometricState:
        """A reset's state with drivers drawn from seeds (B,) int64, where the traffic is of that sort."""
        kind = DRAWN.get(self.traffic.traffic)
        if kind is None:
            return state
        styles = Styles.drawn(state.agents.found.tracks, seed, kind)
        return replace(state, agents=replace(state.agents, styles=styles))

    def agents(self, state: GeometricState) -> Tracks:
        """The tracked objects now, in the current ego frame."""
        return state.agents.seen_from(state.ego_to_start)

    def trust_figures(self, state: GeometricState) -> dict[str, Tensor]:
        """What the forecast trust is made of, (B,) by name; see `Certainty`, and how well the past was forecast."""
        certainty = {name: getattr(state.certainty, name) for name in ("unseen", "expected_iou")}
        return {**certainty, "past_iou": torch.maximum(state.belief.network_iou, state.belief.evidence_iou)}

    def self_check_figures(self, state: GeometricState) -> dict[str, Tensor]:
        """How the network stands beside no learning, (B,) by name: the IoU with a known frame that it and the evidence
        reached at the reset, and by how much its forecast is expected to be better now: what it expects itself, less
        what it expected too much then."""
        belief, lead = state.belief, state.certainty.expected_lead
        lead = torch.where(state.elapsed_s > 0, lead - belief.optimism, lead)
        return {"network_iou": belief.network_iou, "evidence_iou": belief.evidence_iou, "expected_lead": lead}
