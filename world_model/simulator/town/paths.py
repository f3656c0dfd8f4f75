"""What travellers follow: directed polylines with successors, flattened into arrays that one gather can read.

Road lanes, the connectors that join them inside junctions, sidewalks and crossings are all paths, so traffic needs one
kernel only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from world_model.simulator.polylines import wrap

LANE, CONNECTOR, SIDEWALK, CROSSING = range(4)
"""Kinds of path."""
MAX_SUCCESSORS = 6

Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Paths:
    """All directed paths of a town, flattened: path ``p`` owns ``points[start[p] : start[p] + count[p]]``.

    Args:
        points: (P, 2) metres, equally spaced within a path.
        heading: (P,) radians.
        limit_mps: (P,) comfortable speed for the local curvature.
        start, count: (L,) first point and number of points.
        spacing_m, length_m: (L,) metres.
        kind: (L,) LANE, CONNECTOR, SIDEWALK or CROSSING.
        street: (L,) street number or -1.
        node: (L,) junction a connector belongs to, or the junction at a lane's end.
        turn: (L,) of connectors: +1 left, 0 straight, -1 right.
        group: (L,) of connectors: signal group 0 or 1.
        successors: (L, MAX_SUCCESSORS) path numbers, -1 where none.
        choice: (L, MAX_SUCCESSORS) cumulative probability with which travellers choose each successor.
        conflict: (L, L) whether two connectors cross or merge.
        table: (P, 8) what ``segment_table`` made of the points.
        rightmost: (L,) whether a lane lies next to the kerb.
    """

    points: Floats
    heading: Floats
    limit_mps: Floats
    start: NDArray[np.int64]
    count: NDArray[np.int64]
    spacing_m: Floats
    length_m: Floats
    kind: NDArray[np.int64]
    street: NDArray[np.int64]
    node: NDArray[np.int64]
    turn: NDArray[np.int64]
    group: NDArray[np.int64]
    successors: NDArray[np.int64]
    choice: Floats
    conflict: NDArray[np.bool_]
    table: Floats
    rightmost: NDArray[np.bool_]

    def locate(self, path: NDArray[np.int64], s_m: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Position x, y, heading and speed limit at arc length ``s_m`` (clamped) of paths; any equal shapes."""
        u = np.minimum(np.maximum(s_m / self.spacing_m[path], 0), self.count[path] - 1.001)
        low = u.astype(np.int64)
        row = self.table[low + self.start[path]]
        part = u - low
        return (
            row[..., 0] + part * row[..., 1],
            row[..., 2] + part * row[..., 3],
            row[..., 4] + part * row[..., 5],
            row[..., 6],
        )


def segment_table(points: Floats, heading: Floats, limit_mps: Floats) -> Floats:
    """(P, 8) rows x, change of x to the next point, y, its change, heading, its change, speed limit, 0.

    One gather of a whole row (one cache line) replaces seven gathers of single numbers.
    """
    table = np.zeros((len(heading), 8))
    table[:, 0], table[:, 2], table[:, 4], table[:, 6] = points[:, 0], points[:, 1], heading, limit_mps
    table[:-1, 1:4:2] = np.diff(points, axis=0)
    table[:-1, 5] = wrap(np.diff(heading))
    return table
