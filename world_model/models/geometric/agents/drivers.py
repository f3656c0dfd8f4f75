"""Drivers that answer: others keep a gap to whatever is ahead of them, the ego included, and follow the road.

Gap keeping is the Intelligent Driver Model (Treiber, Hennecke, Helbing, Phys. Rev. E 62, 2000). Lanes are not known:
what is ahead is what lies in the strip that an object's own path sweeps. On a free road the observed speed is kept.

Legend: B grids, K slots, J = K + 1 things to meet (the last is the ego), C curvatures, S points along a path.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.core.grid import (
    DRIVEABLE,
    EGO_LENGTH_M,
    EGO_REAR_OVERHANG_M,
    EGO_WIDTH_M,
    FREE,
    STEP_S,
    VoxelGrid,
)
from world_model.core.tensor_state import TensorState
from world_model.models.geometric.agents.segments import small_classes
from world_model.models.geometric.agents.tracks import Tracks, wrapped

SUBSTEPS = 2
CURVATURES = (0.0, 0.02, -0.02, 0.05, -0.05, 0.09, -0.09, 0.14, -0.14)
"""Paths that are tried, 1/m, the straightest first."""
POINTS, SPACING_M = 7, 2.5
"""Points along a path that must lie on the road, and their distance."""
SHOULDER_M = 0.8
"""The middle of a vehicle keeps so far from the edge of the road."""
FAR_M = 100.0
SAME_WAY_SIDE_M = 0.2
SAME_WAY_RAD = 0.3
"""Whose headings differ by less go the same way."""
HEADWAY_S = 0.9
"""Time gap that was chosen with the other figures of `DriverConfig`."""


@dataclass(frozen=True, kw_only=True)
class DriverConfig:
    """How all drivers keep their gaps; chosen on synthetic training scenes (docs/concepts/geometric.md).

    Args:
        accel_mps2, brake_mps2: comfortable acceleration and braking.
        hardest_mps2: hardest braking.
        standstill_m: gap to what stands.
        side_m: what passes closer than this to the swept strip is met; negative: only what reaches so far into it.
    """

    accel_mps2: float = 1.5
    brake_mps2: float = 2.0
    hardest_mps2: float = 7.0
    standstill_m: float = 2.0
    side_m: float = -0.2


@dataclass(frozen=True, kw_only=True)
class StyleKind:
    """What sort of drivers are drawn.

    Args:
        faster, closer: mean of the wanted speed over the observed one, and of the time gap over `HEADWAY_S`.
        spread: standard deviation of both.
        careless: share of those who do not brake for the ego.
    """

    faster: float = 1.0
    closer: float = 1.0
    spread: float = 0.2
    careless: float = 0.0


AGGRESSIVE = StyleKind(faster=1.3, closer=0.5, careless=0.5)


@dataclass(frozen=True, kw_only=True)
class Styles(TensorState):
    """How each driver of B grids drives.

    Attributes:
        desired_mps: (B, K) float32 speed on a free road; what has none stands.
        headway_s: (B, K) float32 time gap to what is ahead.
        heeds_ego: (B, K) bool, whether it brakes for the ego, too.
        luck: (B, K) float32 in [0, 1], which of the possible ways a learned driver takes; NaN: the most likely.
    """

    desired_mps: Tensor
    headway_s: Tensor
    heeds_ego: Tensor
    luck: Tensor = field(
        metadata={"absent": lambda like, rows: torch.full_like(like[:1], float("nan")).repeat(rows, 1)}
    )

    @classmethod
    def observed(cls, tracks: Tracks) -> Styles:
        """Everybody keeps the observed speed where the road is free, and `HEADWAY_S` where it is not."""
        headway = torch.full_like(tracks.speed, HEADWAY_S)
        luck = torch.full_like(headway, float("nan"))
        return cls(desired_mps=tracks.speed, headway_s=headway, heeds_ego=torch.ones_like(tracks.alive), luck=luck)

    @classmethod
    def likely(cls, tracks: Tracks, kind: StyleKind) -> Styles:
        """The most likely drivers of a kind: everybody in its middle, and everybody heeds the ego."""
        observed = cls.observed(tracks)
        speed, gap = observed.desired_mps * kind.faster, observed.headway_s * kind.closer
        return replace(observed, desired_mps=speed, headway_s=gap)

    def where(self, chosen: Tensor, other: Styles) -> Styles:
        """These in chosen rows (B,) bool, others elsewhere."""
        names = [each.name for each in fields(Styles)]
        return Styles(**{n: torch.where(chosen[:, None], getattr(self, n), getattr(other, n)) for n in names})

    @classmethod
    def drawn(cls, tracks: Tracks, seed: Tensor, kind: StyleKind) -> Styles:
        """Drivers who differ: each grid's from its own seed (B,) int64, whatever else is in the batch."""
        shape = (4, tracks.speed.shape[1])
        rows = [torch.randn(shape, generator=torch.Generator().manual_seed(one)) for one in seed.tolist()]
        speed, gap, other, luck = torch.stack(rows, 1).to(tracks.speed.device)
        observed, careless = cls.observed(tracks), torch.special.ndtr(other) < kind.careless
        return cls(
            desired_mps=observed.desired_mps * (kind.faster + kind.spread * speed).clamp(0.5, 2.0),
            headway_s=observed.headway_s * (kind.closer + kind.spread * gap).clamp(0.2, 2.0),
            heeds_ego=~careless,
            luck=torch.special.ndtr(luck),
        )


