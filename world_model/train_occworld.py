"""Train OccWorld, stage by stage: ``python -m world_model.train_occworld --stage tokenizer``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from world_model.checkpoints.checkpoint import (
    OCCWORLD_FILE,
    OCCWORLD_TOKENIZER_FILE,
    config_to_json,
    load_tokenizer,
    save_model,
)
from world_model.checkpoints.occworld import load_occworld, load_occworld_tokenizer
from world_model.core.command import run
from world_model.core.errors import OptionError
from world_model.data.index import SceneIndex
from world_model.evaluation.held_out import Forecast, HeldOut, filled, of_world
from world_model.evaluation.windows import spread
from world_model.models.occworld import PRESETS, OccWorld, OccWorldConfig, OccWorldTokenizer
from world_model.models.occworld.config import CONDITIONED, FAITHFUL
from world_model.models.occworld.encoding import encode_scenes
from world_model.models.occworld.inherit import inherit
from world_model.models.occworld.training import ForecasterTask, OccWorldLossConfig, TokenizerTask
from world_model.training.command import RESUMES, Job, Preset, TrainArgs, count_parameters, train
from world_model.training.distributed import DistributedContext
from world_model.training.loop import TrainConfig
from world_model.training.optim import OptimConfig, iterations_of
from world_model.worlds.occworld import OccWorldWorld

INHERIT_FRAMES = 32
"""Frames on which a tokenizer is fitted to the one that it starts from."""
SCENE_VISITS = 5
"""Windows that are drawn of every scene in one published epoch."""


@dataclass(frozen=True, kw_only=True)
class Args(TrainArgs):
    """Train OccWorld on the training split of a prepared data set, in two stages and one more.

    First the tokenizer (labels <-> codes), then the forecaster on its codes: both as published, with a forecast that
    does not answer the ego's action. The third stage adds an adapter, trained beside the frozen model, with which it
    does. Runs resume by themselves: give the same command again. The result is OUT/occworld_tokenizer.safetensors, then
    OUT/occworld.safetensors, for `gym.make(..., world="occworld", checkpoint=OUT)`.
    """

    stage: Literal["tokenizer", "forecaster", "adapter"] = "tokenizer"
    """What to train."""
    init: Path | None = None
    """For the forecaster: the tokenizer (file or folder). For the adapter: the OccWorld that gets it. For the tokenizer
    (optional): a trained II-Tokenizer of this package, whose encoder and decoder it starts from."""
    preset: Preset = "nano"
    """Sizes: base is the published model, nano runs on two CPU cores. With --stage adapter, those of --init count."""
    iterations: int = 0
    """Optimizer steps; 0 takes --epochs."""
    epochs: float = 0.0
    """Epochs of five windows a scene; 0 takes the preset's: 200 for base (published), else 2,000 iterations."""
    batch: int = 0
    """Windows of one pass in one process; 0 takes the preset's: 1 for base (published, on 8 devices), else 4."""
    learning_rate: float = 0.0
    """Peak learning rate; 0 takes 1e-3."""
    width: int = 32
    """Width of the adapter."""
    voxels: int = -1
    """Voxels per grid in the tokenizer's loss; 0 all, -1 the preset's (base all, nano 24000)."""
    scenes: int = 0
    """Learn from so many scenes of the split, evenly spread; 0: all."""
    half: bool = False
    """Store the weights in float16: half the file."""


def recipe(args: Args, scenes: int, processes: int = 1) -> tuple[TrainConfig, OccWorldLossConfig]:
    """Training and loss configuration of a preset; "base" is the published recipe."""
    published = args.preset == "base"
    batch, tokenizer = args.batch or (1 if published else 4), args.stage == "tokenizer"
    optim = OptimConfig(
        learning_rate=args.learning_rate or 1e-3,
        clip_norm=35.0,
        schedule="long-cosine",
        warmup=200 if tokenizer and published else 50,
        ema=0.0 if published else 0.99,
    )
    epochs = args.epochs or (200 if published else 0)
    iterations = iterations_of(epochs, SCENE_VISITS * scenes, batch * args.accumulate * processes, 2000)
    voxels = args.voxels if args.voxels >= 0 else (0 if published else 24_000)
    loss = OccWorldLossConfig(
        frames=10 if published else 1,
        voxels=voxels,
        rare_weight=2.0 if voxels and not published else 0.0,
        revive_every=0 if published else 20,
    )
    return args.config(optim, iterations=iterations, batch=batch), loss


