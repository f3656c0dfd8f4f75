"""From the options to the models and worlds that forecast."""

from __future__ import annotations

from typing import Any

import torch

from world_model.checkpoints.checkpoint import TOKENIZER_FILE, bundled_path, load_tokenizer
from world_model.checkpoints.shared import load_world, shared_geometric
from world_model.core.grid import OCC3D
from world_model.evaluation.forecasting.actions import action_model
from world_model.evaluation.forecasting.benchmark import Benchmark
from world_model.evaluation.forecasting.options import Evaluate
from world_model.worlds import World, build_world
from world_model.worlds.build import DTYPES
from world_model.worlds.kinds import GEOMETRIC, II_WORLD
from world_model.worlds.token import TokenWorld

GPU_SLOTS = 8
"""Slots of a batch on a GPU, which is idle with fewer; one sample keeps a CPU core busy."""


def load_benchmark(options: Evaluate, device: torch.device) -> Benchmark:
    """Load everything that forecasts.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        OptionError: there is no such world or action mode.
    """
    names, path, dtype = options.worlds, options.checkpoint, DTYPES[options.dtype]
    grid, tokenizer, weights = OCC3D, None, "none"
    worlds, cards = dict[str, World](), list[str]()
    if GEOMETRIC in names:
        geometric, card = shared_geometric(path, device)
        grid = geometric.config.grid
        cards.append(_words(GEOMETRIC, card, str(card["weights"])))
    has_tokenizer = ((path or bundled_path()) / TOKENIZER_FILE).exists()
    if II_WORLD in names:
        model = load_world(path, device, dtype)
        tokenizer, weights = model.tokenizer.to(dtype), f"{model.card['tokenizer']['weights']}+{model.card['weights']}"
        worlds[II_WORLD] = TokenWorld(tokenizer, model.forecaster)
        cards.append(_words(II_WORLD, model.card, weights))
    elif options.models == "tokenizer" or (options.models == "both" and has_tokenizer):
        loaded, card = load_tokenizer(path, device)
        tokenizer, weights = loaded.to(dtype), str(card["weights"])
        cards.append(_words("tokenizer", card, weights))
    grid = tokenizer.config.grid if tokenizer is not None else grid
    for name in (name for name in names if name != II_WORLD):
        worlds[name.rpartition(":")[2]] = build_world(name, checkpoint=path, device=str(device), grid=grid)
    return Benchmark(
        grid=grid,
        tokenizer=tokenizer,
        worlds=worlds,
        regimes=options.regimes,
        actions=action_model(options.action_mode) if "action" in options.regimes else None,
        horizons_s=options.horizons_s,
        batch=options.batch,
        mask=options.mask,
        slots=1 if device.type == "cpu" else GPU_SLOTS,
        models=f"{path or 'bundled nano'} ({'; '.join(cards)})" if cards else "none",
        weights=weights,
    )


def _words(name: str, card: dict[str, Any], weights: str) -> str:
    return f"{name}, trained on {card.get('data_source', 'unknown')} data, weights {weights}"
