"""From streets to paths: lanes, the connectors that join them inside junctions, sidewalks, corners and crossings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from world_model.simulator.polylines import bezier, end_heading, headings, offset, resample, wrap
from world_model.simulator.state import Bools, Floats, Ints
from world_model.simulator.town.paths import CONNECTOR, CROSSING, LANE, MAX_SUCCESSORS, SIDEWALK, Paths, segment_table
from world_model.simulator.town.streets import LANE_WIDTH_M, Street, widest_at_nodes

LATERAL_LIMIT_MPS2 = 1.5
"""Drivers choose their speed in bends so that lateral acceleration stays below this."""
TURN_RAD = np.deg2rad(35)
CONFLICT_M = 2.6
"""Connectors closer than this cross or merge."""
Arm = tuple[int, int, float]
"""A street at a node: its number, which of its ends touches the node, and its outward direction in rad."""


def derive_paths(nodes: Floats, streets: tuple[Street, ...]) -> Paths:
    """All paths of a town with these junctions (N, 2) and streets."""
    build = _Builder(streets)
    radius = widest_at_nodes(streets, len(nodes)) + 6.0
    for k, street in enumerate(streets):
        away = [np.hypot(*(street.line - nodes[n]).T) > radius[n] for n in street.ends]
        build.add_street(k, street.line[away[0] & away[1]])
    for n in range(len(nodes)):
        arms = _arms(streets, n)
        build.add_connectors(n, arms)
        build.add_corners(n, arms)
    return build.finish()


def _arms(streets: tuple[Street, ...], n: int) -> list[Arm]:
    """Streets at a node, counter-clockwise."""
    arms = []
    for k, street in enumerate(streets):
        for end, line in enumerate((street.line, street.line[::-1])):
            if street.ends[end] == n:
                dx, dy = line[min(15, len(line) - 1)] - line[0]
                arms.append((k, end, float(np.arctan2(dy, dx))))
    return sorted(arms, key=lambda arm: arm[2])


@dataclass
class _Builder:
    """Collects paths one by one; ``finish`` flattens them."""

    streets: tuple[Street, ...]
    lines: list[Floats] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    successors: list[list[int]] = field(default_factory=list)
    lanes: dict[tuple[int, int], list[int]] = field(default_factory=dict)  # by street and end that they lead to
    walks: dict[tuple[int, int, int], int] = field(default_factory=dict)  # by street, side and end

    def add(self, line: Floats, kind: int, node: int, *, turn: int = 0, group: int = 0, rightmost: bool = False) -> int:
        """One path; returns its number."""
        self.lines.append(resample(line))
        self.rows.append(dict(kind=kind, node=node, turn=turn, group=group, rightmost=rightmost))
        self.successors.append([])
        return len(self.lines) - 1

    def add_street(self, k: int, middle: Floats) -> None:
        """Lanes in both directions, sidewalks on both sides in both directions, and a crossing at either end.

        Args:
            k: number of the street. middle: (n, 2) the part of its centre-line outside both junctions.
        """
        street, ends = self.streets[k], self.streets[k].ends
        for end, line in enumerate((middle[::-1], middle)):
            self.lanes[k, end] = [
                self.add(offset(line, (i + 0.5) * LANE_WIDTH_M), LANE, ends[end], rightmost=last)
                for i, last in enumerate([False] * (street.lanes - 1) + [True])
            ]
        away = street.half_width_m + 0.5 * street.sidewalk_m
        for side, right_m in enumerate((away, -away)):
            line = offset(middle, right_m)
            for end, way in enumerate((line[::-1], line)):
                self.walks[k, side, end] = self.add(way, SIDEWALK, ends[end])
        for end in (0, 1):
            for side in (0, 1):
                here, there = self.walks[k, side, end], self.walks[k, 1 - side, end]
                across = np.stack([self.lines[here][-1], self.lines[there][-1]])
                crossing = self.add(across, CROSSING, ends[end])
                self.successors[here] += [self.walks[k, side, 1 - end], crossing]
                self.successors[crossing].append(self.walks[k, 1 - side, 1 - end])

    def add_connectors(self, n: int, arms: list[Arm]) -> None:
        """From each lane that arrives at a junction to lanes that leave it: left from the left lane, and so on."""
        for k, end, out in arms:
            group, arriving = int(np.abs(np.sin(out - arms[0][2])) > 0.7), self.lanes[k, end]
            departures = [self.lanes[k2, 1 - end2] for k2, end2, _ in arms if k2 != k]
            for i, lane in enumerate(arriving):
                a, options = self.lines[lane], []
                for leaving in departures:
                    turn = wrap(end_heading(self.lines[leaving[0]], 0) - end_heading(a, -1))
                    side = int(turn > TURN_RAD) - int(turn < -TURN_RAD)
                    allowed = side == 0 or i == (0 if side > 0 else len(arriving) - 1)
                    target = {1: leaving[0], -1: leaving[-1], 0: leaving[min(i, len(leaving) - 1)]}[side]
                    options.append((allowed, target, side))
                dead_end = not any(allowed for allowed, _, _ in options)
                for _, target, side in (option for option in options if option[0] or dead_end):
                    b = self.lines[target]
                    line = bezier(a[-1], end_heading(a, -1), b[0], end_heading(b, 0))
                    c = self.add(line, CONNECTOR, n, turn=side, group=group)
                    self.successors[lane].append(c)
                    self.successors[c].append(target)

    def add_corners(self, n: int, arms: list[Arm]) -> None:
        """Sidewalks around the corners of a junction, from each street to its counter-clockwise neighbour."""
        for (k, end, _), (k2, end2, _) in zip(arms, arms[1:] + arms[:1], strict=True):
            # Seen outwards from the node, the counter-clockwise side of a street is its left.
            side, side2 = 1 - end, end2
            a, b = self.walks[k, side, end], self.walks[k2, side2, end2]
            p, q = self.lines[a], self.lines[b]
            corner = bezier(p[-1], end_heading(p, -1), q[-1], end_heading(q, -1) + np.pi)
            after_a, after_b = self.walks[k2, side2, 1 - end2], self.walks[k, side, 1 - end]
            for line, come, go in ((corner, a, after_a), (corner[::-1], b, after_b)):
                c = self.add(line, SIDEWALK, n)
                self.successors[come] += [c, c]
                self.successors[c].append(go)

    def finish(self) -> Paths:
        """All paths that were added."""
        count = np.array([len(x) for x in self.lines])
        spacing = np.array([np.hypot(*(x[1] - x[0])) for x in self.lines])
        directions = [headings(x) for x in self.lines]
        points, heading = np.concatenate(self.lines), np.concatenate(directions)
        limit = np.concatenate([_speed_limit(h, d) for h, d in zip(directions, spacing, strict=True)])
        columns = {name: np.array([row[name] for row in self.rows]) for name in self.rows[0]}
        kind, node, turn = columns["kind"], columns["node"], columns["turn"]
        successors = np.full((len(count), MAX_SUCCESSORS), -1)
        for p, following in enumerate(self.successors):
            successors[p, : len(following)] = following[:MAX_SUCCESSORS]
        return Paths(
            points=points, heading=heading, table=segment_table(points, heading, limit),
            start=np.cumsum(count) - count, count=count, spacing_m=spacing, length_m=spacing * (count - 1),
            successors=successors, choice=_choice(successors, kind, turn), conflict=self._conflicts(kind, node),
            **columns,
        )  # fmt: skip

    def _conflicts(self, kind: Ints, node: Ints) -> Bools:
        conflict = np.zeros((len(kind), len(kind)), bool)
        for n in np.unique(node[kind == CONNECTOR]):
            ids = np.flatnonzero((kind == CONNECTOR) & (node == n))
            points, count = np.concatenate([self.lines[i] for i in ids]), [len(self.lines[i]) for i in ids]
            first = np.cumsum(count) - count
            gap = ((points[:, None] - points[None]) ** 2).sum(-1)
            gap = np.minimum.reduceat(np.minimum.reduceat(gap, first, 0), first, 1)
            same_start = ((points[first, None] - points[first]) ** 2).sum(-1) < 1
            conflict[np.ix_(ids, ids)] = (gap < CONFLICT_M**2) & ~same_start
        return conflict


def _choice(successors: Ints, kind: Ints, turn: Ints) -> Floats:
    """Most drivers go straight on; most walkers turn the corner or walk on, some cross, few turn round."""
    weight = np.where(turn[successors] == 0, 5.0, 1.0)
    weight = np.where(kind[successors] == CROSSING, 0.7, weight)
    total = np.cumsum(weight * (successors >= 0), 1)
    choice: Floats = total / np.maximum(total[:, -1:], 1e-9)
    return choice


def _speed_limit(heading: Floats, spacing: float) -> Floats:
    bend = np.abs(wrap(np.gradient(np.unwrap(heading)))) / spacing
    bend = np.convolve(np.pad(bend, 2, mode="edge"), np.ones(5) / 5, "valid")
    limit: Floats = np.sqrt(LATERAL_LIMIT_MPS2 / np.maximum(bend, 1e-3))
    return limit
