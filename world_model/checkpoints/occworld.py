"""Trained OccWorlds on disk, and the released one read into this package's format.

A checkpoint folder holds ``occworld_tokenizer.safetensors`` (the first stage), or ``occworld.safetensors`` (all of it).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from world_model.checkpoints.checkpoint import (
    OCCWORLD_FILE,
    OCCWORLD_TOKENIZER_FILE,
    bundled_path,
    load_model,
    stamp_of,
    tokens_hash,
)
from world_model.core.errors import CheckpointError
from world_model.models.occworld import OccWorld, OccWorldConfig, OccWorldTokenizer
from world_model.models.tokenizer.config import TokenizerConfig


def load_occworld(
    path: str | Path | None = None, device: torch.device | str = "cpu"
) -> tuple[OccWorld, dict[str, Any]]:
    """Read an OccWorld (a file, or the folder that holds it; None is the bundled one) and its card.

    Raises:
        CheckpointError: missing, damaged, a tokenizer without a forecaster, or not fitting its own configuration.
    """
    folder = bundled_path(OCCWORLD_FILE) if path is None else Path(path)
    if folder.is_dir() and not (folder / OCCWORLD_FILE).exists() and (folder / OCCWORLD_TOKENIZER_FILE).exists():
        raise CheckpointError(
            f"{folder} holds an OccWorld tokenizer without a forecaster",
            OCCWORLD_FILE,
            f"train one: python -m world_model.train_occworld --stage forecaster --init {folder} ...",
        )
    model, card, weights = load_model(OccWorld, OccWorldConfig, OCCWORLD_FILE, folder, device)
    return model, {**card, "tokens": tokens_of(weights)}


def load_occworld_tokenizer(
    path: str | Path, device: torch.device | str = "cpu"
) -> tuple[OccWorldTokenizer, dict[str, Any]]:
    """Read the tokenizer of either file, and its card.

    Raises:
        CheckpointError: as `load_occworld`.
    """
    path = Path(path)
    name = OCCWORLD_TOKENIZER_FILE
    if path.name == OCCWORLD_FILE or (path.is_dir() and not (path / name).exists() and (path / OCCWORLD_FILE).exists()):
        model, card = load_occworld(path, device)
        return model.vae, card
    vae, card, weights = load_model(OccWorldTokenizer, TokenizerConfig, name, path, device)
    return vae, {**card, "tokens": tokens_hash(weights)}


def tokens_of(weights: Mapping[str, Tensor]) -> str:
    """Short hash of the part of a whole model that makes codes."""
    vae = {name.removeprefix("vae."): value for name, value in weights.items() if name.startswith("vae.")}
    return tokens_hash(vae)


@functools.lru_cache(maxsize=4)
def _shared(path: str, stamp: tuple[int, ...], device: str) -> tuple[OccWorld, dict[str, Any]]:
    model, card = load_occworld(path, device)
    return model.requires_grad_(False), card


def shared_occworld(
    checkpoint: str | Path | None = None, device: torch.device | str = "cpu"
) -> tuple[OccWorld, dict[str, Any]]:
    """`load_occworld` for forecasting only: loaded once per process for each (checkpoint, device)."""
    path = Path(checkpoint) if checkpoint is not None else bundled_path(OCCWORLD_FILE)
    return _shared(str(path), stamp_of(path, OCCWORLD_FILE), str(device))
