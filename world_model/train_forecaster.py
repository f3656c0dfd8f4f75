"""Train the forecaster on encoded tokens: ``python -m world_model.train_forecaster``."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from world_model.checkpoint import FORECASTER_FILE, TOKENIZER_FILE, config_to_json, load_tokenizer, save_model
from world_model.data.index import SceneIndex
from world_model.data.labels import read_labels
from world_model.data.tokens import TokenCache
from world_model.errors import IIWorldError
from world_model.files import atomic_write
from world_model.forecaster import PRESETS, Forecaster, for_tokenizer
from world_model.forecaster.training import ForecasterLossConfig, ForecasterTask
from world_model.runtime import choose_device, keep_memory
from world_model.training.loop import TrainConfig, Trainer
from world_model.training.optim import OptimConfig


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train the II-Former on the tokens of a prepared data set.

    Runs resume by themselves: give the same command again. The result is OUT/forecaster.safetensors with a copy of
    its tokenizer beside it: OUT is then a complete checkpoint for `gym.make(..., checkpoint=OUT)`.
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
    """Optimizer steps; 0 takes 48 epochs (published) for base, 650 otherwise."""
    batch: int = 2
    """Windows per step (published: 8 on each of 8 devices)."""
    seed: int = 0
    """Fixes weights, order and sampling."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
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


def recipe(args: Args, windows: int) -> tuple[TrainConfig, ForecasterLossConfig]:
    """Training and loss configuration of a preset; "base" is the published recipe."""
    published = args.preset == "base"
    optim = OptimConfig(
        learning_rate=args.learning_rate or 1e-3,
        schedule="step" if published else "cosine",
        decay_at=36 / 48,
        warmup=200 if published else 100,
        ema=0.999 if published else 0.99,
    )
    train = TrainConfig(
        iterations=args.iterations or (48 * windows // args.batch if published else 650),
        batch=args.batch,
        seed=args.seed,
        save_every=args.save_every,
        log_every=args.log_every,
        optim=optim,
    )
    weight = args.occupancy_weight if args.occupancy_weight >= 0 else (0.0 if published else 1.0)
    loss = ForecasterLossConfig(through_time=published, normalise=not published, occupancy_weight=weight)
    return train, loss


def main(args: Args) -> Path:
    """Train, and return the folder of the checkpoint."""
    keep_memory()
    index = SceneIndex.load(args.index)
    device = choose_device(args.device)
    tokenizer, tokenizer_card = load_tokenizer(args.tokenizer, device)
    tokenizer.requires_grad_(False)
    cache = TokenCache.load(args.tokens, index, args.split, tokenizer_card["tokens"])
    torch.manual_seed(args.seed)
    model = Forecaster(for_tokenizer(PRESETS[args.preset](), tokenizer.config)).to(device)
    windows = sum(max(0, len(index.frames(s)) - 10) for s in index.scenes(args.split))
    train, loss = recipe(args, windows)
    task = ForecasterTask(
        model,
        index,
        cache,
        args.split,
        loss,
        batch=args.batch,
        iterations=train.iterations,
        seed=args.seed,
        tokenizer=tokenizer,
        read_labels=lambda frame: read_labels(index.root / str(index.label_path[frame])),
    )
    identity: dict[str, Any] = {
        "model": config_to_json(model.config),
        "train": config_to_json(train),
        "loss": config_to_json(loss),
        "data": index.fingerprint,
        "tokenizer": tokenizer_card["tokens"],
        "split": args.split,
    }
    # How often a run is saved and reported does not change it.
    for name in ("save_every", "log_every"):
        identity["train"].pop(name)
    print(
        f"forecaster {args.preset}: {sum(p.numel() for p in model.parameters()):,} parameters on {device}; "
        f"{len(task.windows)} {index.source} windows, {train.iterations} iterations of {args.batch}",
        flush=True,
    )
    trainer = Trainer(task, train, args.out, identity)
    trainer.run()
    card = {
        "data": index.fingerprint,
        "data_source": index.source,
        "preset": args.preset,
        "iterations": train.iterations,
        "batch": train.batch,
        "seed": train.seed,
        "hours": round(trainer.seconds / 3600, 3),
        "device": str(device),
        "tokens": tokenizer_card["tokens"],
    }
    save_model(args.out / FORECASTER_FILE, model, trainer.average.weights, card)
    source = args.tokenizer / TOKENIZER_FILE if args.tokenizer.is_dir() else args.tokenizer
    if source.resolve() != (args.out / TOKENIZER_FILE).resolve():
        with open(source, "rb") as stream, atomic_write(args.out / TOKENIZER_FILE) as target:
            shutil.copyfileobj(stream, target)
    print(f"checkpoint: {args.out}\nlog: {args.out / 'log.csv'}\nnext: python -m world_model.evaluate", flush=True)
    return args.out


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, prog="python -m world_model.train_forecaster"))
    except IIWorldError as error:
        raise SystemExit(f"error: {error}") from error
