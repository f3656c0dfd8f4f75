"""Who is in a scene: counts, sizes, speeds and places of all agents, and the ego's start."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import CLASS_ID
from world_model.simulator.state import Cast, Ego, Floats, Ints, Movers
from world_model.simulator.town.network import CROSSING, LANE, SIDEWALK, successor
from world_model.simulator.town.town import Town
from world_model.simulator.traffic.population import (
    KERB_MIX,
    MOVING_MIX,
    SIZES_M,
    SPEED_MPS,
    TOW_M,
    TOW_SHARE,
    Density,
)


@dataclass
class _Crowd:
    """Collects agents block by block: rows of ``COLUMNS``."""

    rng: np.random.Generator
    blocks: list[Floats] = field(default_factory=list)

    def add(
        self, name: NDArray[np.str_] | str, xy: Floats, yaw: Floats | float, *, path: Ints | int = -1,
        s: Floats | float = 0.0, speed: Floats | float = 0.0, lateral: Floats | float = 0.0,
        ahead: Ints | int = -1,
    ) -> None:  # fmt: skip
        """Agents at ``xy`` (n, 2); everything else is one value or n. ``ahead``: who tows them, rows of this block."""
        names = np.broadcast_to(np.asarray(name), len(xy))
        block = np.zeros((len(xy), len(COLUMNS)))
        which = np.array([NAMES.index(n) for n in names.tolist()], np.int64)
        block[:, 0] = CLASS_OF[which]
        block[:, 1:4] = SIZE_OF[which] * np.clip(self.rng.normal(1, 0.06, (len(xy), 3)), 0.85, 1.18)
        block[:, 4:6] = xy
        for k, value in enumerate((yaw, path, s, speed, lateral)):
            block[:, 6 + k] = value
        start = sum(len(b) for b in self.blocks)
        block[:, 11] = np.where(np.asarray(ahead) >= 0, np.asarray(ahead) + start, -1)
        self.blocks.append(block)

    def table(self) -> Floats:
        """(N, len(COLUMNS)) everybody."""
        return np.concatenate([np.zeros((0, len(COLUMNS))), *self.blocks])


COLUMNS = ("label", "length", "width", "height", "x", "y", "yaw", "path", "s", "speed", "lateral", "tractor")
NAMES = list(SIZES_M)
CLASS_OF = np.array([CLASS_ID[n] for n in NAMES])
SIZE_OF = np.array(list(SIZES_M.values()))


def spawn(
    town: Town, rng: np.random.Generator, ego: Ego, density: Density, seed: int, scene: int
) -> tuple[Cast, Movers]:
    """Fill a town for one scene.

    Args:
        town: where. rng: the scene's generator. ego: the ego at its start (nobody is put onto it).
        density: how full. seed, scene: make the agents' later choices.

    Returns:
        Cast and movers at rest on their places.
    """
    crowd = _Crowd(rng)
    _park(crowd, town, density)
    _lean(crowd, town, density)
    _works(crowd, town, density)
    _vehicles(crowd, town, density)
    _people(crowd, town, density)
    table = _without_ego(crowd.table(), ego)
    n = len(table)
    keys = (
        (np.uint64(seed) << np.uint64(40)) ^ (np.uint64(scene) << np.uint64(20)) ^ np.arange(1, n + 1, dtype=np.uint64)
    )
    path, tractor = table[:, 7].astype(np.int64), table[:, 11].astype(np.int64)
    # A trailer takes the turns of its tractor, because it has the same key and has made as many choices.
    keys[tractor >= 0] = keys[tractor[tractor >= 0]]
    mobile = path >= 0
    cast = Cast(
        label=table[:, 0].astype(np.int64),
        size_m=table[:, 1:4],
        desired_mps=table[:, 9],
        lateral_m=table[:, 10],
        mobile=mobile,
        key=keys,
        tractor=tractor,
    )
    hops = np.zeros(n, np.int64)
    first = np.where(mobile, successor(town.network, np.maximum(path, 0), keys, hops), -1)
    second = np.where(mobile, successor(town.network, np.maximum(first, 0), keys, hops + 1), -1)
    movers = Movers(
        xy=table[:, 4:6].copy(),
        yaw=table[:, 6].copy(),
        speed=table[:, 9] * 0.7,
        path=path,
        s=table[:, 8].copy(),
        route=np.stack([first, second], -1),
        hops=hops + 1,
        stuck_s=np.zeros(n),
    )
    return cast, movers


def _without_ego(table: Floats, ego: Ego) -> Floats:
    """Everybody who does not stand where the ego starts; a trailer goes with its tractor."""
    keep = np.hypot(table[:, 4] - ego.x, table[:, 5] - ego.y) >= np.where(table[:, 7] < 0, 4.5, 11.0)
    tractor = table[:, 11].astype(np.int64)
    keep &= (tractor < 0) | keep[tractor]
    number = np.append(np.cumsum(keep) - 1, -1)
    table = table[keep]
    table[:, 11] = number[table[:, 11].astype(np.int64)]
    return table


def _choose(rng: np.random.Generator, mix: dict[str, float], count: int | tuple[int, int]) -> NDArray[np.str_]:
    weights = np.array(list(mix.values()))
    return rng.choice(np.array(list(mix)), count, p=weights / weights.sum())


def _sizes(names: NDArray[np.str_]) -> Floats:
    """(..., 2) mean length and width."""
    out = np.zeros((*names.shape, 2))
    for name, size in SIZES_M.items():
        out[names == name] = size[:2]
    return out


def _park(crowd: _Crowd, town: Town, density: Density) -> None:
    """Vehicles on kerbs and parking lots."""
    rng = crowd.rng
    share = min(0.93, 0.68 * density.parked)
    slots = town.slots[rng.random(len(town.slots)) < share]
    names = _choose(rng, KERB_MIX, len(slots))
    free = ~_overlapped(slots, _sizes(names))
    slots, names = slots[free], names[free]
    place = slots[:, :2] + rng.normal(0, 1, (len(slots), 2)) * (0.2, 0.1)
    crowd.add(names, place, slots[:, 2] + rng.normal(0, 0.02, len(slots)))


def _overlapped(slots: Floats, size: Floats) -> NDArray[np.bool_]:
    """Which of the slots (n, 3) x, y, yaw would overlap an earlier one that stays; sizes (n, 2)."""
    x, y, yaw = slots.T
    near = (np.abs(x[:, None] - x) < 14) & (np.abs(y[:, None] - y) < 14)
    later, earlier = np.nonzero(np.tril(near, -1))
    dx, dy = x[earlier] - x[later], y[earlier] - y[later]
    c, s = np.cos(yaw[later]), np.sin(yaw[later])
    reach = (size[later] + size[earlier]) / 2
    clash = (np.abs(c * dx + s * dy) < reach[:, 0] + 0.4) & (np.abs(c * dy - s * dx) < reach[:, 1] + 0.3)
    gone = np.zeros(len(slots), bool)
    for i, k in zip(later[clash].tolist(), earlier[clash].tolist(), strict=True):
        gone[i] |= not gone[k]
    return gone


def _lean(crowd: _Crowd, town: Town, density: Density) -> None:
    """Groups of parked two-wheelers on sidewalks."""
    rng, paths = crowd.rng, town.network.paths
    path = rng.choice(np.flatnonzero(paths.kind == SIDEWALK), rng.poisson(13 * density.cycles))
    start = rng.uniform(0, paths.length_m[path])
    names = np.where(rng.random(len(path)) < 0.82, "motorcycle", "bicycle")
    group = np.repeat(np.arange(len(path)), rng.integers(1, 5, len(path)))
    number = np.arange(len(group)) - np.searchsorted(group, group)
    x, y, yaw, _ = paths.locate(path[group], start[group] + number)
    crowd.add(names[group], np.stack([x, y], -1), yaw + np.pi / 2 + rng.normal(0, 0.15, len(group)))


def _works(crowd: _Crowd, town: Town, density: Density) -> None:
    """Rows of barriers or cones, seldom with a construction vehicle behind them."""
    rng = crowd.rng
    for x, y, yaw, length in town.works[rng.random(len(town.works)) < density.works]:
        along, across = np.array([np.cos(yaw), np.sin(yaw)]), np.array([np.sin(yaw), -np.cos(yaw)])
        name, gap = ("barrier", 2.5) if rng.random() < 0.5 else ("traffic_cone", 2.6)
        k = np.arange(0, length, gap)[:, None]
        row = np.array([x, y]) + along * k + across * rng.normal(-0.3, 0.1, k.shape)
        crowd.add(name, row, yaw + np.pi / 2 + rng.normal(0, 0.03, len(k)))
        if rng.random() < 0.1:
            middle = np.array([[x, y]]) + along * length / 2 + across * 2.2
            crowd.add("construction_vehicle", middle, yaw + rng.normal(0, 0.2))


def _vehicles(crowd: _Crowd, town: Town, density: Density) -> None:
    """Moving vehicles on all lanes, from the lane's start to its end; few trucks tow a trailer."""
    rng, paths = crowd.rng, town.network.paths
    lanes = np.flatnonzero(paths.kind == LANE)
    shape = (len(lanes), 1 + int(paths.length_m[lanes].max() / (7 + SIZES_M["bicycle"][0])))
    names = _choose(rng, MOVING_MIX, shape)
    gap = _sizes(names)[..., 0] + 7 + rng.exponential(42.0 / density.traffic, shape)
    s = rng.exponential(30.0, (len(lanes), 1)) + np.cumsum(gap, 1) - gap
    behind = np.concatenate([np.full((len(lanes), 1), 0.0), gap[:, :-1]], 1)
    mean, spread = (np.vectorize(lambda n, k=k: SPEED_MPS[n][k])(names) for k in (0, 1))
    speed = np.clip(rng.normal(mean, spread), 2.2, 15.0)
    lateral = np.where(names == "motorcycle", rng.uniform(-0.4, 0.9, shape), rng.normal(0, 0.12, shape))
    lateral[names == "bicycle"] = 1.95
    tows = (names == "truck") & (rng.random(shape) < TOW_SHARE) & (s > TOW_M + 8) & (behind > TOW_M + 14)
    real = (s < paths.length_m[lanes, None] - 8) & ((names != "bicycle") | paths.rightmost[lanes, None])
    lane = np.broadcast_to(lanes[:, None], shape)[real]
    names, s, speed, lateral, tows = names[real], s[real], speed[real], lateral[real], tows[real]
    tractor = np.flatnonzero(tows)
    everyone = np.concatenate([np.arange(len(lane)), tractor])
    lane, speed, lateral, s = lane[everyone], speed[everyone], lateral[everyone], s[everyone]
    s[len(tows) :] -= TOW_M
    names = np.concatenate([names, np.full(len(tractor), "trailer")])
    x, y, yaw, _ = paths.locate(lane, s)
    ahead = np.concatenate([np.full(len(tows), -1), tractor])
    crowd.add(names, np.stack([x, y], -1), yaw, path=lane, s=s, speed=speed, lateral=lateral, ahead=ahead)


