"""The painter of towns: streets, buildings, gardens and trees drawn into a map of voxel columns."""

from __future__ import annotations

import math

import numpy as np

from world_model.core.grid import CLASS_ID, DRIVEABLE, FREE, OCC3D
from world_model.simulator.polylines import beside, headings, into, offset, wrap
from world_model.simulator.state import Float32s, Floats
from world_model.simulator.town.network import Network
from world_model.simulator.town.paths import CONNECTOR
from world_model.simulator.town.streets import Street, widest_at_nodes

TOWN_SIZE_M = 480.0
FIELD_M = 10.0
"""Distances beyond sidewalks are computed up to here; further away counts as far."""
FAR_M = 60.0
RISE, DIP = 1.3, -0.35
"""Smooth noise above or below which soft ground lies a level higher or lower than the road."""
COARSE = 4
"""Noise is drawn on a grid this much coarser than the cells and interpolated."""
CELL_M = OCC3D.voxel_m
CELLS = round(TOWN_SIZE_M / CELL_M)
LEVELS = OCC3D.shape[2]
GROUND_LEVEL = 2
OTHER_FLAT, SIDEWALK, TERRAIN = (CLASS_ID[n] for n in ("other_flat", "sidewalk", "terrain"))
MANMADE, VEGETATION = CLASS_ID["manmade"], CLASS_ID["vegetation"]
CENTRES_M = ((np.arange(CELLS) + 0.5) * CELL_M).astype(np.float32)
Window = tuple[slice, slice]
"""A rectangle of cells."""


def smooth_noise(rng: np.random.Generator, scale_cells: float) -> Float32s:
    """(CELLS, CELLS) periodic Gaussian noise, unit variance, correlated over ``scale_cells``."""
    return finer(coarse_noise(rng, scale_cells))


def coarse_noise(rng: np.random.Generator, scale_cells: float) -> Float32s:
    """The same at every ``COARSE``-th cell: (CELLS / COARSE, CELLS / COARSE)."""
    n, scale = CELLS // COARSE, scale_cells / COARSE
    f = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None])
    spectrum = np.fft.rfft2(rng.standard_normal((n, n))) * np.exp(-((f * scale * 2) ** 2))
    field = np.fft.irfft2(spectrum, (n, n))
    noise: Float32s = (field / field.std()).astype(np.float32)
    return noise


def finer(field: Float32s) -> Float32s:
    """A periodic field (CELLS / COARSE, CELLS / COARSE) at all cells, by straight lines between its values."""
    for _ in range(2):  # rows, then, transposed, columns
        part = np.arange(COARSE, dtype=np.float32) / COARSE
        step = np.roll(field, -1, 0) - field
        field = (field[:, None] + step[:, None] * part[:, None]).reshape(len(field) * COARSE, -1).T
    return field


def window(x: float, y: float, half_x_m: float, half_y_m: float) -> tuple[Window, Float32s, Float32s]:
    """Cells within a rectangle of these half extents around a point in metres.

    Returns:
        Where they lie in the map, and the offsets (n, 1), (1, m) of their centres from the point in metres.
    """
    i, j = (
        slice(max(0, int((p - half) / CELL_M)), min(CELLS, int((p + half) / CELL_M) + 1))
        for p, half in ((x, half_x_m), (y, half_y_m))
    )
    return (i, j), (CENTRES_M[i] - np.float32(x))[:, None], (CENTRES_M[j] - np.float32(y))[None]


def rectangle(x: float, y: float, yaw: float, length: float, width: float) -> tuple[Window, Float32s]:
    """Cells around a rectangle, and their inward distance from its border in metres (negative outside)."""
    half = 0.5 * np.hypot(length, width) + 0.5
    cells, u, v = window(x, y, half, half)
    along, aside = into(u, v, np.cos(yaw), np.sin(yaw))
    return cells, np.minimum(length / 2 - np.abs(along), width / 2 - np.abs(aside))


