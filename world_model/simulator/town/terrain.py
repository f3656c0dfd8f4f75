"""The height of a town's ground: hills that its roads follow, kerbs with ramps, embankments and cuttings.

Roads are levelled across and follow the hills along; beyond the sidewalks the ground runs back to the natural hills.
Streets, buildings and traffic are those of the flat town: everything stands on the ground under it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from world_model.core.errors import ConfigError
from world_model.core.grid import DRIVEABLE, EGO_WHEELBASE_M, OCC3D
from world_model.simulator.polylines import beside
from world_model.simulator.state import Ego, Float32s, Floats
from world_model.simulator.town.network import Network
from world_model.simulator.town.painting import CELL_M, COARSE, Painter, coarse_noise, finer, window
from world_model.simulator.town.paths import CONNECTOR, CROSSING

KINDS = ("flat", "hills")
STEEPEST_DEG, GENTLEST_DEG = 6.0, 1.0
"""The steepest road of a town, along it, lies between these; across, no road is more than half as steep."""
HILL_CELLS, CREST_CELLS, CREST_SHARE = 320, 80, 0.12
"""Extent of hills and of crests and dips (see ``smooth_noise``), and the height of crests, as a share of the hills'."""
BANK_CELLS, BANK_SHARE, BANK_M = 60, 0.7, 9.0
"""Extent of the unevenness beside roads, its height at most, and the width of embankments."""
LEVEL_M = 7.0
"""Roads follow the mean of the hills along their lanes, over a Gaussian as wide as this ..."""
LEVELLED = np.float32(0.7)
"""... by this share; the rest of the slope across stays."""
KERB_M, RAMP_M, DROPPED_M = (0.15, 0.4), 3.0, (0.8, 2.4)
"""Height of kerbs; length of ramps into parking lots; a kerb is dropped within the first and whole from the second."""
TRACK_M = 1.6
"""Between the left and the right wheels of the ego."""


@dataclass(frozen=True, kw_only=True)
class Terrain:
    """The ground of a town.

    Attributes:
        height_m: (X, Y) of the ground at the centre of each cell, metres over any level.

    Raises:
        ConfigError: heights that are not finite, or cliffs higher than the grid.
    """

    height_m: Float32s

    def __post_init__(self) -> None:
        h = self.height_m
        span = OCC3D.upper_m[2] - OCC3D.lower_m[2]
        if h.ndim != 2 or not np.isfinite(h).all() or max(np.abs(np.diff(h, axis=a)).max() for a in (0, 1)) > span:
            raise ConfigError(
                f"ground heights of shape {h.shape} that are not finite, or that jump by more than {span:.1f} m",
                f"finite heights (X, Y) in metres whose steps fit into the grid, z {OCC3D.lower_m[2]} to "
                f"{OCC3D.upper_m[2]:.1f} m around the ego",
                "correct the heights",
            )

    def at(self, x: Floats, y: Floats) -> Floats:
        """Heights in metres at places in metres, any equal shapes; between the cells' centres by straight lines."""
        n = self.height_m.shape
        u, v = (np.clip(np.asarray(p) / CELL_M - 0.5, 0, n[k] - 1.001) for k, p in enumerate((x, y)))
        i, j = u.astype(np.int64), v.astype(np.int64)
        u, v = u - i, v - j
        h = self.height_m
        right, left = (h[i, k] * (1 - u) + h[i + 1, k] * u for k in (j, j + 1))
        found: Floats = right * (1 - v) + left * v
        return found

    def under(self, ego: Ego) -> tuple[float, float, float]:
        """The plane through the wheels: height of the rear axle in metres, slopes along and to the left of the ego."""
        c, s = math.cos(ego.yaw), math.sin(ego.yaw)
        ahead = np.array((0.0, 0.0, EGO_WHEELBASE_M, EGO_WHEELBASE_M))
        left = np.array((1.0, -1.0, 1.0, -1.0)) * TRACK_M / 2
        h = self.at(ego.x + c * ahead - s * left, ego.y + s * ahead + c * left)
        rear, front = h[:2].mean(), h[2:].mean()
        return float(rear), float((front - rear) / EGO_WHEELBASE_M), float((h[0] + h[2] - h[1] - h[3]) / (2 * TRACK_M))


