"""The geometry-first forecaster: move what was seen, learn the rest."""

from world_model.models.geometric.config import PRESETS, GeometricConfig, base, nano, tiny, trial
from world_model.models.geometric.evidence import Evidence, Observation
from world_model.models.geometric.forecaster import GeometricForecaster

__all__ = [
    "PRESETS",
    "Evidence",
    "GeometricConfig",
    "GeometricForecaster",
    "Observation",
    "base",
    "nano",
    "tiny",
    "trial",
]
