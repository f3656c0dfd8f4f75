"""Tracks from voxels alone: segments of the current frame, found again in the frames before it.

The network's velocity says where to look; where the object's columns were then says how fast it really is. Small
objects are located to a tenth of a metre by their middle, so their velocity is known far better than a network reads
it; of large ones a sensor sees another part in every frame, and the network's word counts more.

Legend: B grids, P earlier frames (newest first), N columns of all grids, S segments, C candidates, K slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from world_model.core.grid import CLASS_ID, CLASS_NAMES, FREE, STEP_S, VoxelGrid
from world_model.core.sparse import any_in_columns, member
from world_model.core.tensor_state import TensorState
from world_model.models.geometric.agents.segments import (
    Columns,
    Shape,
    bounds,
    measure,
    movable_columns,
    segments,
    small_classes,
    usual_sizes,
)
from world_model.models.geometric.agents.tracks import SLOTS, Tracks
from world_model.models.geometric.evidence import Observation, observe

BLANK = 255
"""A column of an earlier frame in which nothing at all was seen."""
SEARCH_MPS = ((1.5, 0.5), (0.375, 0.125))
"""Reach and step of the two searches for a velocity, coarse and fine."""
PRIOR = 0.01
"""Share of the columns found again that a deviation of 1 m/s from the network's velocity has to gain (squared)."""
SHARPNESS = 0.02
"""Candidates whose share is less than about this below the best count, too."""
GATE_M = 0.4
"""An object is looked for within its usual box, grown by this much."""
PRIOR_WEIGHT = {"car": 6.0, "bus": 2.5, "trailer": 2.5, "construction_vehicle": 2.5, "truck": 1.7}
"""Weight in s² of the network's velocity against what was observed, which weighs up to 2.5."""
SMALL_WEIGHT = 0.1
"""The same for small classes, whose prior is what the search has found."""
NETWORK_SHARE = 0.7
"""Share of the network's velocity in the prior of large classes; the rest is what the search has found."""
SLOW_MPS = 0.5
"""Slower objects stand."""
SMALL_GAIN, NO_LOSS = 0.15, -0.05
"""What moves is found again at its velocity better than where it stands, by this share of its columns: pedestrians; and
all others of which the network says that they move."""
CERTAIN_GAIN, CERTAIN_MPS = 0.5, 1.5
"""What stands for the network moves if it was found again so much better at more than this speed."""


TURN_PRIOR = 0.01
"""Weight in s⁴ of an even motion against an acceleration."""
TURN_LEAST_MPS, TURN_LEAST_RPS, TURN_MOST_RPS = 2.0, 0.12, 0.6
"""Slower objects do not turn; smaller yaw rates are noise; vehicles do not turn faster."""


@dataclass(frozen=True, kw_only=True)
class Found(TensorState):
    """What is tracked in B grids.

    Attributes:
        tracks: the objects.
        slot: (B, X, Y) uint8 slot of the object in each column of the current frame, `SLOTS` where there is none.
    """

    tracks: Tracks
    slot: Tensor

    def velocity(self) -> Tensor:
        """(B, X, Y, 2) ground velocity of the columns of moving objects, zero elsewhere."""
        tracks = self.tracks
        speed = torch.stack((tracks.yaw.cos(), tracks.yaw.sin()), -1) * (tracks.speed * tracks.alive)[..., None]
        by_slot = torch.cat((speed, torch.zeros_like(speed[:, :1])), 1)
        flat = self.slot.flatten(1).long()[..., None].expand(-1, -1, 2)
        return by_slot.gather(1, flat).view(*self.slot.shape, 2)


def observe_bodies(aligned: Tensor, found: Found, column_mps: Tensor) -> Observation:
    """What stands and what moves, where the movers are tracked bodies, and columns that found no slot.

    Args:
        aligned: (B, P + 1, X, Y, Z) labels in the current ego frame, newest first.
        found: the tracks.
        column_mps: (B, X, Y, 2) velocity of moving columns, zero elsewhere.

    Returns:
        An observation in which only columns without a slot have a velocity.
    """
    others = column_mps * (found.slot == SLOTS)[..., None]
    seen = observe(aligned, torch.where(found.slot[..., None] == SLOTS, others, found.velocity()))
    return replace(seen, velocity_mps=others)