def terrain_of(kind: str, network: Network, painter: Painter, seed: list[int]) -> Terrain | None:
    """The ground of a painted town, one of ``KINDS``; it follows from the seed. None is flat.

    Raises:
        ConfigError: there is no such kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"terrain={kind!r}", f"one of {KINDS}", "choose one of them")
    return None if kind == "flat" else _hills(network, painter, np.random.default_rng([*seed, 505]))


def _hills(network: Network, painter: Painter, rng: np.random.Generator) -> Terrain:
    hills = coarse_noise(rng, HILL_CELLS) + CREST_SHARE * coarse_noise(rng, CREST_CELLS)
    natural = hills + rng.uniform(0, BANK_SHARE) * coarse_noise(rng, BANK_CELLS)
    roads = hills + LEVELLED * (_levelled(hills, network) - hills)
    away = np.clip(painter.walk / BANK_M, 0, 1)
    away = away * away * (3 - 2 * away)
    height = finer(roads) * (1 - away) + finer(natural) * away
    along, across = road_slopes(Terrain(height_m=height), network)
    steepest = math.tan(math.radians(rng.uniform(GENTLEST_DEG, STEEPEST_DEG)))
    height *= np.float32(min(steepest / along.max(), steepest / 2 / across.max()))
    return Terrain(height_m=height + np.float32(rng.uniform(*KERB_M)) * _kerb(network, painter))


def road_slopes(terrain: Terrain, network: Network) -> tuple[Floats, Floats]:
    """Absolute slopes along and across all lanes: at each of their points, without the last of every path."""
    paths = network.paths
    own = np.repeat(np.arange(len(paths.kind)), paths.count)
    x, y = paths.points.T
    inner = np.flatnonzero((paths.kind[own[:-1]] <= CONNECTOR) & (own[:-1] == own[1:]))
    height = terrain.at(x, y)
    right, left = (terrain.at(*beside(x[inner], y[inner], paths.heading[inner], side)) for side in (1.0, -1.0))
    return np.abs(height[inner + 1] - height[inner]) / paths.spacing_m[own[inner]], np.abs(right - left) / 2


def _levelled(hills: Float32s, network: Network) -> Float32s:
    """Hills (n, n) that roads cut into: the mean along the lanes nearby, the hills where there are none."""
    n, cell_m = len(hills), CELL_M * COARSE
    paths = network.paths
    on_road = np.repeat(paths.kind, paths.count) <= CONNECTOR
    i, j = np.clip(paths.points[on_road] / cell_m, 0, n - 1).astype(np.int64).T
    lines = np.zeros((2, n, n))
    np.add.at(lines, (0, i, j), hills[i, j])
    np.add.at(lines, (1, i, j), 1.0)
    f2 = np.fft.fftfreq(n)[:, None] ** 2 + np.fft.rfftfreq(n)[None] ** 2
    wide = np.fft.irfft2(np.fft.rfft2(lines) * np.exp(-2 * (np.pi * LEVEL_M / cell_m) ** 2 * f2), (n, n))
    little = 1e-4 * wide[1].max()
    levelled: Float32s = ((wide[0] + little * hills) / (wide[1].clip(0) + little)).astype(np.float32)
    return levelled


def _kerb(network: Network, painter: Painter) -> Float32s:
    """(X, Y) share of the kerb's height by which the ground is raised: 0 on roads, 1 beside them, ramps between."""
    road, paths = painter.road, network.paths
    raised = (road >= 0).astype(np.float32)
    lots = (painter.ground == DRIVEABLE) & (road >= 0)
    raised[lots] = np.minimum(road[lots] / np.float32(RAMP_M), 1)
    near, far = DROPPED_M
    for p in np.flatnonzero(paths.kind == CROSSING):
        for x, y in paths.points[paths.start[p] : paths.start[p] + paths.count[p]].tolist():
            cells, u, v = window(x, y, far, far)
            np.minimum(raised[cells], ((np.sqrt(u * u + v * v) - near) / (far - near)).clip(0, 1), out=raised[cells])
    return raised
