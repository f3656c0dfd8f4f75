"""A driver that was learned: a small network reads what a road user meets on several paths, and says how it goes on.

It sees no lanes and no signals, which voxels do not show: the road ahead along arcs, the others and the ego on
them, and what the Intelligent Driver Model would do, which it corrects. Its answer is a mixture of Gaussians over
acceleration and curvature (Bishop, Mixture Density Networks, 1994): drivers at a junction have more than one future.

Legend: B grids, K slots, P paths, F features, M parts of the mixture, N road users.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.core.grid import CLASS_ID, STEP_S, VoxelGrid
from world_model.models.geometric.agents.drivers import (
    FAR_M,
    POINTS,
    DriverConfig,
    EgoMotion,
    Road,
    Styles,
    acceleration,
    free_points,
    gaps,
    path_curvature,
)
from world_model.models.geometric.agents.segments import small_classes
from world_model.models.geometric.agents.tracks import Tracks, wrapped

BENDS = (0.0, 0.05, -0.05)
"""Curvatures on which others are looked for, 1/m, beside that of the road."""
FEATURES = 49
ACCEL_MPS2, CURVATURE = 3.0, 0.1
"""Units of the answer."""
FLOOR = (0.15, 0.05)
"""Least deviations of the parts, in these units."""
HARDEST_MPS2, STRONGEST_MPS2, TIGHTEST, GRIP_MPS2 = 7.0, 2.8, 0.2, 4.0
"""No road user brakes or accelerates harder, turns tighter (1/m), or pulls sideways more than this."""
STANDOFF_M = 1.0
"""Space that is kept to the ego, however hard that brakes."""


@dataclass(frozen=True, kw_only=True)
class DriverNetConfig:
    """Sizes.

    Args:
        width: of the two hidden layers.
        parts: of the mixture.
    """

    width: int = 96
    parts: int = 3


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What N road users may do next, a mixture of M parts.

    Attributes:
        logit: (N, M) of the parts' weights.
        mean: (N, M, 2) acceleration in m/s² and curvature in 1/m.
        spread: (N, M, 2) standard deviations.
    """

    logit: Tensor
    mean: Tensor
    spread: Tensor

    def negative_log_likelihood(self, true: Tensor, known: Tensor) -> Tensor:
        """(N,) for what was done (N, 2), of which some (N, 2) bool is known; densities in `ACCEL_MPS2`, `CURVATURE`."""
        unit = true.new_tensor((ACCEL_MPS2, CURVATURE))
        off = (true[:, None] - self.mean) / self.spread
        each = (-0.5 * off.square() - (self.spread / unit).log() - 0.5 * math.log(2 * math.pi)) * known[:, None]
        return -torch.logsumexp(self.logit.log_softmax(1) + each.sum(-1), 1)

    def taken(self, luck: Tensor) -> Tensor:
        """(N, 2) the middle of one part: where luck (N,) in [0, 1] falls, NaN takes the weightiest."""
        weight = self.logit.softmax(1)
        drawn = (weight.cumsum(1) < luck.nan_to_num(0.0)[:, None]).sum(1).clamp(max=weight.shape[1] - 1)
        part = torch.where(luck.isnan(), weight.argmax(1), drawn)
        return self.mean[torch.arange(len(part), device=part.device), part]