def find_tracks(aligned: Tensor, velocity_mps: Tensor, moves: Tensor, grid: VoxelGrid) -> Found:
    """Read observed frames into tracks.

    Args:
        aligned: (B, P + 1, X, Y, Z) labels in the current ego frame, newest first.
        velocity_mps: (B, X, Y, 2) the network's velocity of what moves, wherever something movable is.
        moves: (B, X, Y) bool, where the network says that it moves.
        grid: the voxel grid.
    """
    batch, device = len(aligned), aligned.device
    slot = torch.full(aligned.shape[:1] + aligned.shape[2:4], SLOTS, dtype=torch.uint8, device=device)
    columns = movable_columns(aligned[:, 0], grid)
    if not len(columns.place):
        return Found(tracks=Tracks.none(batch, device), slot=slot)
    going = moves.reshape(-1)[columns.place]
    number = segments(columns, going, grid)
    found = _Segments.of(columns, number, velocity_mps.reshape(-1, 2)[columns.place], going)
    earlier = [movable_columns(aligned[:, p], grid) for p in range(1, aligned.shape[1])]
    matched, share, stood = _matched(found, columns, number, _maps(aligned, earlier), grid)
    fitted, bodies, turn = _fitted(found, columns, number, earlier, matched, grid.voxel_m)
    velocity = _decided(found, fitted, matched, share - stood)
    turn = turn * (share > CERTAIN_GAIN)
    row = _slots(found, velocity, batch)
    kept = row[number] < SLOTS
    slot.view(-1)[columns.place[kept]] = row[number][kept].to(torch.uint8)
    return Found(tracks=_tracks(found, bodies, velocity, turn, share, row, batch), slot=slot)


@dataclass(frozen=True, kw_only=True)
class _Segments:
    """S segments: grid, class id, voxels, centroid (S, 2), ground plan, the network's velocity (S, 2) and decision."""

    grid: Tensor
    label: Tensor
    mass: Tensor
    centre: Tensor
    shape: Shape
    network_mps: Tensor
    going: Tensor

    @classmethod
    def of(cls, columns: Columns, number: Tensor, velocity_mps: Tensor, going: Tensor) -> _Segments:
        shape = measure(columns.xy, number)
        total = len(shape.count)
        place = torch.zeros(total, dtype=torch.long, device=number.device)
        mass = _sum(columns.count, number, total)
        return cls(
            grid=place.scatter(0, number, columns.grid),
            label=place.scatter(0, number, columns.label),
            mass=mass,
            centre=_sum(columns.xy * columns.count[:, None], number, total) / mass[:, None],
            shape=shape,
            network_mps=_sum(velocity_mps, number, total) / shape.count[:, None],
            going=_sum(going.float(), number, total) * 2 > shape.count,
        )


def _sum(value: Tensor, number: Tensor, total: int) -> Tensor:
    return value.new_zeros(total, *value.shape[1:]).index_add_(0, number, value)


def _maps(aligned: Tensor, earlier: Sequence[Columns]) -> Tensor:
    """(P, B * X * Y) uint8 movable class in earlier frames' columns, `FREE` for none, `BLANK` for nothing seen."""
    maps = []
    for p, columns in enumerate(earlier, 1):
        seen = any_in_columns(~member(aligned[:, p], (FREE,))).reshape(-1)
        names = torch.where(seen, FREE, BLANK).to(torch.uint8)
        maps.append(names.index_copy_(0, columns.place, columns.label.to(torch.uint8)))
    return torch.stack(maps)


