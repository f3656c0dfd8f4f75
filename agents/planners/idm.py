"""The Intelligent Driver Model (Treiber et al., Phys. Rev. E 62, 2000) on occupancy, steering by pure pursuit.

It reads the forecast only: the gap is the free way along the route, and the speed of the vehicle ahead is how that gap
changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agents.planners.planner import follows, moment
from ii_world_env.ego.corridor import LOOK_M, MIN_VOXELS, SIDE_M, corridor, free_way
from ii_world_env.ego.footprint import band, columns_at, in_body
from ii_world_env.ego.route import points_at
from ii_world_env.engine import Engine, State
from world_model.core.geometry import into, inverse
from world_model.core.grid import OBSTACLE, STEP_S
from world_model.core.vehicle import MAX_BRAKE_MPS2


@dataclass(frozen=True, kw_only=True)
class IDMConfig:
    """Parameters of the driver.

    Args:
        speed_mps: wanted speed on a free road; chosen among 8 to 12 on the split "tune" of the synthetic scenes.
        headway_s: time gap to the vehicle ahead.
        gap_m: distance kept at standstill.
        accel_mps2, brake_mps2: comfortable acceleration and braking.
        lateral_mps2: the wanted speed drops in bends so that the lateral acceleration stays below this.
        side_m: free width wanted on each side of the body.
        look_m: how far ahead the corridor is searched.
        min_voxels: obstacle voxels within a metre of the corridor from which on it is blocked.
    """

    speed_mps: float = 11.0
    headway_s: float = 1.3
    gap_m: float = 2.5
    accel_mps2: float = 1.8
    brake_mps2: float = 2.5
    lateral_mps2: float = 2.0
    side_m: float = SIDE_M
    look_m: float = LOOK_M
    min_voxels: int = MIN_VOXELS


class IDM:
    """Follows the route, keeps its distance.

    Args:
        engine: says which actions there are and what the grid is.
        config: the driver's parameters.
    """

    name = "idm"

    def __init__(self, engine: Engine, config: IDMConfig | None = None) -> None:
        self.mode, self.grid, self.footprint = engine.action_mode, engine.world.grid, engine.config.footprint
        self.config = config or IDMConfig()
        self._gap: Tensor | None = None
        self._seen: Tensor | None = None

    def reset(self, state: State) -> None:
        """Forget the gap of the last step.

        Rows of a batch in which an episode begins anew (autoreset) need no call: a gap counts only for the step that
        follows in the same episode.
        """
        self._gap = self._seen = None

    def act(self, state: State) -> Tensor:
        config, speed = self.config, state.speed_mps
        gap = self.free_way(state)
        leader = self._leader_speed(gap, state)
        self._gap, self._seen = gap, moment(state)
        curvature, bend = self._curvature(state)
        wanted = (config.lateral_mps2 / bend.clamp(min=1e-3)).sqrt().clamp(max=config.speed_mps)
        braking = speed * (speed - leader) / (2 * (config.accel_mps2 * config.brake_mps2) ** 0.5)
        distance = config.gap_m + (speed * config.headway_s + braking).clamp(min=0)
        accel = config.accel_mps2 * (1 - (speed / wanted) ** 4 - (distance / gap.clamp(min=0.1)).square())
        accel = accel.clamp(-MAX_BRAKE_MPS2, config.accel_mps2)
        faster = (speed + accel * STEP_S).clamp(min=0)
        way = (speed + faster) / 2 * STEP_S
        turn = curvature * way
        target = torch.stack((way * torch.sinc(turn / torch.pi), way * turn / 2, turn), -1)
        return self.mode.inverse(target, speed)

    def free_way(self, state: State) -> Tensor:
        """(B,) metres from the front bumper to the first obstacle in the corridor along the route; 100 if free."""
        config, voxel = self.config, self.grid.voxel_m
        way = corridor(state.route, state.progress_m, voxel, config.look_m, config.side_m)
        local = into(state.pose, way.flatten(1, 2))
        low, high = band(self.footprint.band_m, self.grid)
        column = columns_at(state.level_labels[..., low:high], local, self.grid)
        obstacle = torch.zeros(256, dtype=torch.float32, device=column.device)
        obstacle[list(OBSTACLE)] = 1
        solid = obstacle[column.int()].sum(-1)
        # What stood in the ego's own place at reset is label noise for the engine, too.
        solid = solid * ~in_body(into(inverse(state.pose), local), self.footprint.spawn_margin_m)
        return free_way(solid.view(way.shape[:3]), voxel, config.look_m, config.min_voxels)

    def _leader_speed(self, gap: Tensor, state: State) -> Tensor:
        """(B,) speed of what is ahead; standing where it was not seen in the step before."""
        still = torch.zeros_like(gap)
        if self._gap is None or self._seen is None or self._gap.shape != gap.shape:
            return still
        seen = (gap < 99) & (self._gap < 99) & follows(self._seen, state)
        return torch.where(seen, state.speed_mps + (gap - self._gap) / STEP_S, still).clamp(0, 15)

    def _curvature(self, state: State) -> tuple[Tensor, Tensor]:
        """(B,) curvature that leads back to the route, and the largest curvature of the route ahead."""
        look = (state.speed_mps * 1.0).clamp(min=5.0)
        point = into(state.pose, points_at(state.route, (state.progress_m + look)[:, None]))[:, 0]
        curvature = 2 * point[:, 1] / point.square().sum(-1).clamp(min=1.0)
        ahead = torch.arange(0.0, 21.0, 3.0, dtype=torch.float32, device=look.device)
        steps = points_at(state.route, state.progress_m[:, None] + ahead).diff(dim=1)
        heading = torch.atan2(steps[..., 1], steps[..., 0])
        turn = torch.remainder(heading.diff(dim=1) + torch.pi, 2 * torch.pi) - torch.pi
        return curvature, (turn.abs() / 3.0).amax(1)
