"""Procedural towns with traffic: the maker of synthetic data and the ground-truth dynamics of the environment."""

from world_model.simulator.sensing.labels import Labels
from world_model.simulator.simulator import BOX_DTYPE, Simulator, SimulatorConfig
from world_model.simulator.state import SimState

__all__ = ["BOX_DTYPE", "Labels", "SimState", "Simulator", "SimulatorConfig"]
