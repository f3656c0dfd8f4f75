"""Labels <-> tokens."""

from world_model.models.tokenizer.config import PRESETS, TINY_GRID, TokenizerConfig, base, nano, tiny
from world_model.models.tokenizer.memory import Memory
from world_model.models.tokenizer.tokenizer import Encoded, Tokenizer

__all__ = ["PRESETS", "TINY_GRID", "Encoded", "Memory", "Tokenizer", "TokenizerConfig", "base", "nano", "tiny"]
