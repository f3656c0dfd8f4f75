"""A procedural town, rasterised once into a global voxel map, so that a frame is one gather."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import DataError
from world_model.data.scenarios.scenario import Scenario
from world_model.simulator.polylines import headings, offset, wrap
from world_model.simulator.state import Floats, SimState
from world_model.simulator.town.network import Network, build_network
from world_model.simulator.town.painting import TOWN_SIZE_M, Painter
from world_model.simulator.town.streets import Street
from world_model.simulator.town.terrain import Terrain, terrain_of


@dataclass(frozen=True, kw_only=True)
class Town:
    """One town: a map of X x Y columns with ground at level 2, which the terrain lifts.

    Cell (i, j) covers [0.4 i, 0.4 (i+1)) m, global axes.

    Parked cars, cones and barriers are agents, not part of it, because every scene has its own.
    """

    network: Network  # streets and paths
    columns: NDArray[np.uint8]  # (X, Y, 16) class of every static voxel
    occluder: NDArray[np.uint8]  # (X, Y) levels up to which the column is opaque for a LiDAR (0 = ground only)
    slots: Floats  # (n, 3) places for parked vehicles: x, y, yaw
    works: Floats  # (m, 4) possible roadworks on kerbs: x, y, yaw of the street, length in m
    terrain: Terrain | None = None  # heights of the ground, by which columns are lifted; None where it is flat
    log: Scenario | None = None  # what was recorded here, where traffic is replayed


RECORDED = -1
"""Town of a recorded scenario; instead of the data set's seed there is a key that names the scenario."""
_recorded: dict[int, Callable[[str], Town]] = {}
_alive: WeakValueDictionary[tuple[int, int, str], Town] = WeakValueDictionary()


def add_recorded_town(key: int, build: Callable[[str], Town]) -> None:
    """Say how the town of a recorded scenario is built on a terrain; equal keys mean equal scenarios."""
    _recorded[key] = build


def build_town(seed: int, town_id: int, terrain: str = "flat") -> Town:
    """The town ``town_id`` of a data set's ``seed``: built, or shared with whatever still refers to it.

    Args:
        terrain: "flat", or "hills": the same town on a ground with height.

    Raises:
        DataError: it is that of a recorded scenario that was not read in this process.
    """
    town = _alive.get((seed, town_id, terrain))
    if town is None:
        town = _alive[seed, town_id, terrain] = _build_town(seed, town_id, terrain)
    return town


def town_of(state: SimState) -> Town:
    """The town of a scene."""
    return build_town(state.seed, state.town_id, state.terrain)


@lru_cache(maxsize=3)
def _build_town(seed: int, town_id: int, terrain: str) -> Town:
    if town_id == RECORDED:
        if seed not in _recorded:
            found = "a state on a recorded scenario that was not read yet"
            raise DataError(found, "its data set", "reset once in this data set, then restore the state")
        return _recorded[seed](terrain)
    rng = np.random.default_rng([seed, town_id, 101])
    network = build_network(rng, TOWN_SIZE_M)
    painter = Painter(network, rng)
    painter.columns.setflags(write=False)
    slots = np.concatenate([np.zeros((0, 3)), *_kerb_slots(network), *painter.slots])
    works = _works(network, rng)
    return Town(
        network=network, columns=painter.columns, occluder=painter.occluder, slots=slots, works=works,
        terrain=terrain_of(terrain, network, painter, [seed, town_id]),
    )  # fmt: skip


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
