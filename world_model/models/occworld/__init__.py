"""OccWorld: codes of single frames, and a spatio-temporal transformer that forecasts the next ones."""

from world_model.models.occworld.config import MODES, PRESETS, OccWorldConfig, base, nano, tiny
from world_model.models.occworld.model import OccWorld
from world_model.models.occworld.tokenizer import OccWorldTokenizer

__all__ = ["MODES", "PRESETS", "OccWorld", "OccWorldConfig", "OccWorldTokenizer", "base", "nano", "tiny"]
