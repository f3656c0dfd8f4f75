"""The streets of a town: a bent grid with some links missing, each with its lanes, parking strips and sidewalks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from world_model.simulator.polylines import resample
from world_model.simulator.state import Floats

LANE_WIDTH_M = 3.5
PARKING_WIDTH_M = 2.5
Edge = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Street:
    """A street between two junctions."""

    ends: Edge  # the two node numbers
    line: Floats  # (n, 2) centre-line from node to node, about 1 m between points, metres
    lanes: int  # in each direction
    half_width_m: float  # centre-line to kerb, parking strip included
    parking: bool  # whether parking strips lie along both kerbs
    sidewalk_m: float  # width of the sidewalks


def draw_street(nodes: Floats, ends: Edge, rng: np.random.Generator, wide: float) -> Street:
    """A street between two nodes; ``wide`` is the town's chance of a second lane."""
    a, b = nodes[list(ends)]
    across = np.array([-(b - a)[1], (b - a)[0]])
    bow = np.clip(rng.normal(0, 0.07), -0.16, 0.16) * (rng.random() < 0.7)
    middle = (a + b) / 2 + across * bow
    t = np.linspace(0, 1, 60)[:, None]
    line = resample((1 - t) ** 2 * a + 2 * (1 - t) * t * middle + t**2 * b)
    lanes = 1 + int(rng.random() < wide) + int(rng.random() < wide * 0.3)
    parking = bool(rng.random() < 0.6)
    half, sidewalk = lanes * LANE_WIDTH_M + (PARKING_WIDTH_M if parking else 0.6), float(rng.uniform(1.6, 3.2))
    return Street(ends=ends, line=line, lanes=lanes, half_width_m=half, parking=parking, sidewalk_m=sidewalk)


def widest_at_nodes(streets: tuple[Street, ...], nodes: int) -> Floats:
    """(nodes,) half width of the widest street at each junction."""
    widest = np.zeros(nodes)
    for street in streets:
        np.maximum.at(widest, list(street.ends), street.half_width_m)
    return widest


def draw_edges(n: int, rng: np.random.Generator, drop: float) -> list[Edge]:
    """Edges of an n x n grid with some dropped; every node keeps two neighbours and the graph stays connected."""
    edges = [(i * n + j, i * n + j + 1) for i in range(n) for j in range(n - 1)]
    edges += [(i * n + j, (i + 1) * n + j) for i in range(n - 1) for j in range(n)]
    kept = edges
    for k in rng.permutation(len(edges))[: int(drop * len(edges))]:
        rest = [e for e in kept if e != edges[k]]
        if _well_connected(rest, n * n):
            kept = rest
    return kept


def _well_connected(edges: list[Edge], nodes: int) -> bool:
    """Whether every node has two neighbours and can be reached from the first one."""
    near = [{node for edge in edges if n in edge for node in edge} for n in range(nodes)]
    reached = {0}
    for _ in range(nodes):
        reached |= {node for n in reached for node in near[n]}
    return len(reached) == nodes and min(map(len, near)) > 2
