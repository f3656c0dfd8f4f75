"""The geometry-first world: what was seen moves with the ego and by itself, a network weighs and completes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from world_model.core.geometry import invert_pose
from world_model.core.grid import FREE, STEP_S
from world_model.core.tensor_state import TensorState
from world_model.data.clips import Clips
from world_model.models.geometric import GeometricForecaster
from world_model.models.geometric.agents.actors import Actors, staged
from world_model.models.geometric.agents.bodies import Drawn, draw_all, near, place_bodies, without_bodies
from world_model.models.geometric.agents.boxes import boxes_before, tracks_of_boxes
from world_model.models.geometric.agents.completion import completed
from world_model.models.geometric.agents.driver_net import DriverNet
from world_model.models.geometric.agents.drivers import road_of
from world_model.models.geometric.agents.recorded import recorded
from world_model.models.geometric.agents.scripts import Scripts
from world_model.models.geometric.agents.solids import place_solids
from world_model.models.geometric.agents.state import Agents
from world_model.models.geometric.agents.tracker import Found, find_tracks, observe_bodies
from world_model.models.geometric.agents.tracks import Tracks
from world_model.models.geometric.belief import Belief, absent_classes
from world_model.models.geometric.evidence import (
    OBSERVED,
    Evidence,
    Observation,
    gather_evidence,
    is_movable,
    observe,
    previous_forecast,
    remember,
    without_movers,
)
from world_model.models.geometric.fusion import Certainty
from world_model.models.geometric.riding import RoadPlane
from world_model.worlds.traffic import BOXES, CONSTANT_VELOCITY, REACTING, REPLAY, TrafficConfig

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
        driver: how others drive where the traffic reacts; None: by the Intelligent Driver Model.
    """

    needs_future_labels = False

    def __init__(
        self,
        model: GeometricForecaster,
        *,
        self_check: bool = True,
        traffic: TrafficConfig | None = None,
        rides: bool = True,
        driver: DriverNet | None = None,
    ) -> None:
        self.model, self.grid, self.self_check = model.eval(), model.config.grid, self_check
        self.traffic, self.rides, self.driver = traffic or TrafficConfig(), rides, driver

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
        seen, found, scripts = self._observe(aligned, clips)
        batch = len(labels)
        return GeometricState(
            seen=seen,
            ego_to_start=torch.eye(4, dtype=torch.float32, device=device).repeat(batch, 1, 1),
            displacement_m=torch.zeros_like(seen.velocity_mps),
            elapsed_s=torch.zeros(batch, dtype=torch.float32, device=device),
            labels=seen.labels if self.traffic.traffic == CONSTANT_VELOCITY else aligned[:, 0].clone(),
            certainty=Certainty.of_observation(batch, device),
            belief=self._check(labels, aligned),
            agents=Agents.of(found, road_of(seen.still, seen.memory, self.grid), scripts),
            road=road,
        )

    def _observe(self, aligned: Tensor, clips: Clips) -> tuple[Observation, Found, Scripts | None]:
        """What stands, what moves and how fast, the tracks of objects, and what was recorded of them."""
        motion = self.model.motion
        speed, going = motion.by_column(aligned)
        index = clips.index
        boxes = [] if index is None else [index.boxes(frame) for frame in clips.frame]
        if index is not None and self.traffic.agents == BOXES and any(len(one.class_id) for one in boxes):
            before = [boxes_before(index, frame) for frame in clips.frame]
            found = tracks_of_boxes(aligned[:, 0], boxes, self.grid, before)
        else:
            found = find_tracks(aligned, speed.permute(0, 2, 3, 1), going[:, 0], self.grid)
        column_mps = motion.of_movers(aligned, speed, going)
        if self.traffic.traffic == CONSTANT_VELOCITY:
            return observe(aligned, column_mps), found, None
        scripts = None
        if self.traffic.traffic == REPLAY and clips.index is not None:
            tracks, scripts = recorded(found.tracks, clips.index, clips.frame)
            found = replace(found, tracks=tracks)
        seen = observe_bodies(aligned, found, column_mps)
        movers, found = completed(seen.movers, found, self.grid)
        return replace(seen, movers=movers), found, scripts

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
        agents, before = state.agents, state.labels
        whole, solid = self._drawn(agents)
        if self.traffic.traffic != CONSTANT_VELOCITY or bool(solid.any()):
            before = without_bodies(before, agents.found, agents.now, here, self.grid, whole | solid)
        if self.traffic.traffic == CONSTANT_VELOCITY:
            before = without_movers(before, state.seen, state.displacement_m, here, self.grid)
        previous = previous_forecast(before, torch.where(level, next_to_curr, invert_pose(here) @ there), self.grid)
        number = (elapsed / STEP_S).round().long()
        if self.traffic.traffic in REACTING:
            agents = agents.reacted(number, state.ego_to_start, next_to_curr, self.grid, self.driver)
        else:
            agents = agents.stepped(number)
        bodies = self._bodies(state, agents, there)
        evidence = gather_evidence(
            state.seen,
            there,
            elapsed,
            self.grid,
            displacement_m=displacement,
            previous=previous,
            draw=(lambda labels: draw_all(bodies, labels)) if bodies else None,
        )
        labels, certainty = self.model.fusion.forecast(evidence, state.belief if self.self_check else None)
        if bodies:
            # Where the ego meets it, a body keeps its voxels. Elsewhere the network may leave out what it is unsure of.
            kept = near(agents.now, there) | solid
            draw_all([part.some(kept) for part in bodies], labels)
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

    def _drawn(self, agents: Agents) -> tuple[Tensor, Tensor]:
        """(B, K) bool, what is drawn as a body out of what was observed, and what as a solid."""
        whole, solid = agents.whole, agents.solid
        return (torch.zeros_like(whole) if self.traffic.traffic == CONSTANT_VELOCITY else whole), solid

    def _bodies(self, state: GeometricState, agents: Agents, there: Tensor) -> list[Drawn]:
        """What is drawn into the target frame, by transforms (B, 4, 4) from it to the frame of the reset."""
        (whole, solid), found, bodies = self._drawn(agents), agents.found, list[Drawn]()
        if self.traffic.traffic != CONSTANT_VELOCITY:
            movers, road = state.seen.movers, state.road
            bodies.append(place_bodies(movers, found, agents.now, there, self.grid, whole=whole, road=road))
        if bool(solid.any()):
            bodies.append(place_solids(solid, found.tracks, agents.now, state.road, there, self.grid))
        return bodies

    def draw_traffic(
        self, state: GeometricState, seed: Tensor, futures: Sequence[str | None] | None = None
    ) -> GeometricState:
        """A reset's state with drivers drawn from seeds (B,) int64, where the traffic, or the future asked for, is of
        that sort.

        Args:
            state: of a reset.
            seed: (B,) int64.
            futures: (B) "mode": the most likely drivers, "sample": drawn ones, None: as the traffic says.

        Raises:
            OptionError: a future of traffic that has only one.
        """
        styles = self.traffic.styles(state.agents, seed, futures)
        return state if styles is None else replace(state, agents=replace(state.agents, styles=styles))

    def stage(self, state: GeometricState, actors: Actors) -> GeometricState:
        """A reset's state with the actors of events, see `world_model.worlds.events`."""
        actors = actors.map(lambda value: value.to(self.device))
        agents, cleared = staged(state.agents, actors, self.grid)

        def without(labels: Tensor) -> Tensor:
            return labels.masked_fill(cleared[..., None] & is_movable(labels), FREE)

        parts = {name: without(getattr(state.seen, name)) for name in ("still", "movers", "memory")}
        seen = replace(state.seen, **parts, velocity_mps=state.seen.velocity_mps * ~cleared[..., None])
        labels, found = without(state.labels), agents.found
        place_solids(agents.solid, found.tracks, agents.now, state.road, state.ego_to_start, self.grid).onto(labels)
        return replace(state, seen=seen, labels=labels, agents=agents)

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