class DriverNet(nn.Module):
    """The learned driver.

    Args:
        config: its sizes.
    """

    def __init__(self, config: DriverNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DriverNetConfig()
        self.body = nn.Sequential(
            nn.Linear(FEATURES, config.width), nn.SiLU(), nn.Linear(config.width, config.width), nn.SiLU()
        )
        self.out = nn.Linear(config.width, 5 * config.parts)

    def forward(self, features: Tensor) -> Choice:
        """What road users with features (N, F) may do; the first two are what the model without learning does."""
        logit, mean, spread = self.out(self.body(features)).split([self.config.parts, *[2 * self.config.parts] * 2], 1)
        unit, floor = features.new_tensor((ACCEL_MPS2, CURVATURE)), features.new_tensor(FLOOR)
        mean = mean.view(len(features), -1, 2) + features[:, None, :2]
        spread = F.softplus(spread.view(len(features), -1, 2)) * 0.5 + floor
        return Choice(logit=logit, mean=mean * unit, spread=spread * unit)


def features_of(tracks: Tracks, styles: Styles, ego: EgoMotion, road: Road, grid: VoxelGrid) -> Tensor:
    """(B, K, F) what the network reads of each road user.

    Args:
        tracks: before the step.
        styles: how each of them drives.
        ego: what the ego does meanwhile.
        road: where they can drive.
        grid: the voxel grid.
    """
    batch, count = tracks.x.shape
    free, config = free_points(tracks, road, grid), DriverConfig()
    own = path_curvature(tracks, road, grid)
    paths = torch.stack((own, *(torch.full_like(own, bend) for bend in BENDS)), 1)
    many = paths.shape[1]

    def met(heeds: Tensor) -> tuple[Tensor, Tensor]:
        found = gaps(
            tracks.expand(many),
            paths.flatten(0, 1),
            EgoMotion(**{name: value.repeat_interleave(many) for name, value in vars(ego).items()}),
            heeds.repeat_interleave(many, 0),
            config.side_m,
        )
        gap, lead = (part.view(batch, many, count) for part in found)
        return gap, lead

    speed, parts = tracks.speed, []
    for heeds in (styles.heeds_ego, torch.zeros_like(styles.heeds_ego)):
        gap, lead = met(heeds)
        closing = (speed[:, None] - lead) * (gap < FAR_M)
        parts += [(-gap / 8).exp(), closing / 5, (speed[:, None] * closing / (gap + 2) / 4).clamp(-2, 2)]
        parts.append((acceleration(speed, styles, gap[:, 0], lead[:, 0], config) / ACCEL_MPS2)[:, None])
    small = small_classes(speed.device)[tracks.class_id.long()]
    person = tracks.class_id == CLASS_ID["pedestrian"]
    driven = torch.where(person, 0.0, parts[3][:, 0])
    dx, dy = ego.x[:, None] - tracks.x, ego.y[:, None] - tracks.y
    c, s = tracks.yaw.cos(), tracks.yaw.sin()
    turn = wrapped(ego.yaw[:, None] - tracks.yaw)
    plain = (
        driven,
        torch.where(small, 0.0, own) / CURVATURE,
        speed / 10,
        styles.desired_mps / 10,
        (styles.desired_mps - speed) / 5,
        tracks.length / 10,
        small.float(),
        person.float(),
        ((c * dx + s * dy) / 20).clamp(-2, 2),
        ((c * dy - s * dx) / 20).clamp(-2, 2),
        turn.cos(),
        turn.sin(),
        (ego.speed / 10)[:, None].expand_as(speed),
        (tracks.yaw_rate / speed.clamp(min=1.0) / CURVATURE).clamp(-2, 2),
    )
    columns = [torch.stack(plain, 1), *parts, free.movedim(-1, 1).float() / POINTS]
    return torch.cat(columns, 1).transpose(1, 2)


def drive_on(net: DriverNet, tracks: Tracks, styles: Styles, ego: EgoMotion, road: Road, grid: VoxelGrid) -> Tracks:
    """The objects one step later, driven by the network; what stood at the reset stands on, and people and cycles keep
    their velocity: a column beside their place is as wrong as none. See `react`.

    No vehicle that heeds the ego goes faster than lets it stop behind it, however hard that brakes (Krauss, 1998).
    """
    read = features_of(tracks, styles, ego, road, grid)
    accel, curvature = net(read.flatten(0, 1)).taken(styles.luck.flatten()).view(*tracks.x.shape, 2).unbind(-1)
    speed, small = tracks.speed, small_classes(tracks.x.device)[tracks.class_id.long()]
    accel, curvature = accel.masked_fill(small, 0.0), curvature.masked_fill(small, 0.0)
    alone = replace(tracks, alive=torch.zeros_like(tracks.alive))
    gap, lead = gaps(alone, curvature, ego, styles.heeds_ego, DriverConfig().side_m)
    reach = HARDEST_MPS2 * STEP_S
    room = (reach**2 + lead.clamp(min=0).square() + 2 * HARDEST_MPS2 * (gap - STANDOFF_M)).clamp(min=0)
    safe = torch.where((gap < FAR_M) & ~small, (room.sqrt() - reach - speed) / STEP_S, STRONGEST_MPS2)
    accel = torch.minimum(accel, safe).clamp(-HARDEST_MPS2, STRONGEST_MPS2)
    after = (speed + STEP_S * accel).clamp(min=0) * (styles.desired_mps > 0)
    mean = (speed + after) / 2
    most = (GRIP_MPS2 / mean.square().clamp(min=0.1)).clamp(max=TIGHTEST)
    curvature = torch.maximum(torch.minimum(curvature, most), -most)
    return replace(replace(tracks, speed=mean, yaw_rate=mean * curvature).advanced(STEP_S), speed=after)