def _matched(
    found: _Segments, columns: Columns, number: Tensor, maps: Tensor, grid: VoxelGrid
) -> tuple[Tensor, Tensor, Tensor]:
    """Velocity (S, 2) at which most columns of each segment are found again, the share (S,) that is, and the share
    where it would be if it stood."""
    device, base = number.device, found.network_mps
    (reach, step), fine = SEARCH_MPS
    around = _lattice(reach, step, device)
    # Around what the network says, and around standing still; then around the better one.
    coarse = torch.cat((base[:, None] + around, around.expand(len(base), -1, -1)), 1)
    score = _found_again(coarse, found, columns, number, maps, grid) - _odd(coarse, base)
    best = coarse.gather(1, score.argmax(1)[:, None, None].expand(-1, 1, 2))
    candidates = best + _lattice(*fine, device)
    score = _found_again(candidates, found, columns, number, maps, grid) - _odd(candidates, base)
    weight = ((score - score.amax(1, keepdim=True)) / SHARPNESS).exp()[..., None]
    mean = (candidates * weight).sum(1) / weight.sum(1)
    both = torch.stack((mean, torch.zeros_like(mean)), 1)
    share, stood = _found_again(both, found, columns, number, maps, grid).unbind(1)
    return mean, share, stood


def _odd(candidates: Tensor, base: Tensor) -> Tensor:
    """(S, C) what candidates lose by being other than the network's velocity."""
    return PRIOR * (candidates - base[:, None]).pow(2).sum(-1)


def _lattice(reach: float, step: float, device: torch.device) -> Tensor:
    """(C, 2) points of a square lattice around zero."""
    count = round(reach / step)
    line = torch.arange(-count, count + 1, dtype=torch.float32, device=device) * step
    return torch.cartesian_prod(line, line)


def _found_again(
    velocity_mps: Tensor, found: _Segments, columns: Columns, number: Tensor, maps: Tensor, grid: VoxelGrid
) -> Tensor:
    """(S, C) share of the columns that have their class where candidates (S, C, 2) say they were."""
    size_x, size_y = grid.shape[:2]
    low = columns.xy.new_tensor(grid.lower_m[:2])
    speed, base = velocity_mps[number], columns.grid[:, None] * (size_x * size_y)
    hits, known = torch.zeros_like(speed[..., 0]), torch.zeros_like(speed[..., 0])
    for p, classes in enumerate(maps, 1):
        place = columns.xy[:, None] - low - speed * (STEP_S * p)
        x, y = place.div_(grid.voxel_m).floor_().long().unbind(-1)
        inside = (x >= 0) & (x < size_x) & (y >= 0) & (y < size_y)
        name = classes[torch.where(inside, base + x * size_y + y, 0)]
        hits += inside & (name == columns.label[:, None])
        known += inside & (name != BLANK)
    total = len(found.mass)
    # What is unknown can't speak for a candidate: at least two fifths must be known.
    least = 0.4 * len(maps) * found.shape.count[:, None]
    return _sum(hits, number, total) / torch.maximum(_sum(known, number, total), least)


@dataclass(frozen=True, kw_only=True)
class _Bodies:
    """Boxes of S segments: middle (S, 2), heading (S, 2) as unit vector, length and width (S,) in metres."""

    middle: Tensor
    axis: Tensor
    length: Tensor
    width: Tensor


