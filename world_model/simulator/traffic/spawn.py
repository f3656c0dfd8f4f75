"""Which agents are in a scene: counts, sizes, speeds and places, and the ego's start."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import CLASS_ID
from world_model.simulator.polylines import into
from world_model.simulator.state import Agents, Bools, Ego, Floats, Ints, Motion
from world_model.simulator.town.paths import CROSSING, LANE, SIDEWALK
from world_model.simulator.town.town import Town
from world_model.simulator.traffic.population import (
    KERB_MIX,
    MOVING_MIX,
    SIZES_M,
    SPEEDS_MPS,
    TOW_M,
    TOW_SHARE,
    Density,
)

BARRIER, CONE, PEDESTRIAN = (CLASS_ID[n] for n in ("barrier", "traffic_cone", "pedestrian"))
BICYCLE, MOTORCYCLE, TRUCK, TRAILER = (CLASS_ID[n] for n in ("bicycle", "motorcycle", "truck", "trailer"))
CONSTRUCTION = CLASS_ID["construction_vehicle"]
ROW = np.dtype(
    [
        *(("label", "i8"), ("size_m", "f8", (3,)), ("xy", "f8", (2,)), ("yaw", "f8")),
        *(("path", "i8"), ("s", "f8"), ("speed", "f8"), ("lateral", "f8"), ("tractor", "i8")),
    ]
)
"""What an agent starts with; ``path`` and ``tractor`` are -1 where there is none."""


@dataclass
class _Rows:
    """Collects agents block by block."""

    rng: np.random.Generator
    blocks: list[NDArray[np.void]] = field(default_factory=list)

    def add(
        self, label: Ints | int, xy: Floats, yaw: Floats | float, *, path: Ints | int = -1, s: Floats | float = 0.0,
        speed: Floats | float = 0.0, lateral: Floats | float = 0.0, tractor: Ints | int = -1,
    ) -> None:  # fmt: skip
        """Agents at ``xy`` (n, 2); everything else is one value or n. ``tractor`` counts rows of this block."""
        block = np.zeros(len(xy), ROW)
        block["label"], block["xy"], block["yaw"], block["path"], block["s"] = label, xy, yaw, path, s
        block["speed"], block["lateral"] = speed, lateral
        block["size_m"] = SIZES_M[block["label"]] * np.clip(self.rng.normal(1, 0.06, (len(xy), 3)), 0.85, 1.18)
        start = sum(len(b) for b in self.blocks)
        block["tractor"] = np.where(np.asarray(tractor) >= 0, np.asarray(tractor) + start, -1)
        self.blocks.append(block)


def spawn(
    town: Town, rng: np.random.Generator, ego: Ego, density: Density, seed: int, scene: int
) -> tuple[Agents, Motion]:
    """Fill a town for one scene.

    Args:
        town: where. rng: the scene's generator. ego: the ego at its start, which stays clear of agents.
        density: how full. seed, scene: make the agents' later choices.
    """
    rows = _Rows(rng)
    for add in (_park, _park_two_wheelers, _works, _vehicles, _people):
        add(rows, town, density)
    table = _without_ego(np.concatenate(rows.blocks), ego)
    n, path, tractor = len(table), table["path"].copy(), table["tractor"].copy()
    key = (
        (np.uint64(seed) << np.uint64(40)) ^ (np.uint64(scene) << np.uint64(20)) ^ np.arange(1, n + 1, dtype=np.uint64)
    )
    # A trailer takes the turns of its tractor, because it has the same key and has made as many choices.
    key[tractor >= 0] = key[tractor[tractor >= 0]]
    mobile = path >= 0
    agents = Agents(
        label=table["label"].copy(), size_m=table["size_m"].copy(), desired_mps=table["speed"].copy(),
        lateral_m=table["lateral"].copy(), mobile=mobile, key=key, tractor=tractor,
    )  # fmt: skip
    route = np.where(mobile[:, None], town.network.paths.first_route(np.maximum(path, 0), key), -1)
    motion = Motion(
        xy=table["xy"].copy(), yaw=table["yaw"].copy(), speed=table["speed"] * 0.7, path=path, s=table["s"].copy(),
        route=route, hops=np.ones(n, np.int64), stuck_s=np.zeros(n),
    )  # fmt: skip
    return agents, motion


def _without_ego(table: NDArray[np.void], ego: Ego) -> NDArray[np.void]:
    """All agents that do not stand where the ego starts; a trailer goes with its tractor."""
    x, y = table["xy"].T
    keep = np.hypot(x - ego.x, y - ego.y) >= np.where(table["path"] < 0, 4.5, 11.0)
    keep &= (table["tractor"] < 0) | keep[table["tractor"]]
    number = np.append(np.cumsum(keep) - 1, -1)
    table = table[keep]
    table["tractor"] = number[table["tractor"]]
    return table


def _choose(rng: np.random.Generator, mix: dict[str, float], count: int | tuple[int, int]) -> Ints:
    """Class ids drawn from a mix."""
    weights = np.array(list(mix.values()))
    return rng.choice([CLASS_ID[name] for name in mix], count, p=weights / weights.sum())


def _park(rows: _Rows, town: Town, density: Density) -> None:
    """Vehicles on kerbs and parking lots."""
    rng = rows.rng
    share = min(0.93, 0.68 * density.parked)
    slots = town.slots[rng.random(len(town.slots)) < share]
    label = _choose(rng, KERB_MIX, len(slots))
    free = ~_overlapped(slots, SIZES_M[label, :2])
    slots, label = slots[free], label[free]
    place = slots[:, :2] + rng.normal(0, 1, (len(slots), 2)) * (0.2, 0.1)
    rows.add(label, place, slots[:, 2] + rng.normal(0, 0.02, len(slots)))


def _overlapped(slots: Floats, size: Floats) -> Bools:
    """Which of the slots (n, 3) x, y, yaw would overlap an earlier one that stays; sizes (n, 2)."""
    x, y, yaw = slots.T
    near = (np.abs(x[:, None] - x) < 14) & (np.abs(y[:, None] - y) < 14)
    later, earlier = np.nonzero(np.tril(near, -1))
    along, aside = into(x[earlier] - x[later], y[earlier] - y[later], np.cos(yaw[later]), np.sin(yaw[later]))
    length, width = ((size[later] + size[earlier]) / 2).T
    clash = (np.abs(along) < length + 0.4) & (np.abs(aside) < width + 0.3)
    gone = np.zeros(len(slots), bool)
    for i, k in zip(later[clash].tolist(), earlier[clash].tolist(), strict=True):
        gone[i] |= not gone[k]
    return gone


def _park_two_wheelers(rows: _Rows, town: Town, density: Density) -> None:
    """Groups of parked motorcycles or bicycles on sidewalks."""
    rng, paths = rows.rng, town.network.paths
    path = rng.choice(np.flatnonzero(paths.kind == SIDEWALK), rng.poisson(13 * density.cycles))
    start = rng.uniform(0, paths.length_m[path])
    label = np.where(rng.random(len(path)) < 0.82, MOTORCYCLE, BICYCLE)
    group = np.repeat(np.arange(len(path)), rng.integers(1, 5, len(path)))
    number = np.arange(len(group)) - np.searchsorted(group, group)
    x, y, yaw, _ = paths.locate(path[group], start[group] + number)
    rows.add(label[group], np.stack([x, y], -1), yaw + np.pi / 2 + rng.normal(0, 0.15, len(group)))


def _works(rows: _Rows, town: Town, density: Density) -> None:
    """Rows of barriers or cones, seldom with a construction vehicle behind them."""
    rng = rows.rng
    for x, y, yaw, length in town.works[rng.random(len(town.works)) < density.works]:
        along, across = np.array([np.cos(yaw), np.sin(yaw)]), np.array([np.sin(yaw), -np.cos(yaw)])
        label, gap = (BARRIER, 2.5) if rng.random() < 0.5 else (CONE, 2.6)
        k = np.arange(0, length, gap)[:, None]
        row = np.array([x, y]) + along * k + across * rng.normal(-0.3, 0.1, k.shape)
        rows.add(label, row, yaw + np.pi / 2 + rng.normal(0, 0.03, len(k)))
        if rng.random() < 0.1:
            middle = np.array([[x, y]]) + along * length / 2 + across * 2.2
            rows.add(CONSTRUCTION, middle, yaw + rng.normal(0, 0.2))


def _vehicles(rows: _Rows, town: Town, density: Density) -> None:
    """Moving vehicles on all lanes, from the lane's start to its end; few trucks tow a trailer."""
    rng, paths = rows.rng, town.network.paths
    lanes = np.flatnonzero(paths.kind == LANE)
    shape = (len(lanes), 1 + int(paths.length_m[lanes].max() / (7 + SIZES_M[BICYCLE, 0])))
    label = _choose(rng, MOVING_MIX, shape)
    gap = SIZES_M[label, 0] + 7 + rng.exponential(42.0 / density.traffic, shape)
    s = rng.exponential(30.0, (len(lanes), 1)) + np.cumsum(gap, 1) - gap
    behind = np.concatenate([np.zeros((len(lanes), 1)), gap[:, :-1]], 1)
    speed = np.clip(rng.normal(SPEEDS_MPS[label, 0], SPEEDS_MPS[label, 1]), 2.2, 15.0)
    lateral = np.where(label == MOTORCYCLE, rng.uniform(-0.4, 0.9, shape), rng.normal(0, 0.12, shape))
    lateral[label == BICYCLE] = 1.95
    tows = (label == TRUCK) & (rng.random(shape) < TOW_SHARE) & (s > TOW_M + 8) & (behind > TOW_M + 14)
    real = (s < paths.length_m[lanes, None] - 8) & ((label != BICYCLE) | paths.rightmost[lanes, None])
    lane = np.broadcast_to(lanes[:, None], shape)[real]
    label, s, speed, lateral, tows = label[real], s[real], speed[real], lateral[real], tows[real]
    # Trailers come last: copies of their tractors, a little further back.
    n, towing = len(lane), np.flatnonzero(tows)
    row = np.append(np.arange(n), towing)
    lane, label, s, speed, lateral = lane[row], label[row], s[row], speed[row], lateral[row]
    label[n:] = TRAILER
    s[n:] -= TOW_M
    x, y, yaw, _ = paths.locate(lane, s)
    tractor = np.append(np.full(n, -1), towing)
    rows.add(label, np.stack([x, y], -1), yaw, path=lane, s=s, speed=speed, lateral=lateral, tractor=tractor)


