"""What a town's population is made of: sizes, shares, speeds, and how full a scene is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from world_model.core.grid import CLASS_ID, NUM_CLASSES

POPULATION = {
    # length, width, height; shares of moving and of parked vehicles; mean and deviation of the speed
    "car": (4.62, 1.92, 1.69, 0.79, 0.85, 9.4, 2.4),
    "truck": (6.5, 2.35, 2.62, 0.06, 0.08, 6.8, 1.8),
    "bus": (11.15, 2.94, 3.74, 0.05, 0.025, 7.2, 1.4),
    "trailer": (10.1, 2.28, 3.71, 0, 0.02, 0, 0),
    "motorcycle": (1.95, 0.68, 1.47, 0.07, 0, 6.4, 2.2),
    "bicycle": (1.82, 0.64, 1.39, 0.06, 0, 3.7, 0.7),
    "construction_vehicle": (5.57, 2.58, 2.38, 0.005, 0.02, 3.5, 0.5),
    "pedestrian": (0.73, 0.68, 1.76, 0, 0, 0, 0),
    "traffic_cone": (0.45, 0.47, 0.78, 0, 0, 0, 0),
    "barrier": (0.61, 2.32, 1.06, 0, 0, 0, 0),
}
"""Mean size of real boxes in metres, what drives and what parks, and desired speeds in m/s, by class."""
LABELS = np.array([CLASS_ID[name] for name in POPULATION])
_TABLE = np.zeros((NUM_CLASSES, 7))
_TABLE[LABELS] = list(POPULATION.values())
SIZES_M, MOVING_SHARE, PARKED_SHARE, SPEEDS_MPS = _TABLE[:, :3], _TABLE[:, 3], _TABLE[:, 4], _TABLE[:, 5:]
"""Columns of `POPULATION` by class id."""
TOW_SHARE = 0.12
"""Share of moving trucks with a trailer, where the lane leaves room for it."""
TOW_M = 9.2
"""From the middle of a truck to the middle of its trailer."""


@dataclass(frozen=True, kw_only=True)
class Density:
    """How full a scene is: multipliers, 1 on average, and the share of possible roadworks that exist."""

    traffic: float  # moving vehicles
    parked: float
    people: float
    cycles: float  # parked two-wheelers
    works: float


def draw_density(rng: np.random.Generator, traffic: float, people: float) -> Density:
    """Heavy-tailed, as real scenes: most are sparse, a few are crowded; ``traffic`` and ``people`` are multipliers."""
    common, deviations = rng.normal(), {"traffic": 0.35, "parked": 0.4, "people": 0.8, "cycles": 0.9}
    factor = {k: float(np.exp(0.6 * common + s * rng.normal() - (0.6**2 + s**2) / 2)) for k, s in deviations.items()}
    works = float(rng.choice([0.0, 0.1, 0.6], p=[0.55, 0.2, 0.25]))
    factor.update(traffic=factor["traffic"] * traffic, people=factor["people"] * people)
    return Density(**factor, works=works)
