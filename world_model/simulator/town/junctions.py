"""From streets to paths: lanes, the connectors that join them inside junctions, sidewalks, corners and crossings."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from world_model.simulator.polylines import bezier, end_heading, headings, offset, resample, wrap
from world_model.simulator.town.paths import (
    CONNECTOR,
    CROSSING,
    LANE,
    MAX_SUCCESSORS,
    SIDEWALK,
    Floats,
    Paths,
    segment_table,
)
from world_model.simulator.town.streets import LANE_WIDTH_M, Street

LATERAL_LIMIT_MPS2 = 1.5
"""Drivers choose their speed in bends so that lateral acceleration stays below this."""
TURN_RAD = np.deg2rad(35)


@dataclass
class _Builder:
    """Collects paths one by one; ``finish`` flattens them."""

    lines: list[Floats] = field(default_factory=list)
    rows: list[tuple[int, int, int, int, int, bool]] = field(default_factory=list)
    successors: list[list[int]] = field(default_factory=list)

    def add(
        self,
        line: Floats,
        kind: int,
        *,
        street: int = -1,
        node: int = -1,
        turn: int = 0,
        group: int = 0,
        rightmost: bool = False,
    ) -> int:
        self.lines.append(resample(line))
        self.rows.append((kind, street, node, turn, group, rightmost))
        self.successors.append([])
        return len(self.lines) - 1

    def finish(self) -> Paths:
        count = np.array([len(x) for x in self.lines])
        start = np.concatenate(([0], np.cumsum(count)[:-1]))
        spacing = np.array([np.hypot(*(x[1] - x[0])) for x in self.lines])
        heading = [headings(x) for x in self.lines]
        limit = [_speed_limit(h, d) for h, d in zip(heading, spacing, strict=True)]
        points, bearing, limit_mps = np.concatenate(self.lines), np.concatenate(heading), np.concatenate(limit)
        kind, street, node, turn, group, rightmost = (np.array(c) for c in zip(*self.rows, strict=True))
        successors = np.full((len(count), MAX_SUCCESSORS), -1)
        for p, following in enumerate(self.successors):
            successors[p, : len(following[:MAX_SUCCESSORS])] = following[:MAX_SUCCESSORS]
        return Paths(
            points=points,
            heading=bearing,
            limit_mps=limit_mps,
            table=segment_table(points, bearing, limit_mps),
            start=start,
            count=count,
            spacing_m=spacing,
            length_m=spacing * (count - 1),
            kind=kind,
            street=street,
            node=node,
            turn=turn,
            group=group,
            successors=successors,
            choice=_choice(successors, kind, turn),
            conflict=self._conflicts(kind, node),
            rightmost=rightmost.astype(bool),
        )

    def _conflicts(self, kind: NDArray[np.int64], node: NDArray[np.int64]) -> NDArray[np.bool_]:
        conflict = np.zeros((len(kind), len(kind)), bool)
        for n in np.unique(node[kind == CONNECTOR]):
            ids = np.flatnonzero((kind == CONNECTOR) & (node == n))
            points = np.concatenate([self.lines[i] for i in ids])
            first = np.concatenate(([0], np.cumsum([len(self.lines[i]) for i in ids])[:-1]))
            gap = ((points[:, None] - points[None]) ** 2).sum(-1)
            gap = np.minimum.reduceat(np.minimum.reduceat(gap, first, 0), first, 1)
            starts = np.array([self.lines[i][0] for i in ids])
            same_start = ((starts[:, None] - starts[None]) ** 2).sum(-1) < 1
            conflict[np.ix_(ids, ids)] = (gap < 2.6**2) & ~same_start
        return conflict


def _choice(successors: NDArray[np.int64], kind: NDArray[np.int64], turn: NDArray[np.int64]) -> Floats:
    """Most drivers go straight on; most walkers turn the corner or walk on, some cross, few turn round."""
    weight = np.where(turn[successors] == 0, 5.0, 1.0)
    weight = np.where(kind[successors] == CROSSING, 0.7, weight)
    weight = weight * (successors >= 0)
    total = np.cumsum(weight, 1)
    return total / np.maximum(total[:, -1:], 1e-9)


def _speed_limit(heading: Floats, spacing: float) -> Floats:
    bend = np.abs(wrap(np.gradient(np.unwrap(heading)))) / spacing
    bend = np.convolve(np.pad(bend, 2, mode="edge"), np.ones(5) / 5, "valid")
    return np.sqrt(LATERAL_LIMIT_MPS2 / np.maximum(bend, 1e-3))


def _trim(street: Street, nodes: Floats, reach: Floats) -> Floats:
    """The part of a centre-line outside both junctions."""
    keep = np.ones(len(street.line), bool)
    for n in street.ends:
        keep &= np.hypot(*(street.line - nodes[n]).T) > reach[n]
    return street.line[keep]


def derive_paths(nodes: Floats, streets: tuple[Street, ...]) -> Paths:
    """All paths of a town with these junctions and streets."""
    reach = np.zeros(len(nodes))
    for street in streets:
        for n in street.ends:
            reach[n] = max(reach[n], street.half_width_m + 6.0)
    build = _Builder()
    lanes: dict[tuple[int, int], list[int]] = {}
    walks: dict[tuple[int, int, int], int] = {}
    for k, street in enumerate(streets):
        middle = _trim(street, nodes, reach)
        for end in (0, 1):
            line = middle if end == 1 else middle[::-1]
            lanes[k, end] = [
                build.add(
                    offset(line, (i + 0.5) * LANE_WIDTH_M),
                    LANE,
                    street=k,
                    node=street.ends[end],
                    rightmost=i == street.lanes - 1,
                )
                for i in range(street.lanes)
            ]
        _add_walks(build, walks, k, street, middle)
    for n in range(len(nodes)):
        _add_connectors(build, lanes, streets, n)
        _add_corners(build, walks, nodes, streets, n)
    return build.finish()


def _add_walks(build: _Builder, walks: dict[tuple[int, int, int], int], k: int, street: Street, middle: Floats) -> None:
    """Sidewalks on both sides in both directions, and a crossing at either end; ``walks[street, side, end]``."""
    away = street.half_width_m + 0.5 * street.sidewalk_m
    for side in (0, 1):
        line = offset(middle, away if side == 0 else -away)
        for end in (0, 1):
            walks[k, side, end] = build.add(line if end == 1 else line[::-1], SIDEWALK, street=k, node=street.ends[end])
    for end in (0, 1):
        for side in (0, 1):
            here, there = walks[k, side, end], walks[k, 1 - side, end]
            crossing = build.add(
                np.stack([build.lines[here][-1], build.lines[there][-1]]), CROSSING, street=k, node=street.ends[end]
            )
            build.successors[here] += [walks[k, side, 1 - end], crossing]
            build.successors[crossing].append(walks[k, 1 - side, 1 - end])


def _arms(streets: tuple[Street, ...], n: int) -> list[tuple[int, int, float]]:
    """Streets at a node, counter-clockwise: (street, end that touches the node, outward direction)."""
    arms = []
    for k, street in enumerate(streets):
        for end in (0, 1):
            if street.ends[end] == n:
                line = street.line[::-1] if end == 1 else street.line
                d = line[min(15, len(line) - 1)] - line[0]
                arms.append((k, end, float(np.arctan2(d[1], d[0]))))
    return sorted(arms, key=lambda a: a[2])


def _add_connectors(
    build: _Builder, lanes: dict[tuple[int, int], list[int]], streets: tuple[Street, ...], n: int
) -> None:
    arms = _arms(streets, n)
    base = arms[0][2]
    for k, end, out in arms:
        group = int(np.abs(np.sin(out - base)) > 0.7)
        arriving = lanes[k, end]
        for i, lane in enumerate(arriving):
            options = []
            for k2, end2, _ in arms:
                if k2 == k:
                    continue
                leaving = lanes[k2, 1 - end2]
                turn = float(wrap(end_heading(build.lines[leaving[0]], 0) - end_heading(build.lines[lane], -1)))
                side = int(turn > TURN_RAD) - int(turn < -TURN_RAD)
                allowed = side == 0 or (side > 0 and i == 0) or (side < 0 and i == len(arriving) - 1)
                target = leaving[0] if side > 0 else leaving[-1] if side < 0 else leaving[min(i, len(leaving) - 1)]
                options.append((allowed, target, side))
            if not any(o[0] for o in options):
                options = [(True, t, s) for _, t, s in options]
            for allowed, target, side in options:
                if allowed:
                    a, b = build.lines[lane], build.lines[target]
                    line = bezier(a[-1], end_heading(a, -1), b[0], end_heading(b, 0))
                    c = build.add(line, CONNECTOR, node=n, turn=side, group=group)
                    build.successors[lane].append(c)
                    build.successors[c].append(target)


def _add_corners(
    build: _Builder, walks: dict[tuple[int, int, int], int], nodes: Floats, streets: tuple[Street, ...], n: int
) -> None:
    """Sidewalks around the corners of a junction, from each street to its counter-clockwise neighbour."""
    arms = _arms(streets, n)
    for (k, end, _), (k2, end2, _) in zip(arms, arms[1:] + arms[:1], strict=True):
        # Seen outwards from the node, the counter-clockwise side of a street is its left.
        side = 1 if end == 0 else 0
        side2 = 0 if end2 == 0 else 1
        a, b = walks[k, side, end], walks[k2, side2, end2]
        p, q = build.lines[a], build.lines[b]
        corner = bezier(p[-1], end_heading(p, -1), q[-1], end_heading(q, -1) + np.pi)
        for line, come, go in ((corner, a, walks[k2, side2, 1 - end2]), (corner[::-1], b, walks[k, side, 1 - end])):
            c = build.add(line, SIDEWALK, node=n)
            build.successors[come] += [c, c]
            build.successors[c].append(go)
