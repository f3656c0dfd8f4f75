"""Tiny models and benchmarks that several tests share."""

from __future__ import annotations

from pathlib import Path

import torch

from world_model.checkpoints.checkpoint import FORECASTER_FILE, TOKENIZER_FILE, load_tokenizer, save_model
from world_model.core.grid import VoxelGrid
from world_model.data.index import SceneIndex
from world_model.evaluation.forecasting.benchmark import Benchmark, SceneScore, SceneWork
from world_model.evaluation.result import ForecastResult
from world_model.models.forecaster import Forecaster
from world_model.models.forecaster import tiny as tiny_forecaster
from world_model.models.tokenizer import Tokenizer
from world_model.models.tokenizer import tiny as tiny_tokenizer
from world_model.worlds import TransportWorld


def tiny_models() -> tuple[Tokenizer, Forecaster]:
    """Untrained, in evaluation mode, always the same."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(tiny_tokenizer()).eval()
    return tokenizer, Forecaster(tiny_forecaster(tokenizer.config)).eval()


def save_models(folder: Path) -> Path:
    """A checkpoint of the tiny models."""
    tokenizer, forecaster = tiny_models()
    save_model(folder / TOKENIZER_FILE, tokenizer, tokenizer.state_dict(), {"data_source": "synthetic"})
    card = {"data_source": "synthetic", "tokens": load_tokenizer(folder)[1]["tokens"]}
    save_model(folder / FORECASTER_FILE, forecaster, forecaster.state_dict(), card)
    return folder


class Mine(TransportWorld):
    """A world of one's own, known by its import path."""

    def __init__(self, checkpoint: Path | None, device: torch.device, grid: VoxelGrid) -> None:
        assert grid == tiny_tokenizer().grid and checkpoint is not None
        super().__init__(grid, device)


def score_scene(index: SceneIndex, work: SceneWork, benchmark: Benchmark) -> SceneScore:
    """Read and score one scene."""
    return benchmark.score(benchmark.read(index, work), work)


def forecast(index: SceneIndex, frames: list[int], benchmark: Benchmark, scene: int = 0) -> ForecastResult:
    """Score windows of one scene."""
    score = score_scene(index, SceneWork(scene=scene, frames=tuple(frames)), benchmark)
    assert score.forecast is not None and score.reconstruction is None
    return score.forecast
