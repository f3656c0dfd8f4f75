"""Train the tokenizer on a prepared data set: ``python -m world_model.train_tokenizer``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from world_model.checkpoints.checkpoint import TOKENIZER_FILE, config_to_json, save_model
from world_model.core.command import run
from world_model.data.index import SceneIndex
from world_model.data.streams import Flips, StreamPlan
from world_model.evaluation.held_out import HeldOut, filled, of_tokenizer
from world_model.models.tokenizer import PRESETS, Tokenizer
from world_model.models.tokenizer.training import TokenizerLossConfig, TokenizerTask
from world_model.training.command import RESUMES, Job, Preset, TrainArgs, count_parameters, train
from world_model.training.distributed import DistributedContext
from world_model.training.loop import TrainConfig
from world_model.training.optim import OptimConfig, iterations_of


@dataclass(frozen=True, kw_only=True)
class Args(TrainArgs):
    """Train the II-Tokenizer (labels <-> tokens) on the training split of a prepared data set.

    Runs resume by themselves: give the same command again. The result is OUT/tokenizer.safetensors. Several GPUs:
    `torchrun --nproc-per-node 8 -m world_model.train_tokenizer ...`.
    """

    preset: Preset = "nano"
    """Sizes: base is the published model, nano runs on two CPU cores."""
    iterations: int = 0
    """Optimizer steps; 0 takes --epochs."""
    epochs: float = 0.0
    """Times that every frame is seen; 0 takes the preset's: 24 for base (published), 6,000 iterations otherwise."""
    batch: int = 0
    """Streams side by side in one process; 0 takes the preset's: 8 for base (published, on 8 devices), else 2."""
    learning_rate: float = 0.0
    """Peak learning rate; 0 takes the preset's (base 5e-4, nano 1e-3)."""
    save_every: int = 500
    """Iterations between checkpoints."""
    log_every: int = 50
    """Iterations between lines of progress."""
    flips: Flips = "stream"
    """Mirror whole streams at random; published draws for every frame and misaligns its memory (deviation 9); none."""
    voxels: int = -1
    """Voxels per grid in the reconstruction loss; 0 all, -1 the preset's (base all, nano 24000)."""
    rare_weight: float = -1.0
    """Weight of a cross-entropy that lifts rare classes; 0 none, -1 the preset's (base 0, nano 2 on sampled voxels)."""
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    """Weights of the losses (``voxels``, ``rare_weight`` and ``revive_every`` are set by the preset unless given)."""


PARTS = {"base": 2, "nano": 8, "tiny": 8}
"""Streams that a scene is cut into: short ones mix scenes better where epochs are few; four frames fill the memory."""


def recipe(args: Args, frames_per_epoch: int, processes: int = 1) -> tuple[TrainConfig, TokenizerLossConfig]:
    """Training and loss configuration of a preset; "base" is the published recipe."""
    published, given = args.preset == "base", args.loss
    batch = args.batch or (8 if published else 2)
    epochs = args.epochs or (24 if published else 0)
    optim = OptimConfig(
        learning_rate=args.learning_rate or (5e-4 if published else 1e-3),
        schedule="step" if published else "cosine",
        decay_at=20 / 24,
        warmup=200 if published else 50,
        ema=0.999 if published else 0.995,
    )
    iterations = iterations_of(epochs, frames_per_epoch, batch * args.accumulate * processes, 6_000)
    voxels = args.voxels if args.voxels >= 0 else (given.voxels or (0 if published else 24_000))
    rare_weight = args.rare_weight
    if rare_weight < 0:
        # Where every voxel counts there is no sample to lift rare classes in.
        rare_weight = given.rare_weight or (2.0 if voxels and not published else 0.0)
    loss = TokenizerLossConfig(
        vq_weight=given.vq_weight,
        voxels=voxels,
        rare_weight=rare_weight,
        revive_every=given.revive_every or (0 if published else 20),
    )
    return args.config(optim, iterations=iterations, batch=batch), loss


def job(args: Args, index: SceneIndex, context: DistributedContext) -> Job:
    """Model, data and recipe of a run."""
    torch.manual_seed(args.seed)
    model = Tokenizer(PRESETS[args.preset]()).to(context.device)
    frames = sum(len(index.frames(s)) for s in index.scenes(args.split))
    config, loss = recipe(args, frames, context.world_size)
    shard = config.shard(context)
    plan = StreamPlan(
        index, args.split, shard.batch, args.seed, parts=PARTS[args.preset], flips=args.flips, grid=model.config.grid
    )
    flips = {} if args.flips == "stream" else {"flips": args.flips}
    look = None
    if args.held_out_every:
        look = HeldOut(index, args.held_out_split, args.held_out, lambda weights: of_tokenizer(filled(model, weights)))
    return Job(
        look=look,
        task=TokenizerTask(model, plan, loss, seed=args.seed, shard=shard, context=context, workers=args.workers),
        config=config,
        identity={"model": config_to_json(model.config), "loss": config_to_json(loss), **flips},
        title=(
            f"tokenizer {args.preset}: {count_parameters(model)} on {context.device}; {frames} {index.source} frames"
        ),
        write=lambda weights, card: save_model(args.out / TOKENIZER_FILE, model, weights, card),
        card={"preset": args.preset},
        following="python -m world_model.encode_tokens",
    )


def main(args: Args) -> Path:
    """Train, and return the path of the tokenizer written."""
    train(args, lambda index, context: job(args, index, context))
    return args.out / TOKENIZER_FILE


if __name__ == "__main__":
    run(Args, main, "python -m world_model.train_tokenizer", resumes=RESUMES)
