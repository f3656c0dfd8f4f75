"""Which agents are in a scene: counts, sizes, speeds and places, and the ego's start."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from world_model.core.grid import CLASS_ID
from world_model.simulator.polylines import into
from world_model.simulator.state import Agents, Bools, Ego, Floats, Ints, Motion, Table
from world_model.simulator.town.paths import CROSSING, LANE, SIDEWALK
from world_model.simulator.town.town import Town
from world_model.simulator.traffic import population
from world_model.simulator.traffic.population import SIZES_M, SPEEDS_MPS, TOW_M, Density

BARRIER, CONE, PEDESTRIAN = (CLASS_ID[n] for n in ("barrier", "traffic_cone", "pedestrian"))
BICYCLE, MOTORCYCLE, TRUCK, TRAILER = (CLASS_ID[n] for n in ("bicycle", "motorcycle", "truck", "trailer"))
CONSTRUCTION = CLASS_ID["construction_vehicle"]


def spawn(
    town: Town, rng: np.random.Generator, ego: Ego, density: Density, seed: int, scene: int
) -> tuple[Agents, Motion]:
    """Fill a town for one scene.

    Args:
        town: where. rng: the scene's generator. ego: the ego at its start, which stays clear of agents.
        density: how full. seed, scene: make the agents' later choices.
    """
    makers = (_parked, _parked_two_wheelers, _roadworks, _vehicles, _people)
    blocks = [block for make in makers for block in make(town, rng, density)]
    start = np.repeat(np.cumsum([0, *(len(b["label"]) for b in blocks[:-1])]), [len(b["label"]) for b in blocks])
    table = {name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]}
    table["tractor"] += np.where(table["tractor"] >= 0, start, 0)
    table = _without_ego(table, ego)
    path, tractor, speed = table.pop("path"), table["tractor"], table["speed"]
    number = np.arange(1, len(path) + 1, dtype=np.uint64)
    key = (np.uint64(seed) << np.uint64(40)) ^ (np.uint64(scene) << np.uint64(20)) ^ number
    # A trailer takes the turns of its tractor, because it has the same key and has made as many choices.
    key[tractor >= 0] = key[tractor[tractor >= 0]]
    route = np.where((path >= 0)[:, None], town.network.paths.first_route(np.maximum(path, 0), key), -1)
    agents = Agents(
        label=table["label"], size_m=table["size_m"], desired_mps=speed, lateral_m=table["lateral"], mobile=path >= 0,
        key=key, tractor=tractor,
    )  # fmt: skip
    motion = Motion(
        xy=table["xy"], yaw=table["yaw"], speed=speed * 0.7, path=path, s=table["s"], route=route,
        hops=np.ones(len(path), np.int64), stuck_s=np.zeros(len(path)),
    )  # fmt: skip
    return agents, motion


def _block(
    rng: np.random.Generator, label: Ints | int, xy: Floats, yaw: Floats | float, **rest: Ints | Floats
) -> Table:
    """Agents at ``xy`` (n, 2); everything else is one value or n. ``tractor`` counts rows of this block."""
    values = {"label": label, "yaw": yaw, "path": -1, "s": 0.0, "speed": 0.0, "lateral": 0.0, "tractor": -1, **rest}
    block = {name: np.broadcast_to(value, len(xy)) for name, value in values.items()}
    size = SIZES_M[block["label"]] * np.clip(rng.normal(1, 0.06, (len(xy), 3)), 0.85, 1.18)
    return {**block, "xy": xy, "size_m": size}


def _without_ego(table: Table, ego: Ego) -> Table:
    """All agents that do not stand where the ego starts; a trailer goes with its tractor."""
    x, y = table["xy"].T
    keep = np.hypot(x - ego.x, y - ego.y) >= np.where(table["path"] < 0, 4.5, 11.0)
    keep &= (table["tractor"] < 0) | keep[table["tractor"]]
    table = {name: values[keep] for name, values in table.items()}
    table["tractor"] = np.append(np.cumsum(keep) - 1, -1)[table["tractor"]]
    return table


def _choose(rng: np.random.Generator, shares: Floats, count: int | tuple[int, int]) -> Ints:
    """Class ids drawn with shares by class id."""
    labels = population.LABELS[shares[population.LABELS] > 0]
    return rng.choice(labels, count, p=shares[labels] / shares[labels].sum())


def _parked(town: Town, rng: np.random.Generator, density: Density) -> Iterator[Table]:
    """Vehicles on kerbs and parking lots."""
    slots = town.slots[rng.random(len(town.slots)) < min(0.93, 0.68 * density.parked)]
    label = _choose(rng, population.PARKED_SHARE, len(slots))
    free = ~_overlapped(slots, SIZES_M[label, :2])
    slots, label = slots[free], label[free]
    place = slots[:, :2] + rng.normal(0, 1, (len(slots), 2)) * (0.2, 0.1)
    yield _block(rng, label, place, slots[:, 2] + rng.normal(0, 0.02, len(slots)))


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


def _parked_two_wheelers(town: Town, rng: np.random.Generator, density: Density) -> Iterator[Table]:
    """Groups of parked motorcycles or bicycles on sidewalks."""
    paths = town.network.paths
    path = rng.choice(np.flatnonzero(paths.kind == SIDEWALK), rng.poisson(13 * density.cycles))
    start = rng.uniform(0, paths.length_m[path])
    label = np.where(rng.random(len(path)) < 0.82, MOTORCYCLE, BICYCLE)
    group = np.repeat(np.arange(len(path)), rng.integers(1, 5, len(path)))
    number = np.arange(len(group)) - np.searchsorted(group, group)
    x, y, yaw, _ = paths.locate(path[group], start[group] + number)
    yield _block(rng, label[group], np.stack([x, y], -1), yaw + np.pi / 2 + rng.normal(0, 0.15, len(group)))


def _roadworks(town: Town, rng: np.random.Generator, density: Density) -> Iterator[Table]:
    """Rows of barriers or cones, seldom with a construction vehicle behind them."""
    for x, y, yaw, length in town.works[rng.random(len(town.works)) < density.works]:
        along, across = np.array([np.cos(yaw), np.sin(yaw)]), np.array([np.sin(yaw), -np.cos(yaw)])
        label, gap = (BARRIER, 2.5) if rng.random() < 0.5 else (CONE, 2.6)
        k = np.arange(0, length, gap)[:, None]
        row = np.array([x, y]) + along * k + across * rng.normal(-0.3, 0.1, k.shape)
        yield _block(rng, label, row, yaw + np.pi / 2 + rng.normal(0, 0.03, len(k)))
        if rng.random() < 0.1:
            middle = np.array([[x, y]]) + along * length / 2 + across * 2.2
            yield _block(rng, CONSTRUCTION, middle, yaw + rng.normal(0, 0.2))


def _vehicles(town: Town, rng: np.random.Generator, density: Density) -> Iterator[Table]:
    """Moving vehicles on all lanes, from the lane's start to its end; few trucks tow a trailer."""
    paths = town.network.paths
    lanes = np.flatnonzero(paths.kind == LANE)[:, None]
    shape = (len(lanes), 1 + int(paths.length_m[lanes].max() / (7 + SIZES_M[BICYCLE, 0])))
    label = _choose(rng, population.MOVING_SHARE, shape)
    gap = SIZES_M[label, 0] + 7 + rng.exponential(42.0 / density.traffic, shape)
    s = rng.exponential(30.0, (len(lanes), 1)) + np.cumsum(gap, 1) - gap
    behind = np.pad(gap[:, :-1], ((0, 0), (1, 0)))
    speed = np.clip(rng.normal(SPEEDS_MPS[label, 0], SPEEDS_MPS[label, 1]), 2.2, 15.0)
    lateral = np.where(label == MOTORCYCLE, rng.uniform(-0.4, 0.9, shape), rng.normal(0, 0.12, shape))
    lateral[label == BICYCLE] = 1.95
    towing = (label == TRUCK) & (rng.random(shape) < population.TOW_SHARE) & (s > TOW_M + 8) & (behind > TOW_M + 14)
    exists = (s < paths.length_m[lanes] - 8) & ((label != BICYCLE) | paths.rightmost[lanes])
    n, tractor = np.count_nonzero(exists), np.flatnonzero(towing[exists])
    # Trailers come last: copies of their tractors, a little further back.
    row = np.append(np.arange(n), tractor)
    columns = (np.broadcast_to(lanes, shape), label, s, speed, lateral)
    lane, label, s, speed, lateral = (column[exists][row] for column in columns)
    label[n:], s[n:] = TRAILER, s[n:] - TOW_M
    x, y, yaw, _ = paths.locate(lane, s)
    tractor = np.append(np.full(n, -1), tractor)
    yield _block(
        rng, label, np.stack([x, y], -1), yaw, path=lane, s=s, speed=speed, lateral=lateral, tractor=tractor
    )  # fmt: skip


def _people(town: Town, rng: np.random.Generator, density: Density) -> Iterator[Table]:
    """Walking and standing pedestrians, in groups, on sidewalks and crossings."""
    paths = town.network.paths
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
    yield _block(rng, PEDESTRIAN, np.stack([x, y], -1), yaw, path=path, s=s, speed=speed[group], lateral=lateral)


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
