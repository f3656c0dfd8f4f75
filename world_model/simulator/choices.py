"""Choices without generator state: every draw is a hash of who chooses and how often they have chosen before."""

from __future__ import annotations

import numpy as np

from world_model.simulator.state import Floats, Ints, Keys


def hash_unit(*parts: Keys | Ints | int) -> Floats:
    """Uniform numbers in [0, 1) from integers (splitmix64), so that choices need no generator state."""
    mixed = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            mixed = (mixed ^ np.asarray(part).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
