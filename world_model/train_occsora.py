"""Train OccSora on a prepared data set, one stage after the other: ``python -m world_model.train_occsora``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import torch
from torch import Tensor

from world_model.checkpoints.checkpoint import (
    SORA_TOKENIZER_FILE,
    SORA_TRANSFORMER_FILE,
    config_to_json,
    copy_model,
    save_model,
)
from world_model.checkpoints.occsora import load_sora_tokenizer, load_sora_transformer
from world_model.core.command import run
from world_model.core.errors import ConfigError, OptionError
from world_model.data.index import SceneIndex
from world_model.evaluation.held_out import HeldOut, filled, of_world
from world_model.models.occsora import PRESETS, SoraTokenizer, SoraTransformer
from world_model.models.occsora.training import SoraLossConfig, SoraTokenizerTask, SoraTransformerTask
from world_model.models.occsora.windows import encode_windows, window_starts
from world_model.training.command import RESUMES, Job, Preset, TrainArgs, count_parameters, train
from world_model.training.distributed import DistributedContext
from world_model.training.loop import TrainConfig
from world_model.training.optim import OptimConfig, iterations_of
from world_model.worlds.occsora import SoraWorld


@dataclass(frozen=True, kw_only=True)
class Args(TrainArgs):
    """Train OccSora on windows of 32 keyframes: first the 4D tokenizer, then the diffusion transformer on its latents.

    Runs resume by themselves: give the same command again. The first stage writes OUT/occsora_tokenizer.safetensors.
    The second encodes every window of the split once (OUT/latents) and writes OUT/occsora_transformer.safetensors with
    a copy of the tokenizer, for `gym.make(..., world="occsora", checkpoint=OUT)`.
    """

    stage: Literal["tokenizer", "transformer"] = "tokenizer"
    """What to train."""
    preset: Preset = "nano"
    """Sizes and recipe: base is the published model, nano runs on a CPU core."""
    tokenizer: Path | None = None
    """Tokenizer (file or folder) whose latents the transformer learns; for its stage only."""
    init: Path | None = None
    """Checkpoint (file or folder) of the stage to start from instead of random weights: to go on, or to adapt."""
    iterations: int = 0
    """Optimizer steps; 0 takes --epochs."""
    epochs: float = 0.0
    """Times that five windows of every scene are seen; 0 takes the preset's: 200 for the tokenizer of base (published);
    otherwise a number of iterations, 1.2 million for the transformer of base (published)."""
    batch: int = 0
    """Windows in one process; 0 takes the preset's: 1 for the tokenizer, 2 (base, published on 8 devices) or 8."""
    learning_rate: float = 0.0
    """Peak learning rate; 0 takes the preset's (base, published: 1e-3 and 1e-5)."""
    window_step: int = 0
    """The transformer learns every so-manieth window of a scene; 0 takes the preset's: 1 for base, else 4."""
    history: bool = False
    """Give the transformer the observed frame, carried along the trajectory (not published)."""
    half: bool = False
    """Store weights in float16: half the size."""
    loss: SoraLossConfig | None = None
    """What the tokenizer is trained for; None takes the preset's: base, published, compares every voxel."""


NANO_LOSS = SoraLossConfig(frames=2, voxels=16_000, rare_weight=2.0, revive_every=20, mirror=True)
WINDOWS_PER_SCENE = 5
"""Windows that an epoch takes of every scene, as published."""


def recipe(args: Args, scenes: int, processes: int = 1) -> TrainConfig:
    """Training configuration of a stage and a preset; "base" is the published recipe."""
    published, first = args.preset == "base", args.stage == "tokenizer"
    batch = args.batch or (1 if first else 2 if published else 8)
    if first:
        optim = OptimConfig(
            learning_rate=args.learning_rate or (1e-3 if published else 2e-3),
            schedule="long-cosine",
            clip_norm=35.0 if published else 5.0,
            warmup=200 if published else 50,
            ema=0.0 if published else 0.98,
        )
    else:
        # Published: constant rate, neither warm-up nor clipping.
        optim = OptimConfig(
            learning_rate=args.learning_rate or (1e-5 if published else 1e-3),
            schedule="step" if published else "cosine",
            decay_at=1.0,
            weight_decay=0.0,
            clip_norm=1e9 if published else 1.0,
            warmup=0 if published else 50,
            ema=0.9999 if published else 0.995,
        )
    otherwise = 2000 if first else 1_200_000 if published else 1200
    epochs = args.epochs or (200 if published and first else 0)
    step = batch * args.accumulate * processes
    return args.config(
        optim, iterations=iterations_of(epochs, WINDOWS_PER_SCENE * scenes, step, otherwise), batch=batch
    )


