"""OccSora: 32 label grids at once as one 4D latent, and a diffusion transformer that draws such latents."""

from world_model.models.occsora.config import (
    PRESETS,
    SoraTokenizerConfig,
    SoraTransformerConfig,
    Trajectory,
    base,
    nano,
    tiny,
)
from world_model.models.occsora.tokenizer import SoraTokenizer
from world_model.models.occsora.transformer import SoraTransformer

__all__ = [
    "PRESETS",
    "SoraTokenizer",
    "SoraTokenizerConfig",
    "SoraTransformer",
    "SoraTransformerConfig",
    "Trajectory",
    "base",
    "nano",
    "tiny",
]
