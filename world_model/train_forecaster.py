"""Train the forecaster on encoded tokens: ``python -m world_model.train_forecaster``."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from world_model.checkpoints.checkpoint import (
    FORECASTER_FILE,
    TOKENIZER_FILE,
    config_to_json,
    load_tokenizer,
    save_model,
)
from world_model.core.errors import IIWorldError
from world_model.core.files import atomic_write
from world_model.core.runtime import keep_memory
from world_model.data.index import SceneIndex
from world_model.data.tokens import TokenCache
from world_model.models.forecaster import PRESETS, Forecaster, for_tokenizer
from world_model.models.forecaster.training import ForecasterLossConfig, ForecasterTask, windows_of
from world_model.training.distributed import Ranks, describe, join
from world_model.training.loop import TrainConfig, Trainer
from world_model.training.optim import OptimConfig, iterations_of
from world_model.training.precision import Precision


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train the II-Former on the tokens of a prepared data set.

    Runs resume by themselves: give the same command again. The result is OUT/forecaster.safetensors with a copy of
    its tokenizer beside it: OUT is then a complete checkpoint for `gym.make(..., checkpoint=OUT)`. Several GPUs:
    `torchrun --nproc-per-node 8 -m world_model.train_forecaster ...`.
    """

    index: Path
    """Index file that `world_model.prepare` wrote, or the folder it lies in."""
    tokens: Path
    """Token cache that `world_model.encode_tokens` wrote."""
    tokenizer: Path
    """The tokenizer that made them: tokenizer.safetensors, or the folder it lies in."""
    out: Path
    """Folder for the checkpoint, the log and the file to resume from."""
    preset: Literal["base", "nano", "tiny"] = "nano"
    """Sizes: base is the published model, nano runs on two CPU cores."""
    iterations: int = 0
    """Optimizer steps; 0 takes --epochs."""
    epochs: float = 0.0
    """Times that every window is seen; 0 takes the preset's: 48 for base (published), 650 iterations otherwise."""
    batch: int = 0
    """Windows of one pass in one process; 0 takes the preset's: 8 for base (published, on 8 devices), else 2."""
    accumulate: int = 1
    """Add up the gradients of so many batches before a step: the same as a batch so many times larger."""
    group: int = 0
    """Windows normalised together (BatchNorm); 0: --batch. Keep it when you divide a batch otherwise."""
    seed: int = 0
    """Fixes weights, order and sampling."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; under torchrun, auto gives each process its own GPU."""
    precision: Precision = "auto"
    """Of the attention and convolution layers; auto is bfloat16 on GPUs that have it. All else is float32."""
    workers: int = 2
    """Threads of each process that read tokens ahead; the order of the data does not depend on them."""
    learning_rate: float = 0.0
    """Peak learning rate; 0 takes 1e-3."""
    occupancy_weight: float = -1.0
    """Weight of the reconstruction loss of a decoded step; -1 takes the preset's (base 0, nano 1)."""
    save_every: int = 250
    """Iterations between checkpoints."""
    log_every: int = 25
    """Iterations between lines of progress."""
    split: str = "train"
    """Split to train on."""


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
    train = TrainConfig(
        iterations=args.iterations or iterations_of(epochs, windows, batch * args.accumulate * processes, 650),
        batch=batch,
        accumulate=args.accumulate,
        group=args.group,
        seed=args.seed,
        save_every=args.save_every,
        log_every=args.log_every,
        precision=args.precision,
        optim=optim,
    )
    return train, losses(args)


def main(args: Args) -> Path:
    """Train, and return the folder of the checkpoint."""
    keep_memory()
    with join(args.device) as ranks:
        return _train(args, ranks)


def _train(args: Args, ranks: Ranks) -> Path:
    index = SceneIndex.load(args.index)
    tokenizer, tokenizer_card = load_tokenizer(args.tokenizer, ranks.device)
    tokenizer.requires_grad_(False)
    cache = TokenCache.load(args.tokens, index, args.split, tokenizer_card["tokens"])
    torch.manual_seed(args.seed)
    model = Forecaster(for_tokenizer(PRESETS[args.preset](), tokenizer.config)).to(ranks.device)
    windows = len(windows_of(index, args.split, losses(args)))
    train, loss = recipe(args, windows, ranks.count)
    share = train.share(ranks)
    task = ForecasterTask(
        model,
        index,
        cache,
        args.split,
        loss,
        batch=share.batch,
        iterations=train.iterations,
        seed=args.seed,
        tokenizer=tokenizer if loss.occupancy_weight else None,
        read_labels=index.read_truth,
        share=share,
        ranks=ranks,
        workers=args.workers,
    )
    identity: dict[str, Any] = {
        "model": config_to_json(model.config),
        "train": train.identity(share),
        "loss": config_to_json(loss),
        "data": index.fingerprint,
        "tokenizer": tokenizer_card["tokens"],
        "split": args.split,
    }
    if ranks.first:
        print(
            f"forecaster {args.preset}: {sum(p.numel() for p in model.parameters()):,} parameters on {ranks.device}; "
            f"{windows} {index.source} windows, {train.iterations} iterations of {describe(share)}",
            flush=True,
        )
    trainer = Trainer(task, train, args.out, identity, ranks)
    trainer.run()
    if ranks.first:
        card = {"data": index.fingerprint, "data_source": index.source, "preset": args.preset, **trainer.card()}
        card["tokens"] = tokenizer_card["tokens"]
        save_model(args.out / FORECASTER_FILE, model, trainer.average.weights, card)
        source = args.tokenizer / TOKENIZER_FILE if args.tokenizer.is_dir() else args.tokenizer
        if source.resolve() != (args.out / TOKENIZER_FILE).resolve():
            with open(source, "rb") as stream, atomic_write(args.out / TOKENIZER_FILE) as target:
                shutil.copyfileobj(stream, target)
        print(f"checkpoint: {args.out}\nlog: {args.out / 'log.csv'}\nnext: python -m world_model.evaluate", flush=True)
    ranks.wait()
    return args.out


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, prog="python -m world_model.train_forecaster"))
    except IIWorldError as error:
        raise SystemExit(f"error: {error}") from error