def job(args: Args, index: SceneIndex, context: DistributedContext) -> Job:
    """Model, data and recipe of a run."""
    torch.manual_seed(args.seed)
    scenes = spread(index.scenes(args.split), args.scenes or None)
    config, loss = recipe(args, len(scenes), context.world_size)
    shard = config.shard(context)
    rest: dict[str, Any] = {"seed": args.seed, "shard": shard, "context": context, "workers": args.workers}
    model: nn.Module
    origin: dict[str, Any] = {}
    if args.stage == "tokenizer":
        model, origin = _tokenizer(args, index, context)
        task: Any = TokenizerTask(model, index, scenes, loss, **rest)
        name, following = (
            OCCWORLD_TOKENIZER_FILE,
            f"python -m world_model.train_occworld --stage forecaster --init {quote(str(args.out))}",
        )
    else:
        model, tokens, origin = _whole(args, context)
        cache = encode_scenes(model.vae, index, scenes, args.out / "codes", tokens, context)
        task = ForecasterTask(model, index, cache, scenes, loss, adapter=args.stage == "adapter", **rest)
        name, following = (
            OCCWORLD_FILE,
            f"python -m world_model.evaluate --world occworld --checkpoint {quote(str(args.out))}",
        )

    mode = getattr(model.config, "mode", FAITHFUL)
    look = None
    if args.held_out_every:
        look = HeldOut(index, args.held_out_split, args.held_out, lambda weights: _forecast(filled(model, weights)))

    def write(weights: dict[str, Tensor], card: dict[str, Any]) -> Path:
        kept = {k: v.half() if args.half else v for k, v in weights.items()}
        save_model(args.out / name, model, kept, card)
        return args.out

    return Job(
        task=task,
        look=look,
        config=config,
        identity={
            "model": config_to_json(model.config),
            "loss": config_to_json(loss),
            "stage": args.stage,
            "scenes": len(scenes),
            **origin,
        },
        title=(
            f"OccWorld {args.stage} {args.preset}: {count_parameters(model)} on {context.device}; "
            f"{len(task.windows)} {index.source} windows"
        ),
        write=write,
        card={"preset": args.preset, "stage": args.stage, "scenes": len(scenes), "mode": mode, **origin},
        following=following,
    )


def _forecast(model: OccWorldTokenizer | OccWorld) -> Forecast:
    """What a look shows: the reconstruction of the current frame, or the forecast along the recorded motion."""
    if isinstance(model, OccWorld):
        return of_world(OccWorldWorld(model))
    device = model.class_embeds.weight.device
    return lambda clips: {0: model.decode(model.token(model.encode(clips.occupancy[:, -1].to(device))))}


def _tokenizer(args: Args, index: SceneIndex, context: DistributedContext) -> tuple[OccWorldTokenizer, dict[str, Any]]:
    """The model of the first stage, and where it starts from."""
    model = OccWorldTokenizer(PRESETS[args.preset]().codec)
    if args.init is None:
        if args.preset != "base":
            model.expect_free_space()
        return model.to(context.device), {}
    source, card = load_tokenizer(args.init)
    frames = np.concatenate([index.frames(scene) for scene in index.scenes(args.split)])
    chosen = frames[np.linspace(0, len(frames) - 1, INHERIT_FRAMES).astype(int)]
    labels = np.stack([index.read_labels(int(frame), model.config.grid.shape) for frame in chosen])
    inherit(model, source, torch.from_numpy(labels))
    return model.to(context.device), {"init": card["weights"]}


def _whole(args: Args, context: DistributedContext) -> tuple[OccWorld, str, dict[str, Any]]:
    """The model of the second or third stage, the hash of its tokenizer, and where it starts from."""
    if args.init is None:
        raise OptionError(
            f"--stage {args.stage} without --init",
            "the result of the stage before: a forecaster learns the codes of a trained tokenizer, an adapter stands "
            "beside a trained forecaster",
            "give --init FOLDER",
        )
    if args.stage == "forecaster":
        vae, card = load_occworld_tokenizer(args.init, context.device)
        config: OccWorldConfig = PRESETS[args.preset]()
        if config.codec != vae.config:
            raise OptionError(
                f"--preset {args.preset} with a tokenizer of {vae.config}", f"{config.codec}", "give the same --preset"
            )
    else:
        known, card = load_occworld(args.init, context.device)
        config = replace(known.config, adapter=args.width, mode=CONDITIONED)
    model = OccWorld(config).to(context.device)
    state = model.state_dict()
    given = known.state_dict() if args.stage == "adapter" else {f"vae.{k}": v for k, v in vae.state_dict().items()}
    model.load_state_dict({**state, **{k: v for k, v in given.items() if not k.startswith("adapter.")}})
    return model, card["tokens"], {"init": card["weights"]}


def main(args: Args) -> Path:
    """Train, and return the folder of the checkpoint."""
    train(args, lambda index, context: job(args, index, context))
    return args.out


if __name__ == "__main__":
    run(Args, main, "python -m world_model.train_occworld", resumes=RESUMES)