class Painter:
    """Paints a town around its streets, step by step; later steps respect what earlier ones built.

    Attributes:
        columns, occluder: (X, Y, 16) and (X, Y), as in ``Town``. slots: of parking lots, each (n, 3) x, y, yaw.
        scattered: places where bushes and trees are tried.
    """

    scattered = 4200

    def __init__(self, network: Network, rng: np.random.Generator) -> None:
        self.network, self.rng = network, rng
        self.slots: list[Floats] = []
        self.road = np.full((CELLS, CELLS), FAR_M, np.float32)  # metres beyond the kerb, negative on the road
        self.walk = np.full((CELLS, CELLS), FAR_M, np.float32)  # metres beyond the sidewalk's outer edge
        self.ground = np.full((CELLS, CELLS), TERRAIN, np.uint8)
        self.built = np.zeros((CELLS, CELLS), bool)
        self.occluder = np.zeros((CELLS, CELLS), np.uint8)
        self.columns = np.full((CELLS, CELLS, LEVELS), FREE, np.uint8)
        for step in (self._streets, self._lots, self._surfaces, self._greenery, self._raise_ground):
            step()

    def _streets(self) -> None:
        """Distance fields to kerbs and sidewalks of all streets and junctions."""
        network, paths = self.network, self.network.paths
        for street in network.streets:
            width = street.sidewalk_m if self.rng.random() < 0.7 else 0.0
            self._band(street.line[::2], street.half_width_m, width)
        radii = widest_at_nodes(network.streets, len(network.nodes)) + 1.5 * (network.degree > 2)
        for place, radius in zip(network.nodes, radii, strict=True):
            self._band(place[None], radius, 2.0)
        for p in np.flatnonzero(paths.kind == CONNECTOR):
            self._band(paths.points[paths.start[p] : paths.start[p] + paths.count[p] : 2], 2.4, 2.0)

    def _band(self, points: Floats, half: float, sidewalk: float) -> None:
        """Lower the distance fields around a band of paving through points (n, 2)."""
        margin = half + sidewalk + FIELD_M
        (x0, y0), (x1, y1) = (points.min(0) - margin).tolist(), (points.max(0) + margin).tolist()
        cells, u, v = window((x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2)
        nearest = np.full((len(u), v.shape[1]), 1e4, np.float32)
        across = np.arange(-math.ceil(margin / CELL_M), math.ceil(margin / CELL_M) + 1)
        for x, y in (points - ((x0 + x1) / 2, (y0 + y1) / 2)).tolist():
            a, b = (np.searchsorted(w.ravel(), p) + across for w, p in ((u, x), (v, y)))
            a, b = a[(a >= 0) & (a < len(u))], b[(b >= 0) & (b < v.shape[1])]
            here = nearest[a[0] : a[-1] + 1, b[0] : b[-1] + 1]
            square = (u[a] - x) ** 2 + (v[:, b] - y) ** 2
            np.minimum(here, square, out=here)
        distance = np.sqrt(nearest) - np.float32(half)
        for field, beyond in ((self.road[cells], distance), (self.walk[cells], distance - np.float32(sidewalk))):
            np.minimum(field, beyond, out=field)

    def _lots(self) -> None:
        """Buildings, parking lots, walls and plazas along both sides of every street."""
        dense = self.rng.uniform(0.55, 0.95)
        for street in self.network.streets:
            setback = float(self.rng.choice([0.6, 2.0, 5.0, 9.0], p=[0.3, 0.3, 0.25, 0.15]))
            for side in (1, -1):
                self._lots_along(street, side, setback, dense)

    def _lots_along(self, street: Street, side: int, setback: float, dense: float) -> None:
        rng, s, yaw = self.rng, float(self.rng.uniform(0, 8)), headings(street.line)
        while s < len(street.line):
            front, depth = rng.uniform(10, 32), rng.uniform(9, 20)
            k = min(int(s + front / 2), len(street.line) - 1)
            away = street.half_width_m + street.sidewalk_m + setback + rng.uniform(0, 1.5) + depth / 2
            x, y = beside(street.line[k, 0], street.line[k, 1], yaw[k], side * away)
            kind = rng.random()
            is_building, is_lot = kind < dense, dense <= kind < dense + 0.12
            width = max(front, 18.0) if is_lot else front
            cells, inward = rectangle(x, y, yaw[k], width, depth)
            inside, built, margin = inward > 0, self.built[cells], 0.4 if is_building else 0.0
            if not inside.any() or (self.walk[cells][inside] <= margin).any() or built[inside].any():
                s += 4.0  # taken, or too close to a sidewalk
                continue
            built |= inside
            if is_building:
                self._building(cells, inward)
            elif is_lot:
                self._parking_lot(x, y, yaw[k], width, depth, side)
            else:
                self._garden(cells, inward)
            s += front + rng.uniform(1.0, 9.0)

    def _building(self, cells: Window, inward: Float32s) -> None:
        columns, inside = self.columns[cells], inward > 0
        top = int(np.clip(self.rng.normal(17, 5), 7, LEVELS))
        columns[inside & (inward <= 1.05), GROUND_LEVEL:top] = MANMADE
        if top < LEVELS:
            columns[inside, top - 1] = MANMADE
        if self.rng.random() < 0.35:  # an awning or balcony along the whole front
            level = int(self.rng.integers(8, 11))
            columns[(inward > -1.2) & (inward <= 0) & (self.walk[cells] > 0), level] = MANMADE
        self.occluder[cells][inside] = top
        self.ground[cells][inside] = FREE

    def _parking_lot(self, x: float, y: float, yaw: float, width: float, depth: float, side: int) -> None:
        """A paved lot with rows of slots and a way to the street."""
        cells, inward = rectangle(x, y, yaw, width, depth)
        self.ground[cells][inward > 0] = DRIVEABLE
        cells, inward = rectangle(*beside(x, y, yaw, -side * depth / 2), yaw, 6.0, 14.0)
        self.ground[cells][(inward > 0) & ~self.built[cells]] = DRIVEABLE
        rows = (-depth / 2 + 2.8, depth / 2 - 2.8)[: 1 + (depth > 14)]
        u, v = (a.ravel() for a in np.meshgrid(np.arange(-width / 2 + 2, width / 2 - 1.5, 2.8), rows, indexing="ij"))
        c, s, facing = np.cos(yaw), np.sin(yaw), np.where(self.rng.random(len(u)) < 0.5, 1, -1)
        self.slots.append(np.column_stack([x + u * c - v * s, y + u * s + v * c, wrap(yaw + np.pi / 2 * facing)]))

    def _garden(self, cells: Window, inward: Float32s) -> None:
        """Fence, wall or hedge around a patch of terrain or paving."""
        style = self.rng.random()
        if style < 0.15:
            self.ground[cells][inward > 0] = OTHER_FLAT
        elif style < 0.9:
            what, top, thick = (MANMADE, 6, 0.45) if style < 0.55 else (VEGETATION, int(self.rng.integers(5, 8)), 1.0)
            rim = (inward > 0) & (inward <= thick)
            self.columns[cells][rim, GROUND_LEVEL + 1 : top] = what
            self.occluder[cells][rim] = top

    def _surfaces(self) -> None:
        """Ground classes: roads over sidewalks over what lies beyond."""
        patch = smooth_noise(self.rng, 40)
        open_ground = ~self.built & (self.walk >= 0)
        self.ground[open_ground & (patch > 1.5)] = OTHER_FLAT
        self.ground[open_ground & (patch < -1.4)] = SIDEWALK
        self.ground[(self.walk < 0) & (self.ground != DRIVEABLE)] = SIDEWALK
        self.ground[self.road < 0] = DRIVEABLE

    def _greenery(self) -> None:
        """Street trees, poles, garden trees and bushes."""
        rng = self.rng
        for street in self.network.streets:
            spacing = rng.uniform(7, 14) if rng.random() < 0.6 else rng.uniform(14, 30)
            for side in (1, -1):
                line = offset(street.line, side * (street.half_width_m + max(street.sidewalk_m, 1.0) + 0.5))
                trees = line[:: max(4, round(spacing))]
                for x, y in trees + rng.uniform(-1, 1, trees.shape):
                    self._tree(x, y)
                poles = offset(street.line, side * (street.half_width_m + 0.5))
                for x, y in poles[int(rng.integers(5, 25)) :: 28]:
                    self._stamp(x, y, 0.25, MANMADE, GROUND_LEVEL, LEVELS, 0)
        places = rng.uniform(20, TOWN_SIZE_M - 20, (self.scattered, 2))
        i, j = (places / CELL_M).astype(np.int64).T
        open_ground = (self.road[i, j] > 0.3) & np.isin(self.ground[i, j], (SIDEWALK, TERRAIN, OTHER_FLAT))
        for x, y in places[open_ground].tolist():
            if rng.random() < 0.2:
                self._tree(x, y)
            else:
                self._stamp(x, y, rng.uniform(0.6, 1.8), VEGETATION, GROUND_LEVEL + 1, int(rng.integers(4, 8)), 3)

    def _allowed(self, x: float, y: float) -> bool:
        """Whether something may stand at a place: it lies in the town, beside its roads and buildings."""
        i, j = int(x / CELL_M), int(y / CELL_M)
        inside = 0 <= i < CELLS and 0 <= j < CELLS
        return inside and bool(self.road[i, j] > 0.3) and self.ground[i, j] in (SIDEWALK, TERRAIN, OTHER_FLAT)

    def _stamp(self, x: float, y: float, radius: float, what: int, low: int, high: int, opaque: int) -> None:
        """A round column of one class, where it is allowed; its lowest ``opaque`` levels stop LiDAR rays."""
        if self._allowed(x, y):
            cells, u, v = window(x, y, radius + 0.5, radius + 0.5)
            inside = (u * u + v * v <= max(radius, 0.29) ** 2) & (self.road[cells] > 0)
            self.columns[cells][inside, low:high] = what
            np.maximum(self.occluder[cells], opaque, out=self.occluder[cells], where=inside)

    def _tree(self, x: float, y: float) -> None:
        if not self._allowed(x, y):
            return
        radius, centre, tall = (self.rng.uniform(*limits) for limits in ((1.0, 2.6), (2.6, 4.6), (1.2, 2.4)))
        cells, u, v = window(x, y, radius + 0.5, radius + 0.5)
        z = (np.arange(LEVELS) + 0.5) * CELL_M + OCC3D.lower_m[2]
        r2 = ((u * u + v * v) / radius**2)[..., None] + ((z - centre) / tall) ** 2
        crown = (r2 <= 1) & (self.columns[cells] == FREE) & (self.ground[cells] != FREE)[..., None]
        self.columns[cells][crown] = VEGETATION
        self._stamp(x, y, 0.3, VEGETATION, GROUND_LEVEL, max(int((centre + 1) / CELL_M), 4), 0)

    def _raise_ground(self) -> None:
        """Write the ground voxel of each column; terrain undulates by one level."""
        hills = smooth_noise(self.rng, 16)
        hills += np.minimum(self.walk, 8) * np.float32(0.12)
        soft = ((self.ground == TERRAIN) | (self.ground == OTHER_FLAT)) & (self.walk > 0.8)
        high, low = soft & (hills > RISE), soft & (hills < DIP)
        for level, here in ((1, high), (-1, low), (0, ~(high | low))):
            plane = self.columns[..., GROUND_LEVEL + level]
            np.copyto(plane, self.ground, where=here & (plane == FREE))
