"""A procedural town, rasterised once into a global voxel map, so that a frame is one gather.

The map is a square of 0.4 m columns with the 16 height levels of the Occ3D grid. Ground lies at level 2. Parked cars,
cones and barriers are not part of it: they are agents, because every scene has its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from world_model.simulator.polylines import headings, offset, wrap
from world_model.simulator.town.network import Network, build_network
from world_model.simulator.town.painting import CELL_M, GROUND_LEVEL, LEVELS, TOWN_SIZE_M, Painter

Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Town:
    """One town.

    Args:
        network: streets and paths.
        columns: (X, Y, 16) uint8 class of every static voxel, global axes, cell (i, j) covers [0.4 i, 0.4 (i+1)) m.
        occluder: (X, Y) uint8, height in levels up to which the column is opaque for a LiDAR (0 = ground only).
        slots: (n, 3) places for parked vehicles: x, y, yaw.
        works: (m, 4) possible roadworks on kerbs: x, y, yaw of the street, length in m.
    """

    network: Network
    columns: NDArray[np.uint8]
    occluder: NDArray[np.uint8]
    slots: Floats
    works: Floats


_alive: WeakValueDictionary[tuple[int, int], Town] = WeakValueDictionary()


def build_town(seed: int, town_id: int) -> Town:
    """The town ``town_id`` of a data set's ``seed``: built, or taken from those that somebody still holds."""
    town = _alive.get((seed, town_id))
    if town is None:
        town = _alive[seed, town_id] = _build_town(seed, town_id)
    return town


@lru_cache(maxsize=3)
def _build_town(seed: int, town_id: int) -> Town:
    rng = np.random.default_rng([seed, town_id, 101])
    network = build_network(rng, TOWN_SIZE_M)
    painter = Painter(rng=rng)
    painter.streets(network)
    painter.lots(network)
    painter.surfaces()
    painter.greenery(network)
    painter.raise_ground()
    slots = np.concatenate([_kerb_slots(network), np.array(painter.slots).reshape(-1, 3)])
    painter.columns.setflags(write=False)
    return Town(
        network=network, columns=painter.columns, occluder=painter.occluder, slots=slots, works=_works(network, rng)
    )


def _kerb_slots(network: Network) -> Floats:
    slots = []
    for street in network.streets:
        if street.parking:
            for side in (1, -1):
                line = offset(street.line, side * (street.half_width_m - 1.2))
                h = headings(street.line) + (0 if side == 1 else np.pi)
                middle = slice(22, max(23, len(line) - 22), 6)
                slots.append(np.column_stack([line[middle], wrap(h[middle])]))
    return np.concatenate(slots) if slots else np.zeros((0, 3))


def _works(network: Network, rng: np.random.Generator) -> Floats:
    works = []
    for street in network.streets:
        for side in (1, -1):
            line = offset(street.line, side * (street.half_width_m - (1.0 if street.parking else -0.4)))
            h = headings(street.line)
            for k in range(28, len(line) - 40, 45):
                works.append((*line[k], h[k] + (0 if side == 1 else np.pi), rng.uniform(12, 40)))
    return np.array(works).reshape(-1, 4)


__all__ = ["CELL_M", "GROUND_LEVEL", "LEVELS", "TOWN_SIZE_M", "Town", "build_town"]