def _people(crowd: _Crowd, town: Town, density: Density) -> None:
    """Walkers and people who stand, in groups, on sidewalks and crossings."""
    rng, paths = crowd.rng, town.network.paths
    walks = np.flatnonzero((paths.kind == SIDEWALK) | (paths.kind == CROSSING))
    weight = paths.length_m[walks] / paths.length_m[walks].sum()
    path = rng.choice(walks, rng.poisson(160 * density.people), p=weight)
    start = rng.uniform(0, paths.length_m[path])
    stands = (rng.random(len(path)) < 0.28) & (paths.kind[path] == SIDEWALK)
    speed = np.where(stands, 0.0, np.clip(rng.normal(1.2, 0.25, len(path)), 0.6, 1.9))
    group = np.repeat(np.arange(len(path)), 1 + rng.poisson(0.8, len(path)))
    path = path[group]
    s = np.clip(start[group] + rng.normal(0, 1.2, len(group)), 0, paths.length_m[path])
    x, y, yaw, _ = paths.locate(path, s)
    crowd.add(
        "pedestrian", np.stack([x, y], -1), yaw, path=path, s=s, speed=speed[group],
        lateral=rng.normal(0, 0.55, len(group)),
    )  # fmt: skip


def start_ego(town: Town, rng: np.random.Generator, key: NDArray[np.uint64]) -> Ego:
    """Put the ego on a random lane with a random desired speed; one scene in twenty it stays parked."""
    paths = town.network.paths
    lanes: Ints = np.flatnonzero((paths.kind == LANE) & (paths.length_m > 30))
    # Real drives turn seldom: a start whose first junction is taken straight is preferred.
    after = successor(town.network, lanes, np.repeat(key, len(lanes)), np.zeros(len(lanes), np.int64))
    weight = np.where(paths.turn[after] == 0, 1.0, 0.3)
    lane = int(rng.choice(lanes, p=weight / weight.sum()))
    s = float(rng.uniform(8, paths.length_m[lane] - 8))
    desired = 0.0 if rng.random() < 0.05 else float(np.clip(rng.normal(9.7, 2.6), 3.5, 13.2))
    x, y, yaw, _ = paths.locate(np.array(lane), np.array(s))
    first = successor(town.network, np.array([lane]), key, np.array([0]))
    second = successor(town.network, first, key, np.array([1]))
    return Ego(
        x=float(x),
        y=float(y),
        z=0.0,
        yaw=float(yaw),
        speed=desired * 0.8,
        yaw_rate=0.0,
        path=lane,
        s=s,
        route=(int(first[0]), int(second[0])),
        hops=1,
        stuck_s=0.0,
        offset_m=0.0,
        desired_mps=desired,
    )
