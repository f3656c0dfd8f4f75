"""A procedural town, rasterised once into a global voxel map, so that a frame is one gather."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from world_model.simulator.polylines import headings, offset, wrap
from world_model.simulator.state import Floats
from world_model.simulator.town.network import Network, build_network
from world_model.simulator.town.painting import TOWN_SIZE_M, Painter
from world_model.simulator.town.streets import Street


@dataclass(frozen=True, kw_only=True)
class Town:
    """One town: a map of X x Y columns with ground at level 2; cell (i, j) covers [0.4 i, 0.4 (i+1)) m, global axes.

    Parked cars, cones and barriers are agents, not part of it, because every scene has its own.
    """

    network: Network  # streets and paths
    columns: NDArray[np.uint8]  # (X, Y, 16) class of every static voxel
    occluder: NDArray[np.uint8]  # (X, Y) levels up to which the column is opaque for a LiDAR (0 = ground only)
    slots: Floats  # (n, 3) places for parked vehicles: x, y, yaw
    works: Floats  # (m, 4) possible roadworks on kerbs: x, y, yaw of the street, length in m


_alive: WeakValueDictionary[tuple[int, int], Town] = WeakValueDictionary()


def build_town(seed: int, town_id: int) -> Town:
    """The town ``town_id`` of a data set's ``seed``: built, or shared with whatever still refers to it."""
    town = _alive.get((seed, town_id))
    if town is None:
        town = _alive[seed, town_id] = _build_town(seed, town_id)
    return town


@lru_cache(maxsize=3)
def _build_town(seed: int, town_id: int) -> Town:
    rng = np.random.default_rng([seed, town_id, 101])
    network = build_network(rng, TOWN_SIZE_M)
    painter = Painter(network, rng)
    painter.columns.setflags(write=False)
    slots = np.concatenate([np.zeros((0, 3)), *_kerb_slots(network), *painter.slots])
    works = _works(network, rng)
    return Town(network=network, columns=painter.columns, occluder=painter.occluder, slots=slots, works=works)


def _kerbs(network: Network, parking_m: float, other_m: float) -> Iterator[tuple[Street, Floats, Floats]]:
    """Both sides of every street: a line some metres inside of the kerb, and the driving direction along it."""
    for street in network.streets:
        for side in (1, -1):
            line = offset(street.line, side * (street.half_width_m - (parking_m if street.parking else other_m)))
            yield street, line, headings(street.line) + (0 if side == 1 else np.pi)


def _kerb_slots(network: Network) -> Iterator[Floats]:
    """(n, 3) x, y, yaw of the places along each kerb with a parking strip."""
    for street, line, heading in _kerbs(network, 1.2, 1.2):
        if street.parking:
            part = slice(22, max(23, len(line) - 22), 6)
            yield np.column_stack([line[part], wrap(heading[part])])


def _works(network: Network, rng: np.random.Generator) -> Floats:
    works = [
        (*line[k], h[k], rng.uniform(12, 40))
        for _, line, h in _kerbs(network, 1.0, -0.4)
        for k in range(28, len(line) - 40, 45)
    ]
    return np.array(works).reshape(-1, 4)
