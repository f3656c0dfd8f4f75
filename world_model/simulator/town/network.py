"""The road network of a town: streets with curves, and all paths along and across them. Right-hand traffic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from world_model.simulator.choices import Ints, hash_unit
from world_model.simulator.town.junctions import derive_paths
from world_model.simulator.town.paths import CONNECTOR, CROSSING, LANE, SIDEWALK, Floats, Paths
from world_model.simulator.town.streets import LANE_WIDTH_M, Street, draw_edges, draw_street

CYCLE_S = 25.0
"""Period of traffic lights."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """Streets and paths of one town.

    Args:
        nodes: (N, 2) places of the junctions, metres.
        streets: between two nodes each. paths: all that is travelled on.
        degree: (N,) streets at a junction. signalled: (N,) whether it has traffic lights.
        phase_s: (N,) start of a junction's signal cycle.
    """

    nodes: Floats
    streets: tuple[Street, ...]
    paths: Paths
    degree: NDArray[np.int64]
    signalled: NDArray[np.bool_]
    phase_s: Floats


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
    edges = draw_edges(n, rng, 0.2)
    wide = rng.uniform(0.4, 0.95)
    streets = tuple(draw_street(nodes, e, rng, wide) for e in edges)
    degree = np.bincount(np.array(edges).ravel(), minlength=len(nodes))
    signalled = (degree > 2) & (rng.random(len(nodes)) < 0.55)
    phase = CYCLE_S * hash_unit(np.arange(len(nodes)), 77)
    return Network(
        nodes=nodes, streets=streets, paths=derive_paths(nodes, streets), degree=degree, signalled=signalled,
        phase_s=phase,
    )  # fmt: skip


def successor(network: Network, path: Ints, key: NDArray[np.uint64], hops: Ints) -> Ints:
    """The path that each traveller takes after ``path``: its own fixed choice."""
    draw = hash_unit(key, hops)
    pick = np.minimum((network.paths.choice[path] <= draw[:, None]).sum(1), network.paths.successors.shape[1] - 1)
    return network.paths.successors[path, pick]


__all__ = [
    "CONNECTOR", "CROSSING", "CYCLE_S", "LANE", "LANE_WIDTH_M", "SIDEWALK", "Network", "Paths", "Street",
    "build_network", "successor",
]  # fmt: skip
