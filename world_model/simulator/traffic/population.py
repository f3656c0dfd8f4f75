"""What a town's population is made of: sizes, shares, speeds, and how full a scene is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from world_model.core.grid import CLASS_ID, NUM_CLASSES
from world_model.simulator.state import Floats


def _by_label(rows: dict[str, tuple[float, ...]]) -> Floats:
    """(NUM_CLASSES, n) one row a class, zeros where there is none."""
    table = np.zeros((NUM_CLASSES, len(rows["car"])))
    table[[CLASS_ID[name] for name in rows]] = list(rows.values())
    return table


SIZES_M = _by_label(
    {
        "car": (4.62, 1.92, 1.69),
        "truck": (6.5, 2.35, 2.62),
        "bus": (11.15, 2.94, 3.74),
        "trailer": (10.1, 2.28, 3.71),
        "construction_vehicle": (5.57, 2.58, 2.38),
        "motorcycle": (1.95, 0.68, 1.47),
        "bicycle": (1.82, 0.64, 1.39),
        "pedestrian": (0.73, 0.68, 1.76),
        "traffic_cone": (0.45, 0.47, 0.78),
        "barrier": (0.61, 2.32, 1.06),
    }
)
"""Mean length, width, height of real boxes by class."""
MOVING_MIX = {
    "car": 0.79,
    "truck": 0.06,
    "bus": 0.05,
    "motorcycle": 0.07,
    "bicycle": 0.06,
    "construction_vehicle": 0.005,
}
KERB_MIX = {"car": 0.85, "truck": 0.08, "bus": 0.025, "trailer": 0.02, "construction_vehicle": 0.02}
SPEEDS_MPS = _by_label(
    {
        "car": (9.4, 2.4),
        "truck": (6.8, 1.8),
        "bus": (7.2, 1.4),
        "motorcycle": (6.4, 2.2),
        "bicycle": (3.7, 0.7),
        "construction_vehicle": (3.5, 0.5),
    }
)
"""Mean and standard deviation of the desired speed by class."""
TOW_SHARE = 0.12
"""Share of moving trucks with a trailer, where the lane leaves room for it."""
TOW_M = 9.2
"""From the middle of a truck to the middle of its trailer."""


@dataclass(frozen=True, kw_only=True)
class Density:
    """How full a scene is, each a factor of 1 on average.

    Args:
        traffic, parked, people, cycles: multipliers of moving vehicles, parked vehicles, pedestrians and
            parked two-wheelers.
        works: share of possible roadworks that exist.
    """

    traffic: float
    parked: float
    people: float
    cycles: float
    works: float

    def scaled(self, traffic: float, people: float) -> Density:
        """The same with other numbers of moving vehicles and pedestrians."""
        return replace(self, traffic=self.traffic * traffic, people=self.people * people)


def draw_density(rng: np.random.Generator) -> Density:
    """Heavy-tailed, as real scenes: most are sparse, a few are crowded."""
    common = rng.normal()
    factor = [float(np.exp(0.6 * common + s * rng.normal() - (0.6**2 + s**2) / 2)) for s in (0.35, 0.4, 0.8, 0.9)]
    works = float(rng.choice([0.0, 0.1, 0.6], p=[0.55, 0.2, 0.25]))
    return Density(traffic=factor[0], parked=factor[1], people=factor[2], cycles=factor[3], works=works)
