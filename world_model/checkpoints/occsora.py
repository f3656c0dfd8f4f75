"""Trained OccSoras on disk.

A checkpoint folder holds ``occsora_tokenizer.safetensors`` (the first stage) and ``occsora_transformer.safetensors``.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from world_model.checkpoints.checkpoint import (
    SORA_TOKENIZER_FILE,
    SORA_TRANSFORMER_FILE,
    bundled_path,
    load_model,
    stamp_of,
)
from world_model.core.errors import CheckpointError
from world_model.models.occsora import SoraTokenizer, SoraTokenizerConfig, SoraTransformer, SoraTransformerConfig


def load_sora_tokenizer(
    path: str | Path | None = None, device: torch.device | str = "cpu"
) -> tuple[SoraTokenizer, dict[str, Any]]:
    """Read a 4D tokenizer (a file, or the folder that holds it; None is the bundled one) and its card.

    Raises:
        CheckpointError: missing, damaged, of another version, or not fitting its own configuration.
    """
    return load_model(SoraTokenizer, SoraTokenizerConfig, SORA_TOKENIZER_FILE, path, device)[:2]


def load_sora_transformer(
    path: str | Path | None = None, device: torch.device | str = "cpu"
) -> tuple[SoraTransformer, dict[str, Any]]:
    """Read a diffusion transformer and its card, as `load_sora_tokenizer`.

    Raises:
        CheckpointError: as there; or a folder with a tokenizer alone.
    """
    folder = bundled_path(SORA_TRANSFORMER_FILE) if path is None else Path(path)
    if (folder / SORA_TOKENIZER_FILE).exists() and not (folder / SORA_TRANSFORMER_FILE).exists():
        raise CheckpointError(
            f"{folder} holds a tokenizer of OccSora without a transformer",
            SORA_TRANSFORMER_FILE,
            f"train one: python -m world_model.train_occsora --stage transformer --tokenizer {folder} ...",
        )
    return load_model(SoraTransformer, SoraTransformerConfig, SORA_TRANSFORMER_FILE, path, device)[:2]


@functools.lru_cache(maxsize=4)
def _shared(path: str, stamp: tuple[int, ...], device: str) -> tuple[SoraTokenizer, SoraTransformer]:
    transformer, card = load_sora_transformer(path, device)
    tokenizer, own = load_sora_tokenizer(path, device)
    if card.get("tokens") != own["weights"]:
        raise CheckpointError(
            f"{path}: the transformer was trained on latents of {card.get('tokens')}, but the tokenizer beside it is "
            f"{own['weights']}",
            "a transformer and its own tokenizer in one folder",
            "train the transformer on the latents of this tokenizer",
        )
    return tokenizer.requires_grad_(False), transformer.requires_grad_(False)


def shared_occsora(
    checkpoint: str | Path | None = None, device: torch.device | str = "cpu"
) -> tuple[SoraTokenizer, SoraTransformer]:
    """Both networks for drawing only: loaded once per process for each (checkpoint, device).

    Raises:
        CheckpointError: either is missing or damaged, or they do not belong together.
    """
    path = Path(checkpoint) if checkpoint is not None else bundled_path(SORA_TRANSFORMER_FILE)
    return _shared(str(path), stamp_of(path, SORA_TOKENIZER_FILE, SORA_TRANSFORMER_FILE), str(device))
