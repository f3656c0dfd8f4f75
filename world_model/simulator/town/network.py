"""The road network of a town: streets with curves, and all paths along and across them. Right-hand traffic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from world_model.simulator.state import Bools, Floats, Ints
from world_model.simulator.town.junctions import derive_paths
from world_model.simulator.town.paths import CONNECTOR, Paths, hash_unit
from world_model.simulator.town.streets import Street, draw_edges, draw_street

NODES_A_SIDE, BORDER_M = 4, 64.0
"""Junctions along each edge of the square town, and their distance from its border: a frame never leaves it."""
CYCLE_S, GREEN_S, CLEARANCE_S = 25.0, 10.5, 2.0
"""Period of traffic lights, green time of each of the two signal groups, and the pause after it."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """Streets and paths of one town with N junctions."""

    nodes: Floats  # (N, 2) places of the junctions, metres
    streets: tuple[Street, ...]  # between two nodes each
    paths: Paths  # all that is travelled on
    degree: Ints  # (N,) streets at a junction
    signalled: Bools  # (N,) whether it has traffic lights
    phase_s: Floats  # (N,) start of a junction's signal cycle

    def red(self, connector: Ints, time_s: float) -> Bools:
        """Whether a junction's signal stops traffic into ``connector`` (any paths; only connectors are ever red)."""
        node = self.paths.node[connector]
        t = (time_s + self.phase_s[node]) % CYCLE_S
        start = self.paths.group[connector] * (GREEN_S + CLEARANCE_S)
        green = (t >= start) & (t < start + GREEN_S)
        red: Bools = (self.paths.kind[connector] == CONNECTOR) & self.signalled[node] & ~green
        return red


def build_network(rng: np.random.Generator, size_m: float) -> Network:
    """Draw a town's streets and derive all paths.

    Args:
        rng: the town's own generator. size_m: edge of the square town in metres.
    """
    axis = np.linspace(BORDER_M, size_m - BORDER_M, NODES_A_SIDE)
    nodes = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    inner = ((nodes > axis[0]) & (nodes < axis[-1])).astype(float)
    shift, inward = rng.uniform(-24, 24, nodes.shape), rng.uniform(0, 12, nodes.shape)
    nodes = nodes + shift * inner + inward * np.sign(size_m / 2 - nodes) * (1 - inner)
    edges = draw_edges(NODES_A_SIDE, rng, 0.2)
    wide = rng.uniform(0.4, 0.95)
    streets = tuple(draw_street(nodes, e, rng, wide) for e in edges)
    degree = np.bincount(np.array(edges).ravel(), minlength=len(nodes))
    signalled = (degree > 2) & (rng.random(len(nodes)) < 0.55)
    phase = CYCLE_S * hash_unit(np.arange(len(nodes)), 77)
    paths = derive_paths(nodes, streets)
    return Network(nodes=nodes, streets=streets, paths=paths, degree=degree, signalled=signalled, phase_s=phase)