def job(args: Args, index: SceneIndex, context: DistributedContext) -> Job:
    """Model, data and recipe of a stage."""
    if args.stage == "tokenizer":
        if args.tokenizer is not None or args.history:
            raise OptionError(
                "--tokenizer or --history in the tokenizer's stage", "--stage transformer", "leave it out"
            )
        return tokenizer_job(args, index, context)
    if args.tokenizer is None:
        raise OptionError(
            "--stage transformer without a tokenizer", "--tokenizer FILE_OR_FOLDER", "train --stage tokenizer first"
        )
    return transformer_job(args, index, context)


def tokenizer_job(args: Args, index: SceneIndex, context: DistributedContext) -> Job:
    """The first stage."""
    torch.manual_seed(args.seed)
    origin: dict[str, str] = {}
    if args.init is None:
        model = SoraTokenizer(PRESETS[args.preset]()[0]).to(context.device)
    else:
        model, before = load_sora_tokenizer(args.init, context.device)
        model.train()
        origin = {"init": before["weights"]}
    scenes = len(window_starts(index, args.split, model.config.frames))
    config = recipe(args, scenes, context.world_size)
    loss = args.loss or (SoraLossConfig() if args.preset == "base" else NANO_LOSS)
    task = SoraTokenizerTask(
        model,
        index,
        args.split,
        loss,
        seed=args.seed,
        shard=config.shard(context),
        context=context,
        workers=args.workers,
    )
    return Job(
        task=task,
        config=config,
        identity={"model": config_to_json(model.config), "loss": config_to_json(loss), **origin},
        title=(
            f"OccSora's tokenizer, {args.preset}: {count_parameters(model)} on {context.device}; windows of "
            f"{model.config.frames} frames in {scenes} {index.source} scenes"
        ),
        write=lambda weights, card: save_model(args.out / SORA_TOKENIZER_FILE, model, stored(args, weights), card),
        card={"preset": args.preset, **origin},
        following=f"python -m world_model.train_occsora --stage transformer --tokenizer {quote(str(args.out))}",
    )


def transformer_job(args: Args, index: SceneIndex, context: DistributedContext) -> Job:
    """The second stage: encodes the windows that are not encoded yet, then trains."""
    assert args.tokenizer is not None
    tokenizer, card = load_sora_tokenizer(args.tokenizer, context.device)
    sizes = replace(PRESETS[args.preset]()[1], history=args.history)
    if not sizes.fits(tokenizer.config):
        raise ConfigError(
            f"a transformer for latents {sizes.latent_shape} of {sizes.frames} frames, a tokenizer of "
            f"{tokenizer.config.latent_shape} and {tokenizer.config.frames}",
            "the same preset in both stages",
            "give the --preset that the tokenizer was trained with",
        )
    published = args.preset == "base"
    every = args.window_step or (1 if published else 4)
    cache = encode_windows(
        tokenizer, card["weights"], index, args.split, args.out / "latents", context,
        step=every, mirror=not published, history=args.history,
    )  # fmt: skip
    if not published:
        sizes = replace(sizes, latent_scale=round(cache.spread(), 4))
    torch.manual_seed(args.seed)
    model, origin = SoraTransformer(sizes).to(context.device), dict[str, str]()
    if args.init is not None:
        known, before = load_sora_transformer(args.init, context.device)
        sizes = replace(known.config, history=args.history)
        model = SoraTransformer(sizes).to(context.device)
        model.load_state_dict(known.state_dict(), strict=known.config.history == args.history)
        origin = {"init": before["weights"]}
    config = recipe(args, len(cache.scenes), context.world_size)
    task = SoraTransformerTask(
        model, index, cache, seed=args.seed, shard=config.shard(context), context=context, workers=args.workers
    )

    def write(weights: dict[str, Tensor], own: dict[str, Any]) -> Path:
        own = {**own, "tokens": card["weights"]}
        save_model(args.out / SORA_TRANSFORMER_FILE, model, stored(args, weights), own)
        copy_model(args.tokenizer or args.out, args.out, SORA_TOKENIZER_FILE)
        return args.out

    look = None
    if args.held_out_every:
        look = HeldOut(
            index,
            args.held_out_split,
            args.held_out,
            lambda weights: of_world(SoraWorld(tokenizer, filled(model, weights))),
        )
    return Job(
        task=task,
        look=look,
        config=config,
        identity={"model": config_to_json(model.config), "tokenizer": card["weights"], "window_step": every, **origin},
        title=(
            f"OccSora's transformer, {args.preset}: {count_parameters(model)} on {context.device}; "
            f"{len(task.rows)} {index.source} windows"
        ),
        write=write,
        card={"preset": args.preset, "history": args.history, **origin},
        following=f"python -m world_model.evaluate --world occsora --checkpoint {quote(str(args.out))}",
    )


def stored(args: Args, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are written."""
    if not args.half:
        return weights
    return {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}


def main(args: Args) -> Path:
    """Train a stage, and return the folder of the checkpoint."""
    train(args, lambda index, context: job(args, index, context))
    return args.out


if __name__ == "__main__":
    run(Args, main, "python -m world_model.train_occsora", resumes=RESUMES)
