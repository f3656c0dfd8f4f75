"""Checkpoints of a few thousand untrained weights, of both kinds and on one grid."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from world_model.checkpoints.checkpoint import FORECASTER_FILE, GEOMETRIC_FILE, TOKENIZER_FILE, save_model, tokens_hash
from world_model.core.grid import VoxelGrid
from world_model.models.forecaster import Forecaster
from world_model.models.forecaster import tiny as tiny_forecaster
from world_model.models.geometric import GeometricForecaster
from world_model.models.geometric import tiny as tiny_geometric
from world_model.models.tokenizer import Tokenizer
from world_model.models.tokenizer import tiny as tiny_tokenizer

TINY = VoxelGrid(shape=(40, 40, 16), lower_m=(-8.0, -8.0, -1.0))
CARD = {"data_source": "test"}


def write_tokens(folder: Path, seed: int = 0, grid: VoxelGrid = TINY) -> Path:
    """The token architecture: tokenizer and forecaster."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = Tokenizer(tiny_tokenizer(grid))
        forecaster = Forecaster(tiny_forecaster(tokenizer.config))
        _shake(0.05, forecaster, tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    weights = tokenizer.state_dict()
    save_model(folder / TOKENIZER_FILE, tokenizer, weights, CARD)
    save_model(folder / FORECASTER_FILE, forecaster, forecaster.state_dict(), {**CARD, "tokens": tokens_hash(weights)})
    return folder


def write_geometric(folder: Path, seed: int = 0, grid: VoxelGrid = TINY) -> Path:
    """The geometry-first forecaster."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GeometricForecaster(tiny_geometric(grid))
        _shake(0.3, model)  # less leaves its gates open: it would forecast the ego warp
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder / GEOMETRIC_FILE, model, model.state_dict(), CARD)
    return folder


def _shake(far: float, *models: nn.Module) -> None:
    """Away from initial weights, which make some outputs the same for every model."""
    for model in models:
        for parameter in model.parameters():
            parameter.data += far * torch.randn_like(parameter)
