"""Worlds on small grids for ``gym.make(..., world="small_worlds:Transport")``: the whole environment in milliseconds.

Their labels come from `street.write_street(..., grid=SMALL)`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from street import SMALL

from world_model.core.grid import VoxelGrid
from world_model.models.forecaster import Forecaster
from world_model.models.forecaster import tiny as tiny_forecaster
from world_model.models.tokenizer import Tokenizer
from world_model.models.tokenizer import tiny as tiny_tokenizer
from world_model.worlds import ReplayWorld, TransportWorld
from world_model.worlds.token import TokenWorld

TINY = VoxelGrid(shape=(40, 40, 16), lower_m=(-8.0, -8.0, -1.0))
"""The grid of `Learned`."""


class Transport(TransportWorld):
    """The static world on a grid of 40 m."""

    def __init__(self, checkpoint: str | Path | None, device: torch.device, grid: VoxelGrid) -> None:
        super().__init__(SMALL, device)


class Replay(ReplayWorld):
    """The recorded world on a grid of 40 m."""

    def __init__(self, checkpoint: str | Path | None, device: torch.device, grid: VoxelGrid) -> None:
        super().__init__(SMALL, device)


class Learned(TokenWorld):
    """A model of a few thousand untrained weights on a grid of 16 m."""

    def __init__(self, checkpoint: str | Path | None, device: torch.device, grid: VoxelGrid) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = tiny_tokenizer(TINY)
            super().__init__(Tokenizer(config).to(device), Forecaster(tiny_forecaster(config)).to(device))
