"""Train the tokenizer on a prepared data set: ``python -m world_model.train_tokenizer``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from world_model.checkpoint import TOKENIZER_FILE, config_to_json, save_model
from world_model.data.index import SceneIndex
from world_model.data.streams import StreamPlan
from world_model.errors import IIWorldError
from world_model.runtime import choose_device, keep_memory
from world_model.tokenizer import PRESETS, Tokenizer
from world_model.tokenizer.training import TokenizerLossConfig, TokenizerTask
from world_model.training.loop import TrainConfig, Trainer
from world_model.training.optim import OptimConfig


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train the II-Tokenizer (labels <-> tokens) on the training split of a prepared data set.

    Runs resume by themselves: give the same command again. The result is OUT/tokenizer.safetensors.
    """

    index: Path
    """Index file that `world_model.prepare` wrote, or the folder it lies in."""
    out: Path
    """Folder for the checkpoint, the log and the file to resume from."""
    preset: Literal["base", "nano", "tiny"] = "nano"
    """Sizes: base is the published model, nano runs on two CPU cores."""
    iterations: int = 0
    """Optimizer steps; 0 takes 24 epochs (published) for base, 6,000 otherwise."""
    batch: int = 2
    """Streams side by side (published: 8 on each of 8 devices)."""
    seed: int = 0
    """Fixes weights, order, flips and sampling."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    learning_rate: float = 0.0
    """Peak learning rate; 0 takes the preset's (base 5e-4, nano 1e-3)."""
    voxels: int = -1
    """Voxels per grid in the reconstruction loss; 0 all, -1 the preset's (base all, nano 24000)."""
    save_every: int = 500
    """Iterations between checkpoints."""
    log_every: int = 50
    """Iterations between lines of progress."""
    split: str = "train"
    """Split to train on."""
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    """Weights of the losses (``voxels`` and ``revive_every`` are set by the preset unless given)."""


def recipe(args: Args, frames_per_epoch: int) -> tuple[TrainConfig, TokenizerLossConfig]:
    """Training and loss configuration of a preset; "base" is the published recipe."""
    published = args.preset == "base"
    rate = args.learning_rate or (5e-4 if published else 1e-3)
    iterations = args.iterations or (24 * frames_per_epoch // args.batch if published else 6_000)
    optim = OptimConfig(
        learning_rate=rate,
        schedule="step" if published else "cosine",
        warmup=200 if published else 50,
        ema=0.999 if published else 0.995,
    )
    train = TrainConfig(
        iterations=iterations,
        batch=args.batch,
        seed=args.seed,
        save_every=args.save_every,
        log_every=args.log_every,
        optim=optim,
    )
    loss = TokenizerLossConfig(
        vq_weight=args.loss.vq_weight,
        voxels=args.voxels if args.voxels >= 0 else (args.loss.voxels or (0 if published else 24_000)),
        revive_every=args.loss.revive_every or (0 if published else 20),
    )
    return train, loss


def main(args: Args) -> Path:
    """Train, and return the path of the tokenizer written."""
    keep_memory()
    index = SceneIndex.load(args.index)
    torch.manual_seed(args.seed)
    device = choose_device(args.device)
    model = Tokenizer(PRESETS[args.preset]()).to(device)
    # Short streams mix scenes better where a run sees few epochs; four frames fill the memory.
    plan = StreamPlan(index, args.split, args.batch, args.seed, parts=2 if args.preset == "base" else 8)
    train, loss = recipe(args, plan.frames_per_epoch)
    identity: dict[str, Any] = {
        "model": config_to_json(model.config),
        "train": config_to_json(train),
        "loss": config_to_json(loss),
        "data": index.fingerprint,
        "split": args.split,
    }
    # How often a run is saved and reported does not change it.
    for name in ("save_every", "log_every"):
        identity["train"].pop(name)
    print(
        f"tokenizer {args.preset}: {sum(p.numel() for p in model.parameters()):,} parameters on {device}; "
        f"{plan.frames_per_epoch} {index.source} frames, {train.iterations} iterations of {args.batch}",
        flush=True,
    )
    trainer = Trainer(TokenizerTask(model, plan, loss, args.seed), train, args.out, identity)
    trainer.run()
    path = args.out / TOKENIZER_FILE
    card = {
        "data": index.fingerprint,
        "data_source": index.source,
        "preset": args.preset,
        "iterations": train.iterations,
        "batch": train.batch,
        "seed": train.seed,
        "hours": round(trainer.seconds / 3600, 3),
        "device": str(device),
    }
    save_model(path, model, trainer.average.weights, card)
    print(f"tokenizer: {path}\nlog: {args.out / 'log.csv'}\nnext: python -m world_model.encode_tokens", flush=True)
    return path


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, prog="python -m world_model.train_tokenizer"))
    except IIWorldError as error:
        raise SystemExit(f"error: {error}") from error
