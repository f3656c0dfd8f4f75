"""The town of a recorded scenario: its road from the map, everything beside it drawn around as in procedural towns.

Sidewalks, buildings, fences, trees and bushes are not in such maps. They follow from the scenario's name alone, keep
clear of every place where an agent drives or walks, and have the shares of procedural towns.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import CLASS_ID, MOVABLE
from world_model.data.scenarios.scenario import Scenario, split_lines
from world_model.simulator.polylines import headings, resample
from world_model.simulator.state import Bools, Floats, Ints
from world_model.simulator.town.network import Network
from world_model.simulator.town.painting import (
    CELL_M,
    CELLS,
    GROUND_LEVEL,
    LEVELS,
    MANMADE,
    TOWN_SIZE_M,
    Painter,
    rectangle,
    smooth_noise,
)
from world_model.simulator.town.paths import LANE, MAX_SUCCESSORS, Paths, segment_table
from world_model.simulator.town.raster import distance, fill, mark, smooth_gradient, spread
from world_model.simulator.town.terrain import terrain_of
from world_model.simulator.town.town import Town

PEDESTRIAN = CLASS_ID["pedestrian"]
ON_FOOT = [CLASS_ID[name] for name in ("pedestrian", "bicycle", "motorcycle", "traffic_cone", "barrier")]
SHOULDER_M = 4.4
"""Beyond its lanes the road goes on up to an edge that is not further away than this: parking strips, shoulders."""
LOT_M, LOT_SEAM_M = 6.0, 2.5
"""Around vehicles off the road the ground is paved; gaps between them close up to twice the first, less the second."""
CLEAR_M, FRONT_M = 0.8, 12.0
"""Free space around the ways of people, and how far beyond the road distances are told apart."""
LOT_TRIES, JOIN_M, JOIN_RAD, SPEED_MPS = 9000, 1.5, 1.0, 12.0


def scenario_rng(scenario: Scenario) -> np.random.Generator:
    """The generator from which everything that is not in the scenario is drawn."""
    return np.random.default_rng(list(hashlib.sha256(scenario.name.encode()).digest()))


def origin_of(scenario: Scenario) -> Floats:
    """(2,) global place of the map's corner: the drive lies in the middle, on whole cells."""
    middle: Floats = (scenario.ego[:, :2].min(0) + scenario.ego[:, :2].max(0)) / 2
    corner: Floats = np.round((middle - TOWN_SIZE_M / 2) / CELL_M) * CELL_M
    return corner


def build_scenario_town(scenario: Scenario, terrain: str = "flat") -> Town:
    """Draw the town of a scenario, on a terrain as for ``build_town``."""
    corner = origin_of(scenario)
    paths = _paths([line - corner for line in split_lines(scenario.lanes)])
    one = np.zeros(1)
    network = Network(
        nodes=np.zeros((1, 2)), streets=(), paths=paths, degree=np.zeros(1, np.int64), signalled=one > 0, phase_s=one
    )
    painter = ScenarioPainter(scenario, corner, network)
    painter.columns.setflags(write=False)
    return Town(
        network=network, columns=painter.columns, occluder=painter.occluder, slots=np.zeros((0, 3)),
        works=np.zeros((0, 4)), log=scenario, terrain=terrain_of(terrain, network, painter, [int(scenario.digest, 16)]),
    )  # fmt: skip


