"""Trained models for forecasting only: loaded once per process and shared, in evaluation mode, without gradients."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from world_model.checkpoints.checkpoint import (
    FORECASTER_FILE,
    GEOMETRIC_FILE,
    TOKENIZER_FILE,
    bundled_path,
    load_forecaster,
    load_geometric,
    load_tokenizer,
    stamp_of,
)
from world_model.core.errors import CheckpointError, ConfigError, OptionError
from world_model.models.forecaster import Forecaster
from world_model.models.geometric import GeometricForecaster
from world_model.models.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class WorldModel:
    """A tokenizer and the forecaster that was trained on its tokens, in evaluation mode.

    Attributes:
        tokenizer: labels <-> tokens.
        forecaster: tokens -> next tokens.
        card: what the checkpoint says about itself; ``card["data_source"]`` names the training data.
    """

    tokenizer: Tokenizer
    forecaster: Forecaster
    card: dict[str, Any]


@functools.lru_cache(maxsize=4)
def _geometric(
    path: str, stamp: tuple[int, ...], device: str, dtype: torch.dtype
) -> tuple[GeometricForecaster, dict[str, Any]]:
    model, card = load_geometric(path, device)
    # The convolutions take most of the time; all else, and whatever is read out of the maps, needs the precision.
    model.fusion.body.to(dtype)
    model.motion.body.to(dtype)
    return model.requires_grad_(False), card


def shared_geometric(
    checkpoint: str | Path | None = None, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[GeometricForecaster, dict[str, Any]]:
    """`load_geometric` for forecasting only: loaded once per process for each (checkpoint, device, dtype).

    Args:
        checkpoint: folder; None is the bundled one.
        device: where the model is put.
        dtype: number format of the two U-Nets.

    Raises:
        CheckpointError: as `load_geometric`.
    """
    path = Path(checkpoint) if checkpoint is not None else bundled_path()
    return _geometric(str(path), stamp_of(path, GEOMETRIC_FILE), str(device), dtype)


@functools.lru_cache(maxsize=4)
def _token_models(path: str, stamp: tuple[int, ...], device: str, dtype: torch.dtype) -> WorldModel:
    tokenizer, tokenizer_card = load_tokenizer(path, device)
    forecaster, card = load_forecaster(path, device)
    if card.get("tokens") != tokenizer_card["tokens"]:
        raise CheckpointError(
            f"{path}: the forecaster was trained on tokens {card.get('tokens')}, "
            f"but the tokenizer beside it makes tokens {tokenizer_card['tokens']}",
            "a forecaster and its own tokenizer in one folder",
            "encode tokens with this tokenizer and train the forecaster on them",
        )
    for model in (tokenizer, forecaster):
        model.to(dtype).requires_grad_(False)
    return WorldModel(tokenizer=tokenizer, forecaster=forecaster, card={**card, "tokenizer": tokenizer_card})


def load_world(
    checkpoint: str | Path | None = None, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> WorldModel:
    """Read a tokenizer and its forecaster. Loaded once per process for each (checkpoint, device, dtype).

    Args:
        checkpoint: folder with both files; None is the bundled one.
        device: where the models are put.
        dtype: number format of the weights.

    Raises:
        CheckpointError: anything is missing, damaged, or does not belong together.
    """
    path = Path(checkpoint) if checkpoint is not None else bundled_path()
    return _token_models(str(path), stamp_of(path, TOKENIZER_FILE, FORECASTER_FILE), str(device), dtype)


def with_faithful(model: WorldModel, faithful: bool | None) -> WorldModel:
    """The same weights with another ``faithful`` switch (`world_model.checkpoints.deviations`); shared, not copied.

    Args:
        model: what `load_world` gave.
        faithful: for tokenizer and forecaster; None keeps the checkpoint's own.

    Raises:
        OptionError: these weights cannot be read that way.
    """
    if faithful is None:
        return model
    try:
        return replace(
            model, tokenizer=_switched(model.tokenizer, faithful), forecaster=_switched(model.forecaster, faithful)
        )
    except (ConfigError, RuntimeError) as error:  # torch says RuntimeError where shapes differ
        own = model.forecaster.config.faithful
        raise OptionError(
            f"faithful={faithful} for a checkpoint of faithful={own} ({error})",
            f"faithful=None, or {own}",
            "leave faithful= out: it comes with the checkpoint",
        ) from error


Switchable = TypeVar("Switchable", Tokenizer, Forecaster)


def _switched(model: Switchable, faithful: bool) -> Switchable:
    if model.config.faithful == faithful:
        return model
    first = next(model.parameters())
    other = type(model)(replace(model.config, faithful=faithful)).to(first.device, first.dtype)
    other.load_state_dict(model.state_dict(), assign=True)
    return other.requires_grad_(False).eval()