def _people(rows: _Rows, town: Town, density: Density) -> None:
    """Walking and standing pedestrians, in groups, on sidewalks and crossings."""
    rng, paths = rows.rng, town.network.paths
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
    lateral = rng.normal(0, 0.55, len(group))
    rows.add(PEDESTRIAN, np.stack([x, y], -1), yaw, path=path, s=s, speed=speed[group], lateral=lateral)


def ego_key(seed: int, scene: int) -> np.uint64:
    """What seeds the ego's choices of its way."""
    return np.uint64((seed * 1_000_003 + scene * 7919 + 13) & 0xFFFFFFFFFFFF)


def start_ego(town: Town, rng: np.random.Generator, seed: int, scene: int) -> Ego:
    """Put the ego on a random lane with a random desired speed; one scene in twenty it stays parked."""
    paths, key = town.network.paths, np.array([ego_key(seed, scene)])
    lanes = np.flatnonzero((paths.kind == LANE) & (paths.length_m > 30))
    # Real drives turn seldom: a start whose first junction is taken straight is preferred.
    weight = np.where(paths.turn[paths.successor(lanes, key, np.array(0))] == 0, 1.0, 0.3)
    lane = int(rng.choice(lanes, p=weight / weight.sum()))
    s = float(rng.uniform(8, paths.length_m[lane] - 8))
    desired = 0.0 if rng.random() < 0.05 else float(np.clip(rng.normal(9.7, 2.6), 3.5, 13.2))
    x, y, yaw, _ = (float(v) for v in paths.locate(np.array(lane), np.array(s)))
    first, second = paths.first_route(np.array([lane]), key)[0].tolist()
    return Ego(
        x=x, y=y, z=0.0, yaw=yaw, speed=desired * 0.8, yaw_rate=0.0, path=lane, s=s, route=(first, second), hops=1,
        stuck_s=0.0, offset_m=0.0, desired_mps=desired,
    )  # fmt: skip
