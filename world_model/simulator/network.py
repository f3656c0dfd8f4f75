"""The road network of a town: streets with curves, lanes, junction connectors, sidewalks and crossings.

Everything that moves follows a *path*: a directed polyline with successors. Road lanes, the connectors that join them
inside junctions, sidewalks and crossings are all paths, so traffic needs one kernel only. Right-hand traffic.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import overload

import numpy as np
from numpy.typing import NDArray

LANE, CONNECTOR, SIDEWALK, CROSSING = range(4)
"""Kinds of path."""
LANE_WIDTH_M = 3.5
PARKING_WIDTH_M = 2.5
MAX_SUCCESSORS = 6
LATERAL_LIMIT_MPS2 = 1.5
"""Drivers choose their speed in bends so that lateral acceleration stays below this."""
TURN_RAD = np.deg2rad(35)

Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Street:
    """A street between two junctions.

    Args:
        ends: the two node numbers.
        line: (n, 2) centre-line from node to node, about 1 m between points, metres.
        lanes: lanes in each direction.
        half_width_m: centre-line to kerb, parking strip included.
        parking: whether parking strips lie along both kerbs.
        sidewalk_m: width of the sidewalks.
    """

    ends: tuple[int, int]
    line: Floats
    lanes: int
    half_width_m: float
    parking: bool
    sidewalk_m: float


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
    rightmost: NDArray[np.bool_]

    def locate(self, path: NDArray[np.int64], s_m: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Position x, y, heading and speed limit at arc length ``s_m`` (clamped) of paths; any equal shapes."""
        u = np.clip(s_m / self.spacing_m[path], 0, self.count[path] - 1.001)
        low = u.astype(np.int64)
        part, low = u - low, low + self.start[path]
        p, q = self.points[low], self.points[low + 1]
        xy = p + (q - p) * part[..., None]
        turn = wrap(self.heading[low + 1] - self.heading[low])
        return xy[..., 0], xy[..., 1], self.heading[low] + part * turn, self.limit_mps[low]


@dataclass(frozen=True, kw_only=True)
class Network:
    """Streets, junction places and paths of one town."""

    nodes: Floats
    streets: tuple[Street, ...]
    paths: Paths
    degree: NDArray[np.int64]
    signalled: NDArray[np.bool_]


@overload
def wrap(angle_rad: float) -> float: ...
@overload
def wrap(angle_rad: Floats) -> Floats: ...
def wrap(angle_rad: Floats | float) -> Floats | float:
    """Angle in [-pi, pi)."""
    return (angle_rad + np.pi) % (2 * np.pi) - np.pi


def resample(line: Floats, spacing_m: float = 1.0) -> Floats:
    """Polyline (n, 2) with equal spacing close to ``spacing_m``."""
    along = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))))
    s = np.linspace(0, along[-1], max(3, round(along[-1] / spacing_m) + 1))
    return np.stack([np.interp(s, along, line[:, 0]), np.interp(s, along, line[:, 1])], -1)


def headings(line: Floats) -> Floats:
    """Tangent direction in rad at each point of a polyline (n, 2)."""
    d = np.gradient(line, axis=0)
    return np.arctan2(d[:, 1], d[:, 0])


def offset(line: Floats, right_m: float) -> Floats:
    """Polyline moved to its right by ``right_m`` metres."""
    h = headings(line)
    return line + right_m * np.stack([np.sin(h), -np.cos(h)], -1)


def bezier(p0: Floats, h0: float, p1: Floats, h1: float) -> Floats:
    """Smooth curve from p0 with heading h0 to p1 with heading h1."""
    reach = 0.42 * np.hypot(*(p1 - p0))
    a, b = p0 + reach * np.array([np.cos(h0), np.sin(h0)]), p1 - reach * np.array([np.cos(h1), np.sin(h1)])
    t = np.linspace(0, 1, 40)[:, None]
    return (1 - t) ** 3 * p0 + 3 * (1 - t) ** 2 * t * a + 3 * (1 - t) * t**2 * b + t**3 * p1


def _grid_edges(n: int, rng: np.random.Generator, drop: float) -> list[tuple[int, int]]:
    """Edges of an n x n grid with some dropped; every node keeps two neighbours and the graph stays connected."""
    edges = [(i * n + j, i * n + j + 1) for i in range(n) for j in range(n - 1)]
    edges += [(i * n + j, (i + 1) * n + j) for i in range(n - 1) for j in range(n)]
    kept = edges
    for k in rng.permutation(len(edges))[: int(drop * len(edges))]:
        rest = [e for e in kept if e != edges[k]]
        if _two_connected(rest, n * n):
            kept = rest
    return kept


