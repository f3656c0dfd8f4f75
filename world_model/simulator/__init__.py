"""Procedural towns with traffic: the maker of synthetic data and the ground-truth dynamics of the environment."""

from world_model.simulator.simulator import Simulator, SimulatorConfig
from world_model.simulator.state import SimState

__all__ = ["SimState", "Simulator", "SimulatorConfig"]
