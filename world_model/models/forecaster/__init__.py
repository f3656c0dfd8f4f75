"""Tokens -> next tokens."""

from world_model.models.forecaster.config import PRESETS, ForecasterConfig, base, for_tokenizer, nano, tiny
from world_model.models.forecaster.forecaster import Forecast, Forecaster, ForecastState

__all__ = [
    "PRESETS",
    "Forecast",
    "ForecastState",
    "Forecaster",
    "ForecasterConfig",
    "base",
    "for_tokenizer",
    "nano",
    "tiny",
]