class ScenarioPainter(Painter):
    """Paints the surroundings of a recorded drive.

    Args:
        scenario: what was recorded. corner: global place of the map's corner, metres. network: its lanes.
    """

    scattered = 2400

    def __init__(self, scenario: Scenario, corner: Floats, network: Network) -> None:
        self.scenario, self.corner = scenario, corner
        super().__init__(network, scenario_rng(scenario))

    def _on_map(self, lines: Any) -> list[Floats]:
        return [line - self.corner for line in split_lines(lines)]

    def _visited(self, rows: Bools) -> Bools:
        """Cells that the boxes of some agents ever touch."""
        s = self.scenario
        agent = np.nonzero(s.present & rows)
        x, y, yaw = (s.place[agent] - (*self.corner, 0)).T
        length, width = (s.size_m[agent[1], :2] / 2).T
        part = np.linspace(-1, 1, 9)
        u, v = (a.reshape(-1) for a in np.meshgrid(part, part))
        along, aside = length[:, None] * u, width[:, None] * v
        c, sine = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
        points = np.stack([x[:, None] + along * c - aside * sine, y[:, None] + along * sine + aside * c], -1)
        return mark(points.reshape(-1, 2))

    def _streets(self) -> None:
        s = self.scenario
        road = fill(self._on_map(s.areas)) | fill(self._on_map(s.rings), odd=True)
        edges = [resample(line, CELL_M / 2) for line in self._on_map(s.edges)]
        edge = mark(np.concatenate([np.zeros((0, 2)), *edges]))
        if edge.any():
            reach = int(SHOULDER_M / CELL_M)
            road |= spread(road, ~edge & (distance(edge, SHOULDER_M) <= SHOULDER_M), reach)
            road |= edge & spread(road, edge, 1)
        vehicle = np.isin(s.label, MOVABLE) & ~np.isin(s.label, ON_FOOT)
        parked = self._visited(vehicle) & ~road
        lot = distance(~(distance(parked, LOT_M) <= LOT_M), LOT_M) > LOT_M - LOT_SEAM_M
        self.road = distance(road | lot, FRONT_M) - np.float32(CELL_M / 2)
        self.feet = distance(self._visited(~vehicle) & ~(road | lot), CLEAR_M)
        width = (2.2 + 0.7 * smooth_noise(self.rng, 40)).clip(0 if self.rng.random() < 0.3 else 1.2, 4.5)
        self.walk = np.minimum(self.road - width, self.feet - np.float32(CLEAR_M)).astype(np.float32)
        walks = fill(self._on_map(s.walks))
        if walks.any():
            self.walk = np.where(walks, np.minimum(self.walk, -0.1), self.walk).astype(np.float32)

    def _lots(self) -> None:
        rng, dense = self.rng, self.rng.uniform(0.7, 0.97)
        i, j = np.nonzero((self.walk > 0) & (self.walk < CELL_M * 1.5))
        if not len(i):
            return
        chosen = rng.permutation(len(i))[:LOT_TRIES]
        i, j = i[chosen], j[chosen]
        away = smooth_gradient(self.road, i, j)
        setback = np.abs(0.8 + 1.8 * smooth_noise(rng, 60))[i, j]
        for x, y, angle, back in np.column_stack([(i + 0.5) * CELL_M, (j + 0.5) * CELL_M, away, setback]).tolist():
            front, depth = rng.uniform(9, 28), rng.uniform(8, 18)
            reach = back + depth / 2 + rng.uniform(0.4, 1.5)
            x, y, kind = x + reach * np.cos(angle), y + reach * np.sin(angle), rng.random()
            a, b = int(x / CELL_M), int(y / CELL_M)
            if not (0 < a < CELLS and 0 < b < CELLS) or self.built[a, b] or self.walk[a, b] <= 1.0:
                continue
            cells, inward = rectangle(x, y, angle + np.pi / 2, front, depth)
            inside, built = inward > -1.0, self.built[cells]
            if not inside.any() or (self.walk[cells][inside] <= 0.4).any() or built[inside].any():
                continue
            built |= inward > 0
            if kind < dense:
                self._building(cells, inward)
            else:
                self._garden(cells, inward)

    def _greenery(self) -> None:
        rng = self.rng
        for share, ring, plant in ((0.022, (0.3, 1.4), True), (0.004, (0.2, 0.7), False)):
            band = self.walk if plant else self.road
            i, j = np.nonzero((band > ring[0]) & (band < ring[1]))
            chosen = np.flatnonzero(rng.random(len(i)) < share)
            for x, y in np.column_stack([i[chosen] + 0.5, j[chosen] + 0.5]).tolist():
                if plant:
                    self._tree(x * CELL_M, y * CELL_M)
                else:
                    self._stamp(x * CELL_M, y * CELL_M, 0.25, MANMADE, GROUND_LEVEL, LEVELS, 0)
        super()._greenery()

    def _allowed(self, x: float, y: float) -> bool:
        i, j = int(x / CELL_M), int(y / CELL_M)
        on_foot = 0 <= i < CELLS and 0 <= j < CELLS and self.feet[i, j] < CLEAR_M
        return not on_foot and super()._allowed(x, y)


def _paths(lines: list[Floats]) -> Paths:
    """The lanes of a scenario as paths; each leads to those that begin at its end."""
    lines = [line for line in (resample(_without_repeats(line)) for line in lines if len(line) > 1) if len(line) > 1]
    points, count = np.concatenate(lines), np.array([len(line) for line in lines])
    heading = np.concatenate([headings(line) for line in lines])
    spacing = np.array([np.hypot(*np.diff(line[:2], axis=0)[0]) for line in lines]).clip(1e-3)
    start = np.cumsum(count) - count
    ends, n = start + count - 1, len(lines)
    gap = np.hypot(*(points[ends][:, None] - points[start][None]).transpose(2, 0, 1))
    turn = np.cos(heading[ends][:, None] - heading[start][None])
    follows: list[Ints] = [
        np.flatnonzero((gap[k] < JOIN_M) & (turn[k] > np.cos(JOIN_RAD)))[:MAX_SUCCESSORS] for k in range(n)
    ]
    successors, choice = np.full((n, MAX_SUCCESSORS), -1), np.ones((n, MAX_SUCCESSORS))
    for k, found in enumerate(follows):
        found = found if len(found) else np.array([k])
        successors[k, : len(found)] = found
        choice[k, : len(found)] = np.arange(1, len(found) + 1) / len(found)
    zeros = np.zeros(n, np.int64)
    return Paths(
        points=points, heading=heading, start=start, count=count, spacing_m=spacing, length_m=spacing * (count - 1),
        kind=np.full(n, LANE), node=zeros, turn=zeros, group=zeros, rightmost=zeros > 0, successors=successors,
        choice=choice, conflict=np.zeros((n, n), bool),
        table=segment_table(points, heading, np.full(len(heading), SPEED_MPS)),
    )  # fmt: skip


def _without_repeats(line: NDArray[Any]) -> Floats:
    keep = np.append(True, np.hypot(*np.diff(line, axis=0).T) > 1e-3)
    return line[keep] if keep.sum() > 1 else np.array([line[0], line[0] + (0.5, 0.0)])
