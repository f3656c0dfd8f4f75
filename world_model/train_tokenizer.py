"""Train the tokenizer on a prepared data set: ``python -m world_model.train_tokenizer``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from world_model.checkpoints.checkpoint import TOKENIZER_FILE, config_to_json, save_model
from world_model.core.errors import IIWorldError
from world_model.core.runtime import keep_memory
from world_model.data.index import SceneIndex
from world_model.data.streams import Flips, StreamPlan
from world_model.models.tokenizer import PRESETS, Tokenizer
from world_model.models.tokenizer.training import TokenizerLossConfig, TokenizerTask
from world_model.training.distributed import Ranks, describe, join
from world_model.training.loop import TrainConfig, Trainer
from world_model.training.optim import OptimConfig, iterations_of
from world_model.training.precision import Precision


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train the II-Tokenizer (labels <-> tokens) on the training split of a prepared data set.

    Runs resume by themselves: give the same command again. The result is OUT/tokenizer.safetensors. Several GPUs:
    `torchrun --nproc-per-node 8 -m world_model.train_tokenizer ...`.
    """

    index: Path
    """Index file that `world_model.prepare` wrote, or the folder it lies in."""
    out: Path
    """Folder for the checkpoint, the log and the file to resume from."""
    preset: Literal["base", "nano", "tiny"] = "nano"
    """Sizes: base is the published model, nano runs on two CPU cores."""
    iterations: int = 0
    """Optimizer steps; 0 takes --epochs."""
    epochs: float = 0.0
    """Times that every frame is seen; 0 takes the preset's: 24 for base (published), 6,000 iterations otherwise."""
    batch: int = 0
    """Streams side by side in one process; 0 takes the preset's: 8 for base (published, on 8 devices), else 2."""
    accumulate: int = 1
    """Add up the gradients of so many batches before a step: the same as a batch so many times larger."""
    group: int = 0
    """Streams scored together (the Lovasz loss couples them); 0: --batch. Keep it when you divide a batch otherwise."""
    seed: int = 0
    """Fixes weights, order, flips and sampling."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; under torchrun, auto gives each process its own GPU."""
    precision: Precision = "auto"
    """Of the encoder and the decoder; auto is bfloat16 on GPUs that have it. All else is float32."""
    workers: int = 2
    """Threads of each process that read labels ahead; the order of the data does not depend on them."""
    learning_rate: float = 0.0
    """Peak learning rate; 0 takes the preset's (base 5e-4, nano 1e-3)."""
    flips: Flips = "stream"
    """Mirror whole streams at random; published draws for every frame and misaligns its memory (deviation 9); none."""
    voxels: int = -1
    """Voxels per grid in the reconstruction loss; 0 all, -1 the preset's (base all, nano 24000)."""
    rare_weight: float = -1.0
    """Weight of a cross-entropy that lifts rare classes; 0 none, -1 the preset's (base 0, nano 2 on sampled voxels)."""
    save_every: int = 500
    """Iterations between checkpoints."""
    log_every: int = 50
    """Iterations between lines of progress."""
    split: str = "train"
    """Split to train on."""
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    """Weights of the losses (``voxels``, ``rare_weight`` and ``revive_every`` are set by the preset unless given)."""


PARTS = {"base": 2, "nano": 8, "tiny": 8}
"""Streams that a scene is cut into: short ones mix scenes better where epochs are few; four frames fill the memory."""


def recipe(args: Args, frames_per_epoch: int, processes: int = 1) -> tuple[TrainConfig, TokenizerLossConfig]:
    """Training and loss configuration of a preset; "base" is the published recipe."""
    published = args.preset == "base"
    batch = args.batch or (8 if published else 2)
    epochs = args.epochs or (24 if published else 0)
    optim = OptimConfig(
        learning_rate=args.learning_rate or (5e-4 if published else 1e-3),
        schedule="step" if published else "cosine",
        decay_at=20 / 24,
        warmup=200 if published else 50,
        ema=0.999 if published else 0.995,
    )
    train = TrainConfig(
        iterations=args.iterations
        or iterations_of(epochs, frames_per_epoch, batch * args.accumulate * processes, 6_000),
        batch=batch,
        accumulate=args.accumulate,
        group=args.group,
        seed=args.seed,
        save_every=args.save_every,
        log_every=args.log_every,
        precision=args.precision,
        optim=optim,
    )
    voxels = args.voxels if args.voxels >= 0 else (args.loss.voxels or (0 if published else 24_000))
    # Where every voxel counts there is no sample to lift rare classes in.
    lift = (
        args.rare_weight
        if args.rare_weight >= 0
        else (args.loss.rare_weight or (2.0 if voxels and not published else 0.0))
    )
    loss = TokenizerLossConfig(
        vq_weight=args.loss.vq_weight,
        voxels=voxels,
        rare_weight=lift,
        revive_every=args.loss.revive_every or (0 if published else 20),
    )
    return train, loss


def main(args: Args) -> Path:
    """Train, and return the path of the tokenizer written."""
    keep_memory()
    with join(args.device) as ranks:
        return _train(args, ranks)


def _train(args: Args, ranks: Ranks) -> Path:
    index = SceneIndex.load(args.index)
    torch.manual_seed(args.seed)
    model = Tokenizer(PRESETS[args.preset]()).to(ranks.device)
    frames = sum(len(index.frames(s)) for s in index.scenes(args.split))
    train, loss = recipe(args, frames, ranks.count)
    share, parts = train.share(ranks), PARTS[args.preset]
    plan = StreamPlan(index, args.split, share.batch, args.seed, parts=parts, flips=args.flips, grid=model.config.grid)
    identity: dict[str, Any] = {
        "model": config_to_json(model.config),
        "train": train.identity(share),
        "loss": config_to_json(loss),
        "data": index.fingerprint,
        "split": args.split,
        **({} if args.flips == "stream" else {"flips": args.flips}),
    }
    if ranks.first:
        print(
            f"tokenizer {args.preset}: {sum(p.numel() for p in model.parameters()):,} parameters on {ranks.device}; "
            f"{frames} {index.source} frames, {train.iterations} iterations of {describe(share)}",
            flush=True,
        )
    task = TokenizerTask(model, plan, loss, args.seed, share=share, ranks=ranks, workers=args.workers)
    trainer = Trainer(task, train, args.out, identity, ranks)
    trainer.run()
    path = args.out / TOKENIZER_FILE
    if ranks.first:
        card = {"data": index.fingerprint, "data_source": index.source, "preset": args.preset, **trainer.card()}
        save_model(path, model, trainer.average.weights, card)
        print(f"tokenizer: {path}\nlog: {args.out / 'log.csv'}\nnext: python -m world_model.encode_tokens", flush=True)
    ranks.wait()
    return path


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, prog="python -m world_model.train_tokenizer"))
    except IIWorldError as error:
        raise SystemExit(f"error: {error}") from error