@dataclass(frozen=True, kw_only=True)
class Road(TensorState):
    """Where B scenes can be driven, as seen at the reset.

    Attributes:
        off: (B, X, Y) bool, ground of another kind, or too close to it; False on the road and where nothing was seen.
    """

    off: Tensor


def road_of(labels: Tensor, memory: Tensor, grid: VoxelGrid) -> Road:
    """The road out of what was observed, labels and memory (B, X, Y, Z) uint8 without what moves."""
    on = ((labels == DRIVEABLE) | (memory == DRIVEABLE)).any(-1)
    return Road(off=around((labels != FREE).any(-1) & ~on, grid))


def around(off: Tensor, grid: VoxelGrid) -> Tensor:
    """(B, X, Y) bool where it is, or within `SHOULDER_M`."""
    reach = 2 * round(SHOULDER_M / grid.voxel_m) + 1
    return F.max_pool2d(off.float()[:, None], reach, 1, reach // 2)[:, 0] > 0


@dataclass(frozen=True, kw_only=True)
class EgoMotion:
    """The ego in one step, in the frame of the tracks.

    Attributes:
        x, y, yaw: (B,) pose of its rear axle at the beginning of the step.
        speed: (B,) m/s in the step.
    """

    x: Tensor
    y: Tensor
    yaw: Tensor
    speed: Tensor


def react(
    tracks: Tracks,
    styles: Styles,
    ego: EgoMotion,
    road: Road,
    grid: VoxelGrid,
    config: DriverConfig | None = None,
) -> Tracks:
    """The objects one step later.

    Args:
        tracks: before it.
        styles: how each of them drives.
        ego: what the ego does meanwhile.
        road: where they can drive.
        grid: the voxel grid.
        config: how drivers are.
    """
    config, h = config or DriverConfig(), STEP_S / SUBSTEPS
    vehicle = ~small_classes(tracks.x.device)[tracks.class_id.long()]
    curvature = torch.where(vehicle & tracks.moving, path_curvature(tracks, road, grid), 0.0)
    for part in range(SUBSTEPS):
        ahead = replace(
            ego,
            x=ego.x + part * h * ego.speed * ego.yaw.cos(),
            y=ego.y + part * h * ego.speed * ego.yaw.sin(),
        )
        gap, lead = gaps(tracks, curvature, ahead, styles.heeds_ego, config.side_m)
        accel = acceleration(tracks.speed, styles, gap, lead, config)
        after = (tracks.speed + h * torch.where(vehicle, accel, 0.0)).clamp(min=0) * (styles.desired_mps > 0)
        mean = (tracks.speed + after) / 2
        tracks = replace(replace(tracks, speed=mean, yaw_rate=mean * curvature).advanced(h), speed=after)
    return tracks


def acceleration(speed: Tensor, styles: Styles, gap: Tensor, lead: Tensor, config: DriverConfig) -> Tensor:
    """IDM acceleration (B, K) in m/s² from speeds in m/s and gaps in metres (B, K)."""
    ease = 2 * (config.accel_mps2 * config.brake_mps2) ** 0.5
    wanted = config.standstill_m + (speed * (styles.headway_s + (speed - lead) / ease)).clamp(min=0)
    free = 1 - (speed / styles.desired_mps.clamp(min=0.1)) ** 4
    accel: Tensor = config.accel_mps2 * (free - (wanted / gap.clamp(min=0.1)).square())
    return accel.clamp(-config.hardest_mps2, config.accel_mps2)


def gaps(tracks: Tracks, curvature: Tensor, ego: EgoMotion, heeds_ego: Tensor, side_m: float) -> tuple[Tensor, Tensor]:
    """Free way (B, K) in metres along the path of each object, and the speed (B, K) along it of what ends it."""
    middle = EGO_LENGTH_M / 2 - EGO_REAR_OVERHANG_M

    def joined(name: str, own: Tensor | float) -> Tensor:
        value = getattr(tracks, name)
        last = torch.as_tensor(own, dtype=value.dtype, device=value.device).expand(len(value))
        return torch.cat((value, last[:, None]), 1)[:, None]

    x, y = joined("x", ego.x + middle * ego.yaw.cos()), joined("y", ego.y + middle * ego.yaw.sin())
    yaw, speed = joined("yaw", ego.yaw), joined("speed", ego.speed)
    half_l, half_w = joined("length", EGO_LENGTH_M) / 2, joined("width", EGO_WIDTH_M) / 2
    own_yaw = tracks.yaw[..., None]
    c, s = own_yaw.cos(), own_yaw.sin()
    dx, dy = x - tracks.x[..., None], y - tracks.y[..., None]
    along = c * dx + s * dy
    # The path bends away from the straight line by about k * d² / 2.
    aside = c * dy - s * dx - curvature[..., None] * along.square() / 2
    turn = wrapped(yaw - own_yaw - curvature[..., None] * along)
    depth = half_l * turn.cos().abs() + half_w * turn.sin().abs()
    breadth = half_l * turn.sin().abs() + half_w * turn.cos().abs()
    gap = along - depth - tracks.length[..., None] / 2
    # Of those that go the same way, headings tell more of the lane than a path that is guessed from the road: on one
    # lane, what is ahead is turned by twice the angle under which it is seen.
    parallel = wrapped(yaw - own_yaw)
    same = parallel.abs() < SAME_WAY_RAD
    aside = torch.where(same, c * dy - s * dx - parallel * along / 2, aside)
    reach = breadth + tracks.width[..., None] / 2 + torch.where(same, SAME_WAY_SIDE_M, side_m)
    met = (aside.abs() < reach) & (along > 0)
    count = tracks.x.shape[1]
    others = tracks.alive[:, None].expand(-1, count, -1)
    itself = torch.eye(count, count + 1, dtype=torch.bool, device=x.device)
    met &= torch.cat((others, heeds_ego[..., None]), 2) & ~itself
    nearest, who = gap.masked_fill(~met, FAR_M).min(2)
    lead = (speed * turn.cos()).expand_as(gap).gather(2, who[..., None])[..., 0]
    return nearest.clamp(min=0.0), torch.where(nearest < FAR_M, lead, tracks.speed)


def free_points(tracks: Tracks, road: Road, grid: VoxelGrid) -> Tensor:
    """(B, K, C) how many of the `POINTS` along each of `CURVATURES` lie on the road, up to the first that does not."""
    (size_x, size_y, _), low = grid.shape, grid.lower_m
    bend = tracks.x.new_tensor(CURVATURES)[:, None]
    way = SPACING_M * torch.arange(1, POINTS + 1, dtype=tracks.x.dtype, device=tracks.x.device)
    half = bend * way / 2
    chord = way * torch.sinc(half / torch.pi)
    angle = tracks.yaw[..., None, None] + half
    x, y = (tracks.x[..., None, None] + chord * angle.cos(), tracks.y[..., None, None] + chord * angle.sin())
    i, j = ((at - low[axis]).div(grid.voxel_m).floor().long() for axis, at in enumerate((x, y)))
    inside = (i >= 0) & (i < size_x) & (j >= 0) & (j < size_y)
    batch = torch.arange(len(tracks.x), device=x.device).view(-1, 1, 1, 1) * (size_x * size_y)
    off = road.off.reshape(-1)[torch.where(inside, batch + i * size_y + j, 0)] & inside
    return (~off).to(torch.uint8).cumprod(-1).sum(-1)


def path_curvature(tracks: Tracks, road: Road, grid: VoxelGrid) -> Tensor:
    """(B, K) the straightest of `CURVATURES` that stays on the road longest."""
    free, bend = free_points(tracks, road, grid), tracks.x.new_tensor(CURVATURES)
    # The first of equals is the straightest.
    best = (free * len(CURVATURES) - torch.arange(len(CURVATURES), device=free.device)).argmax(-1)
    return bend.index_select(0, best.reshape(-1)).view(best.shape)
