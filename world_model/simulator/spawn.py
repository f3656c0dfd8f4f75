"""Who is in a scene: counts, sizes, speeds and places of all agents, and the ego's start."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from world_model.grid import CLASS_ID
from world_model.simulator.network import CROSSING, LANE, SIDEWALK
from world_model.simulator.state import Cast, Ego, Ints, Movers
from world_model.simulator.town import Town
from world_model.simulator.traffic import successor

SIZES_M: dict[str, tuple[float, float, float]] = {
    "car": (4.62, 1.92, 1.69),
    "truck": (6.5, 2.35, 2.62),
    "bus": (11.15, 2.94, 3.74),
    "trailer": (10.1, 2.28, 3.71),
    "construction_vehicle": (5.57, 2.58, 2.38),
    "motorcycle": (1.95, 0.68, 1.47),
    "bicycle": (1.82, 0.64, 1.39),
    "pedestrian": (0.73, 0.68, 1.76),
    "traffic_cone": (0.45, 0.47, 0.78),
    "barrier": (0.61, 2.32, 1.06),
}
"""Mean length, width, height of real boxes."""
MOVING_MIX = {
    "car": 0.79,
    "truck": 0.06,
    "bus": 0.05,
    "motorcycle": 0.07,
    "bicycle": 0.06,
    "construction_vehicle": 0.005,
}
KERB_MIX = {"car": 0.85, "truck": 0.08, "bus": 0.025, "trailer": 0.02, "construction_vehicle": 0.02}
SPEED_MPS = {
    "car": (9.4, 2.4),
    "truck": (6.8, 1.8),
    "bus": (7.2, 1.4),
    "motorcycle": (6.4, 2.2),
    "bicycle": (3.7, 0.7),
    "construction_vehicle": (3.5, 0.5),
}


@dataclass(frozen=True, kw_only=True)
class Density:
    """How full a scene is, each a factor of 1 on average.

    Args:
        traffic, parked, people, cycles: multipliers of moving vehicles, parked vehicles, pedestrians and
            parked two-wheelers.
        works: share of possible roadworks that exist.
    """

    traffic: float
    parked: float
    people: float
    cycles: float
    works: float


def draw_density(rng: np.random.Generator) -> Density:
    """Heavy-tailed, as real scenes: most are sparse, a few are crowded."""
    common = rng.normal()
    factor = [float(np.exp(0.6 * common + s * rng.normal() - (0.6**2 + s**2) / 2)) for s in (0.35, 0.4, 0.8, 0.9)]
    works = float(rng.choice([0.0, 0.1, 0.6], p=[0.55, 0.2, 0.25]))
    return Density(traffic=factor[0], parked=factor[1], people=factor[2], cycles=factor[3], works=works)


@dataclass
class _Crowd:
    """Collects agents one by one."""

    rng: np.random.Generator
    rows: list[tuple[float, ...]] = field(default_factory=list)

    def add(
        self,
        name: str,
        x: float,
        y: float,
        yaw: float,
        *,
        path: int = -1,
        s: float = 0.0,
        speed: float = 0.0,
        lateral: float = 0.0,
    ) -> None:
        size = np.array(SIZES_M[name]) * np.clip(self.rng.normal(1, 0.06, 3), 0.85, 1.18)
        self.rows.append((CLASS_ID[name], *size, x, y, yaw, path, s, speed, lateral))


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
    _works(crowd, town, density)
    _vehicles(crowd, town, density)
    _people(crowd, town, density)
    table = np.array(crowd.rows).reshape(-1, 11)
    near_ego = np.hypot(table[:, 4] - ego.x, table[:, 5] - ego.y) < np.where(table[:, 7] < 0, 4.5, 11.0)
    table = table[~near_ego]
    n = len(table)
    keys = (
        (np.uint64(seed) << np.uint64(40)) ^ (np.uint64(scene) << np.uint64(20)) ^ np.arange(1, n + 1, dtype=np.uint64)
    )
    path = table[:, 7].astype(np.int64)
    mobile = path >= 0
    cast = Cast(
        label=table[:, 0].astype(np.int64),
        size_m=table[:, 1:4],
        desired_mps=table[:, 9],
        lateral_m=table[:, 10],
        mobile=mobile,
        key=keys,
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


def _choose(rng: np.random.Generator, mix: dict[str, float]) -> str:
    weights = np.array(list(mix.values()))
    return str(rng.choice(list(mix), p=weights / weights.sum()))


def _park(crowd: _Crowd, town: Town, density: Density) -> None:
    rng = crowd.rng
    share = min(0.93, 0.68 * density.parked)
    placed: list[tuple[float, ...]] = []
    for x, y, yaw in town.slots[rng.random(len(town.slots)) < share]:
        name = _choose(rng, KERB_MIX)
        length, width = SIZES_M[name][:2]
        if _overlaps(placed, x, y, yaw, length, width):
            continue
        placed.append((x, y, length, width))
        crowd.add(name, x + rng.normal(0, 0.2), y + rng.normal(0, 0.1), yaw + rng.normal(0, 0.02))
    walks = np.flatnonzero(town.network.paths.kind == SIDEWALK)
    for path in rng.choice(walks, rng.poisson(13 * density.cycles)):
        s0 = rng.uniform(0, town.network.paths.length_m[path])
        name = "motorcycle" if rng.random() < 0.82 else "bicycle"
        for k in range(int(rng.integers(1, 5))):
            x, y, yaw, _ = town.network.paths.locate(np.array(path), np.array(s0 + 1.0 * k))
            crowd.add(name, float(x), float(y), float(yaw) + np.pi / 2 + rng.normal(0, 0.15))


def _overlaps(placed: list[tuple[float, ...]], x: float, y: float, yaw: float, length: float, width: float) -> bool:
    if not placed:
        return False
    p = np.array(placed)
    dx, dy = p[:, 0] - x, p[:, 1] - y
    along, across = np.abs(np.cos(yaw) * dx + np.sin(yaw) * dy), np.abs(np.cos(yaw) * dy - np.sin(yaw) * dx)
    return bool(((along < (length + p[:, 2]) / 2 + 0.4) & (across < (width + p[:, 3]) / 2 + 0.3)).any())


def _works(crowd: _Crowd, town: Town, density: Density) -> None:
    rng = crowd.rng
    for x, y, yaw, length in town.works[rng.random(len(town.works)) < density.works]:
        d, across = np.array([np.cos(yaw), np.sin(yaw)]), np.array([np.sin(yaw), -np.cos(yaw)])
        name, gap = ("barrier", 2.5) if rng.random() < 0.5 else ("traffic_cone", 2.6)
        for k in np.arange(0, length, gap):
            p = np.array([x, y]) + d * k + across * rng.normal(-0.3, 0.1)
            crowd.add(name, p[0], p[1], yaw + np.pi / 2 + rng.normal(0, 0.03))
        if rng.random() < 0.1:
            p = np.array([x, y]) + d * length / 2 + across * 2.2
            crowd.add("construction_vehicle", p[0], p[1], yaw + rng.normal(0, 0.2))


def _vehicles(crowd: _Crowd, town: Town, density: Density) -> None:
    rng, paths = crowd.rng, town.network.paths
    for lane in np.flatnonzero(paths.kind == LANE):
        s = rng.exponential(30.0)
        while s < paths.length_m[lane] - 8:
            name = _choose(rng, MOVING_MIX)
            mean, spread = SPEED_MPS[name]
            speed = float(np.clip(rng.normal(mean, spread), 2.2, 15.0))
            two_wheels = name in ("bicycle", "motorcycle")
            lateral = rng.normal(0, 0.12) if not two_wheels else 1.95 if name == "bicycle" else rng.uniform(-0.4, 0.9)
            if name != "bicycle" or paths.rightmost[lane]:
                x, y, yaw, _ = paths.locate(np.array(lane), np.array(s))
                crowd.add(
                    name,
                    float(x),
                    float(y),
                    float(yaw),
                    path=int(lane),
                    s=float(s),
                    speed=speed,
                    lateral=float(lateral),
                )
            s += SIZES_M[name][0] + 7 + rng.exponential(42.0 / density.traffic)


def _people(crowd: _Crowd, town: Town, density: Density) -> None:
    rng, paths = crowd.rng, town.network.paths
    walks = np.flatnonzero((paths.kind == SIDEWALK) | (paths.kind == CROSSING))
    weight = paths.length_m[walks] / paths.length_m[walks].sum()
    for path in rng.choice(walks, rng.poisson(160 * density.people), p=weight):
        s, stands = rng.uniform(0, paths.length_m[path]), rng.random() < 0.28 and paths.kind[path] == SIDEWALK
        speed = 0.0 if stands else float(np.clip(rng.normal(1.2, 0.25), 0.6, 1.9))
        for _ in range(1 + int(rng.poisson(0.8))):
            where = float(np.clip(s + rng.normal(0, 1.2), 0, paths.length_m[path]))
            x, y, yaw, _ = paths.locate(np.array(path), np.array(where))
            crowd.add(
                "pedestrian",
                float(x),
                float(y),
                float(yaw),
                path=int(path),
                s=where,
                speed=speed,
                lateral=float(rng.normal(0, 0.55)),
            )


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