def _fitted(
    found: _Segments,
    columns: Columns,
    number: Tensor,
    earlier: Sequence[Columns],
    velocity_mps: Tensor,
    voxel_m: float,
) -> tuple[Tensor, _Bodies, Tensor]:
    """Velocity (S, 2) of each segment, followed back in time frame by frame, its box, and its yaw rate (S,).

    Least squares over the middles of what was seen, with what the network and the search say as prior.
    """
    total, usual = len(found.mass), usual_sizes(number.device)[found.label]
    speed = velocity_mps.norm(dim=1, keepdim=True)
    axis = torch.where(speed > SLOW_MPS, velocity_mps / speed.clamp(min=1e-6), found.shape.axis)
    half = usual[:, :2] / 2 + GATE_M
    prior = found.mass.new_tensor(_by_class(PRIOR_WEIGHT, SMALL_WEIGHT))[found.label]
    times, centres, weights = [0.0], [found.centre], [torch.ones_like(found.mass)]
    velocity = velocity_mps
    for p, past in enumerate(earlier, 1):
        owner, near = _owners(past, found, found.centre - velocity * (STEP_S * p), axis, half)
        mass = _sum(past.count[near], owner, total)
        centre = _sum((past.xy * past.count[:, None])[near], owner, total) / mass.clamp(min=1)[:, None]
        times.append(-STEP_S * p)
        centres.append(centre)
        # A frame in which another part is seen says less.
        weights.append(torch.minimum(mass, found.mass) / torch.maximum(mass, found.mass))
        # To look in the next frame, what was matched is the better prior.
        velocity = _slope(times, centres, weights, SMALL_WEIGHT, velocity_mps)
    small = small_classes(number.device)[found.label][:, None]
    mixed = NETWORK_SHARE * found.network_mps + (1 - NETWORK_SHARE) * velocity_mps
    fitted = _slope(times, centres, weights, prior, torch.where(small, velocity_mps, mixed))
    turn = torch.where(small[:, 0], 0.0, _yaw_rate(times, centres, weights, fitted))
    return fitted, _bodies(columns, number, found.centre, axis, usual, voxel_m), turn


def _by_class(values: dict[str, float], otherwise: float) -> list[float]:
    """Values by class id."""
    return [values.get(name, otherwise) for name in CLASS_NAMES]


