"""Train the forecaster on encoded tokens: ``python -m world_model.train_forecaster``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from world_model.checkpoints.checkpoint import (
    FORECASTER_FILE,
    TOKENIZER_FILE,
    config_to_json,
    copy_model,
    load_tokenizer,
    save_model,
)
from world_model.core.command import run
from world_model.data.index import SceneIndex
from world_model.data.tokens import TokenCache
from world_model.evaluation.held_out import HeldOut, filled, of_world
from world_model.models.forecaster import PRESETS, Forecaster, for_tokenizer
from world_model.models.forecaster.training import ForecasterLossConfig, ForecasterTask, windows_of
from world_model.training.command import RESUMES, Job, Preset, TrainArgs, count_parameters, train
from world_model.training.distributed import DistributedContext
from world_model.training.loop import TrainConfig
from world_model.training.optim import OptimConfig, iterations_of
from world_model.worlds.token import TokenWorld


@dataclass(frozen=True, kw_only=True)
class Args(TrainArgs):
    """Train the II-Former on the tokens of a prepared data set.

    Runs resume by themselves: give the same command again. The result is OUT/forecaster.safetensors with a copy of
    its tokenizer beside it: OUT is then a complete checkpoint for `gym.make(..., checkpoint=OUT)`. Several GPUs:
    `torchrun --nproc-per-node 8 -m world_model.train_forecaster ...`.
    """

    tokens: Path
    """Token cache that `world_model.encode_tokens` wrote."""
    tokenizer: Path
    """The tokenizer that made them: tokenizer.safetensors, or the folder it lies in."""
    preset: Preset = "nano"
    """Sizes: base is the published model, nano runs on two CPU cores."""
    iterations: int = 0
    """Optimizer steps; 0 takes --epochs."""
    epochs: float = 0.0
    """Times that every window is seen; 0 takes the preset's: 48 for base (published), 650 iterations otherwise."""
    batch: int = 0
    """Windows of one pass in one process; 0 takes the preset's: 8 for base (published, on 8 devices), else 2."""
    learning_rate: float = 0.0
    """Peak learning rate; 0 takes 1e-3."""
    occupancy_weight: float = -1.0
    """Weight of the reconstruction loss of a decoded step; -1 takes the preset's (base 0, nano 1)."""


def losses(args: Args) -> ForecasterLossConfig:
    """Loss configuration of a preset."""
    published = args.preset == "base"
    weight = args.occupancy_weight if args.occupancy_weight >= 0 else (0.0 if published else 1.0)
    return ForecasterLossConfig(through_time=published, normalise=not published, occupancy_weight=weight)


def recipe(args: Args, windows: int, processes: int = 1) -> tuple[TrainConfig, ForecasterLossConfig]:
    """Training and loss configuration of a preset; "base" is the published recipe."""
    published = args.preset == "base"
    batch = args.batch or (8 if published else 2)
    epochs = args.epochs or (48 if published else 0)
    optim = OptimConfig(
        learning_rate=args.learning_rate or 1e-3,
        schedule="step" if published else "cosine",
        decay_at=36 / 48,
        warmup=200 if published else 100,
        ema=0.999 if published else 0.99,
    )
    iterations = iterations_of(epochs, windows, batch * args.accumulate * processes, 650)
    return args.config(optim, iterations=iterations, batch=batch), losses(args)


def job(args: Args, index: SceneIndex, context: DistributedContext) -> Job:
    """Model, data and recipe of a run."""
    tokenizer, tokenizer_card = load_tokenizer(args.tokenizer, context.device)
    tokenizer.requires_grad_(False)
    tokens = tokenizer_card["tokens"]
    cache = TokenCache.load(args.tokens, index, args.split, tokens)
    torch.manual_seed(args.seed)
    model = Forecaster(for_tokenizer(PRESETS[args.preset](), tokenizer.config)).to(context.device)
    windows = len(windows_of(index, args.split, losses(args)))
    config, loss = recipe(args, windows, context.world_size)
    task = ForecasterTask(
        model,
        index,
        cache,
        args.split,
        loss,
        iterations=config.iterations,
        tokenizer=tokenizer if loss.occupancy_weight else None,
        read_labels=index.read_truth,
        seed=args.seed,
        shard=config.shard(context),
        context=context,
        workers=args.workers,
    )

    def write(weights: dict[str, Tensor], card: dict[str, Any]) -> Path:
        save_model(args.out / FORECASTER_FILE, model, weights, {**card, "tokens": tokens})
        copy_model(args.tokenizer, args.out, TOKENIZER_FILE)
        return args.out

    look = None
    if args.held_out_every:
        decoding = load_tokenizer(args.tokenizer, context.device)[0]
        look = HeldOut(
            index,
            args.held_out_split,
            args.held_out,
            lambda weights: of_world(TokenWorld(decoding, filled(model, weights))),
        )
    return Job(
        task=task,
        look=look,
        config=config,
        identity={"model": config_to_json(model.config), "loss": config_to_json(loss), "tokenizer": tokens},
        title=(
            f"forecaster {args.preset}: {count_parameters(model)} on {context.device}; {windows} {index.source} windows"
        ),
        write=write,
        card={"preset": args.preset},
        following="python -m world_model.evaluate",
    )


def main(args: Args) -> Path:
    """Train, and return the folder of the checkpoint."""
    train(args, lambda index, context: job(args, index, context))
    return args.out


if __name__ == "__main__":
    run(Args, main, "python -m world_model.train_forecaster", resumes=RESUMES)