def _two_connected(edges: list[tuple[int, int]], nodes: int) -> bool:
    near: list[list[int]] = [[] for _ in range(nodes)]
    for a, b in edges:
        near[a].append(b)
        near[b].append(a)
    if min(len(x) for x in near) < 2:
        return False
    seen, stack = {0}, [0]
    while stack:
        for b in near[stack.pop()]:
            if b not in seen:
                seen.add(b)
                stack.append(b)
    return len(seen) == nodes


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
        kind, street, node, turn, group, rightmost = (np.array(c) for c in zip(*self.rows, strict=True))
        successors = np.full((len(count), MAX_SUCCESSORS), -1)
        for p, following in enumerate(self.successors):
            successors[p, : len(following[:MAX_SUCCESSORS])] = following[:MAX_SUCCESSORS]
        return Paths(
            points=np.concatenate(self.lines),
            heading=np.concatenate(heading),
            limit_mps=np.concatenate(limit),
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


def build_network(rng: np.random.Generator, size_m: float) -> Network:
    """Draw a town's streets and derive all paths.

    Args:
        rng: the town's own generator.
        size_m: edge of the square town in metres; streets keep 60 m from its border, so that a frame never leaves it.
    """
    n = 4
    axis = np.linspace(64, size_m - 64, n)
    nodes = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    inner = ((nodes > axis[0]) & (nodes < axis[-1])).astype(float)
    nodes = (
        nodes
        + rng.uniform(-24, 24, nodes.shape) * inner
        + rng.uniform(0, 12, nodes.shape) * np.sign(size_m / 2 - nodes) * (1 - inner)
    )
    edges = _grid_edges(n, rng, 0.2)
    wide = rng.uniform(0.4, 0.95)
    streets = tuple(_street(nodes, e, rng, wide) for e in edges)
    degree = np.bincount(np.array(edges).ravel(), minlength=len(nodes))
    signalled = (degree > 2) & (rng.random(len(nodes)) < 0.55)
    return Network(nodes=nodes, streets=streets, paths=_paths(nodes, streets), degree=degree, signalled=signalled)


def _street(nodes: Floats, ends: tuple[int, int], rng: np.random.Generator, wide: float) -> Street:
    a, b = nodes[list(ends)]
    across = np.array([-(b - a)[1], (b - a)[0]])
    bow = np.clip(rng.normal(0, 0.07), -0.16, 0.16) * (rng.random() < 0.7)
    middle = (a + b) / 2 + across * bow
    t = np.linspace(0, 1, 60)[:, None]
    line = resample((1 - t) ** 2 * a + 2 * (1 - t) * t * middle + t**2 * b)
    lanes = 1 + int(rng.random() < wide) + int(rng.random() < wide * 0.3)
    parking = bool(rng.random() < 0.6)
    half = lanes * LANE_WIDTH_M + (PARKING_WIDTH_M if parking else 0.6)
    return Street(
        ends=ends, line=line, lanes=lanes, half_width_m=half, parking=parking, sidewalk_m=float(rng.uniform(1.6, 3.2))
    )


def _trim(street: Street, nodes: Floats, reach: Floats) -> Floats:
    """The part of a centre-line outside both junctions."""
    keep = np.ones(len(street.line), bool)
    for n in street.ends:
        keep &= np.hypot(*(street.line - nodes[n]).T) > reach[n]
    return street.line[keep]


def _paths(nodes: Floats, streets: tuple[Street, ...]) -> Paths:
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
                turn = float(wrap(build_heading(build.lines[leaving[0]], 0) - build_heading(build.lines[lane], -1)))
                side = int(turn > TURN_RAD) - int(turn < -TURN_RAD)
                allowed = side == 0 or (side > 0 and i == 0) or (side < 0 and i == len(arriving) - 1)
                target = leaving[0] if side > 0 else leaving[-1] if side < 0 else leaving[min(i, len(leaving) - 1)]
                options.append((allowed, target, side))
            if not any(o[0] for o in options):
                options = [(True, t, s) for _, t, s in options]
            for allowed, target, side in options:
                if allowed:
                    a, b = build.lines[lane], build.lines[target]
                    line = bezier(a[-1], build_heading(a, -1), b[0], build_heading(b, 0))
                    c = build.add(line, CONNECTOR, node=n, turn=side, group=group)
                    build.successors[lane].append(c)
                    build.successors[c].append(target)


def build_heading(line: Floats, index: int) -> float:
    """Heading at the first (0) or last (-1) point of a polyline."""
    d = line[1] - line[0] if index == 0 else line[-1] - line[-2]
    return float(np.arctan2(d[1], d[0]))


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
        corner = bezier(p[-1], build_heading(p, -1), q[-1], build_heading(q, -1) + np.pi)
        for line, come, go in ((corner, a, walks[k2, side2, 1 - end2]), (corner[::-1], b, walks[k, side, 1 - end])):
            c = build.add(line, SIDEWALK, node=n)
            build.successors[come] += [c, c]
            build.successors[c].append(go)