def _owners(past: Columns, found: _Segments, predicted: Tensor, axis: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """The segments whose predicted box holds earlier columns: numbers (M,), and which columns (M,) they are."""
    offset = past.xy[:, None] - predicted
    along = (offset * axis).sum(-1).abs() / half[:, 0]
    across = (offset[..., 1] * axis[:, 0] - offset[..., 0] * axis[:, 1]).abs() / half[:, 1]
    same = (past.label[:, None] == found.label) & (past.grid[:, None] == found.grid)
    away = torch.maximum(along, across).masked_fill(~same, 2.0)
    nearest, owner = away.min(1)
    near = nearest < 1
    return owner[near], near


def _slope(
    times_s: list[float], places: list[Tensor], weights: list[Tensor], prior: Tensor | float, prior_mps: Tensor
) -> Tensor:
    """Weighted least-squares velocity (S, 2) of T places (S, 2), with a prior of some weight in s²."""
    place, weight = torch.stack(places, 1), torch.stack(weights, 1)
    time = place.new_tensor(times_s)
    total = weight.sum(1, keepdim=True)
    mean = ((weight[..., None] * place).sum(1) / total)[:, None]
    since = time - (weight * time).sum(1, keepdim=True) / total
    spread = (weight * since.square()).sum(1)
    moment = ((weight * since)[..., None] * (place - mean)).sum(1)
    prior = spread.new_tensor(prior) if isinstance(prior, float) else prior
    return (moment + prior[..., None] * prior_mps) / (spread + prior)[:, None]


def _yaw_rate(times_s: list[float], places: list[Tensor], weights: list[Tensor], velocity_mps: Tensor) -> Tensor:
    """(S,) how fast the heading turns, out of a parabola through T places (S, 2); what noise explains is left out."""
    place, weight = torch.stack(places, 1), torch.stack(weights, 1)
    time = place.new_tensor(times_s)
    terms = torch.stack((torch.ones_like(time), time, time.square() / 2), 1)
    square = torch.einsum("st,ti,tj->sij", weight, terms, terms)
    square = square + torch.diag(time.new_tensor((1e-3, 1e-3, TURN_PRIOR)))
    accel = torch.linalg.solve(square, torch.einsum("st,ti,stc->sic", weight, terms, place - places[0][:, None]))[:, 2]
    speed = velocity_mps.norm(dim=1)
    # The velocity of the fit is that of the middle of the observed time; only its direction counts.
    across = (velocity_mps[:, 0] * accel[:, 1] - velocity_mps[:, 1] * accel[:, 0]) / speed.clamp(min=1e-6)
    rate = (across / speed.clamp(min=TURN_LEAST_MPS)).clamp(-TURN_MOST_RPS, TURN_MOST_RPS)
    return torch.where((rate.abs() > TURN_LEAST_RPS) & (speed > TURN_LEAST_MPS), rate, 0.0)


def _bodies(columns: Columns, number: Tensor, centre: Tensor, axis: Tensor, usual: Tensor, voxel_m: float) -> _Bodies:
    """Boxes around all columns of each segment, at least nine tenths of the usual size."""
    offset = columns.xy - centre[number]
    own = axis[number]
    along = (offset * own).sum(1)
    across = offset[:, 1] * own[:, 0] - offset[:, 0] * own[:, 1]
    ends, sides = (torch.stack(bounds(part, number)) for part in (along, across))
    length, width = ends[1] - ends[0] + voxel_m, sides[1] - sides[0] + voxel_m
    side = torch.stack((-axis[:, 1], axis[:, 0]), 1)
    middle = centre + ends.mean(0)[:, None] * axis + sides.mean(0)[:, None] * side
    return _Bodies(
        middle=middle,
        axis=axis,
        length=torch.maximum(length, 0.9 * usual[:, 0]),
        width=torch.maximum(width, 0.9 * usual[:, 1]),
    )


def _decided(found: _Segments, velocity_mps: Tensor, matched: Tensor, gain: Tensor) -> Tensor:
    """Velocities (S, 2), zero for what stands: its columns are found (almost) as well where they are now."""
    speed, again = velocity_mps.norm(dim=1), matched.norm(dim=1)
    moves: Tensor = torch.where(
        found.label == CLASS_ID["pedestrian"],
        gain > SMALL_GAIN,
        (found.going & (gain > NO_LOSS)) | ((again > CERTAIN_MPS) & (gain > CERTAIN_GAIN)),
    )
    moves = moves & (again > SLOW_MPS / 2) & (speed > SLOW_MPS)
    return velocity_mps * moves[:, None].float()


def _slots(found: _Segments, velocity_mps: Tensor, batch: int) -> Tensor:
    """(S,) slot of each segment in its grid, `SLOTS` for those that find none: what moves first, then the nearest."""
    away = found.centre.norm(dim=1) + 1e3 * (velocity_mps == 0).all(1) + 1e4 * found.grid
    order = away.argsort()
    first = torch.searchsorted(found.grid[order], torch.arange(batch, device=away.device))
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=away.device) - first[found.grid[order]]
    return rank.clamp(max=SLOTS)


def _tracks(
    found: _Segments,
    bodies: _Bodies,
    velocity_mps: Tensor,
    yaw_rate: Tensor,
    share: Tensor,
    slot: Tensor,
    batch: int,
) -> Tracks:
    kept = slot < SLOTS
    at = (found.grid * SLOTS + slot)[kept]
    speed = velocity_mps.norm(dim=1)
    heading = torch.where((speed > 0)[:, None], velocity_mps, bodies.axis)
    yaw = torch.atan2(heading[:, 1], heading[:, 0])

    def placed(value: Tensor, empty: float = 0.0) -> Tensor:
        out = torch.full((batch * SLOTS,), empty, dtype=value.dtype, device=value.device)
        return out.index_copy_(0, at, value[kept]).view(batch, SLOTS)

    return Tracks(
        x=placed(bodies.middle[:, 0]),
        y=placed(bodies.middle[:, 1]),
        yaw=placed(yaw),
        speed=placed(speed),
        yaw_rate=placed(yaw_rate * (speed > 0)),
        length=placed(bodies.length),
        width=placed(bodies.width),
        height=placed(usual_sizes(slot.device)[found.label, 2]),
        class_id=placed(found.label.to(torch.uint8), FREE),
        alive=placed(torch.ones_like(slot, dtype=torch.bool)),
        confidence=placed(share),
    )
