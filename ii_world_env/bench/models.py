"""Models as the bench wants them: a preset with random weights, and compiled ones that fall back where it fails."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from world_model.checkpoints.checkpoint import FORECASTER_FILE, GEOMETRIC_FILE, TOKENIZER_FILE, save_model, tokens_hash
from world_model.core.errors import OptionError
from world_model.models import geometric
from world_model.models.forecaster import PRESETS as FORECASTERS
from world_model.models.forecaster import Forecaster, for_tokenizer
from world_model.models.geometric.config import PRESETS as GEOMETRICS
from world_model.models.tokenizer import PRESETS as TOKENIZERS
from world_model.models.tokenizer import Tokenizer

NOTE = {"data_source": "none: random weights, which measure speed and nothing else"}


def write_random(preset: str, folder: Path) -> Path:
    """A checkpoint of a preset's sizes with random weights, for every world that takes one.

    Raises:
        OptionError: there is no such preset.
    """
    if preset not in TOKENIZERS:
        raise OptionError(f"preset={preset!r}", f"one of {tuple(TOKENIZERS)}", "choose one of them")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = Tokenizer(TOKENIZERS[preset]())
        forecaster = Forecaster(for_tokenizer(FORECASTERS[preset](), tokenizer.config))
        moving = geometric.GeometricForecaster(GEOMETRICS[preset]())
    weights = tokenizer.state_dict()
    save_model(folder / TOKENIZER_FILE, tokenizer, weights, NOTE)
    card = {**NOTE, "tokens": tokens_hash(weights)}
    save_model(folder / FORECASTER_FILE, forecaster, forecaster.state_dict(), card)
    save_model(folder / GEOMETRIC_FILE, moving, moving.state_dict(), NOTE)
    return folder


def try_compiled(world: Any, work: Callable[[], Any]) -> str:
    """Compile the networks of a world with torch.compile, and take that back if ``work`` then fails.

    Args:
        world: changed in place; the networks of other worlds stay as they are, also where they were the same.
        work: something that uses all of them.

    Returns:
        "compiled", or why not.
    """
    plain = {
        name: value for name in ("tokenizer", "forecaster", "model") if isinstance(value := _of(world, name), nn.Module)
    }
    if not plain:
        return "not compiled: this world has no network"
    try:
        for name, module in plain.items():
            setattr(world, name, _compiled(copy.deepcopy(module)))
        work()
    except Exception as error:  # whatever a compiler may find wrong with a machine
        for name, module in plain.items():
            setattr(world, name, module)
        return f"not compiled: {type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"
    return "compiled"


def _compiled(model: nn.Module) -> nn.Module:
    """The dense parts; what depends on where labels are occupied stays as it is."""
    parts: list[tuple[Any, str]] = []
    if isinstance(model, Tokenizer):
        parts = [(model.decoder, "forward"), (model.vq, "forward")]
    elif isinstance(model, Forecaster):
        parts = [(model.transformer, name) for name in ("encode", "encode_map", "decode")]
    elif isinstance(model, geometric.GeometricForecaster):
        parts = [(model.fusion.body, "forward"), (model.motion.body, "forward")]
    for owner, name in parts:
        setattr(owner, name, torch.compile(getattr(owner, name), dynamic=False))
    return model


def _of(world: Any, name: str) -> Any:
    return getattr(world, name, None)
