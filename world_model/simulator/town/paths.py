"""What travellers follow: directed polylines with successors, flattened into arrays that one gather can read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from world_model.simulator.polylines import wrap
from world_model.simulator.state import Bools, Floats, Ints, Keys

LANE, CONNECTOR, SIDEWALK, CROSSING = range(4)
"""Kinds of path: road lanes, what joins them inside junctions, and what people walk on."""
MAX_SUCCESSORS = 6


@dataclass(frozen=True, kw_only=True)
class Paths:
    """All L directed paths of a town, flattened: path ``p`` owns ``points[start[p] : start[p] + count[p]]``."""

    points: Floats  # (P, 2) metres, equally spaced within a path
    heading: Floats  # (P,) rad
    start: Ints  # (L,) first point
    count: Ints  # (L,) number of points
    spacing_m: Floats  # (L,) between points
    length_m: Floats  # (L,)
    kind: Ints  # (L,) LANE, CONNECTOR, SIDEWALK or CROSSING
    node: Ints  # (L,) junction a connector belongs to, or the junction at a lane's end
    turn: Ints  # (L,) of connectors: +1 left, 0 straight, -1 right
    group: Ints  # (L,) of connectors: signal group 0 or 1
    rightmost: Bools  # (L,) whether a lane lies next to the kerb
    successors: Ints  # (L, MAX_SUCCESSORS) path numbers, -1 where none
    choice: Floats  # (L, MAX_SUCCESSORS) cumulative probability with which travellers choose each successor
    conflict: Bools  # (L, L) whether two connectors cross or merge
    table: Floats  # (P, 8) what ``segment_table`` made of the points

    def locate(self, path: Ints, s_m: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Position x, y, heading and speed limit at arc length ``s_m`` (clamped) of paths; any equal shapes."""
        u = np.minimum(np.maximum(s_m / self.spacing_m[path], 0), self.count[path] - 1.001)
        low = u.astype(np.int64)
        row, part = self.table[low + self.start[path]], u - low
        x, y, heading = (row[..., k] + part * row[..., k + 1] for k in (0, 2, 4))
        return x, y, heading, row[..., 6]

    def successor(self, path: Ints, key: Keys, hops: Ints) -> Ints:
        """(n,) the path that each traveller takes after ``path``: its own fixed choice."""
        pick = (self.choice[path] <= hash_unit(key, hops)[:, None]).sum(1)
        chosen: Ints = self.successors[path, np.minimum(pick, MAX_SUCCESSORS - 1)]
        return chosen

    def first_route(self, path: Ints, key: Keys) -> Ints:
        """(n, 2) the two paths after ``path``, for travellers that have chosen nothing before."""
        first = self.successor(path, key, np.array(0))
        return np.stack([first, self.successor(first, key, np.array(1))], -1)

    def likeliest_successor(self, path: int) -> int:
        """The successor with the largest share."""
        return int(self.successors[path, np.diff(self.choice[path], prepend=0.0).argmax()])


def hash_unit(*parts: Keys | Ints | int) -> Floats:
    """Uniform numbers in [0, 1) from integers (splitmix64), so that choices need no generator state."""
    mixed = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            mixed = (mixed ^ np.asarray(part).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53


def segment_table(points: Floats, heading: Floats, limit_mps: Floats) -> Floats:
    """(P, 8) rows x, change of x to the next point, y, its change, heading, its change, speed limit, 0.

    One gather of a whole row (one cache line) replaces seven gathers of single numbers.
    """
    table = np.zeros((len(heading), 8))
    table[:, ::2] = np.column_stack([points, heading, limit_mps])
    table[:-1, 1:4:2] = np.diff(points, axis=0)
    table[:-1, 5] = wrap(np.diff(heading))
    return table
