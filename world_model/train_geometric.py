"""Train the geometry-first forecaster on labels: ``python -m world_model.train_geometric``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import torch

from world_model.checkpoints.checkpoint import GEOMETRIC_FILE, config_to_json, load_geometric, save_model
from world_model.core.command import run
from world_model.data.index import SceneIndex
from world_model.evaluation.held_out import HeldOut, filled, of_world
from world_model.models.geometric import PRESETS, GeometricForecaster
from world_model.models.geometric.training import GeometricLossConfig, GeometricTask, Learn
from world_model.training.command import RESUMES, Job, Preset, TrainArgs, count_parameters, train
from world_model.training.distributed import DistributedContext
from world_model.training.optim import OptimConfig
from world_model.worlds.geometric import GeometricWorld


@dataclass(frozen=True, kw_only=True)
class Args(TrainArgs):
    """Train the geometry-first forecaster on the labels of a prepared data set.

    It needs no tokenizer and no tokens: what was observed is moved, and the network learns how far to believe it, how
    fast things move (from the boxes of the data set), and what comes into view. Runs resume by themselves: give the
    same command again. The result is OUT/geometric.safetensors, for `gym.make(..., world="geometric", checkpoint=OUT)`.
    """

    preset: Preset = "nano"
    """Sizes: nano runs on two CPU cores, base wants a GPU. With --init, the checkpoint's own count."""
    also: tuple[Path, ...] = ()
    """Further prepared data sets whose split is learned from as well."""
    init: Path | None = None
    """Checkpoint (file or folder) to start from instead of random weights: to go on, or to adapt to other data."""
    learn: Learn = "all"
    """Both networks, or only velocities (motion: four times as fast), or only the forecast given them (fusion)."""
    iterations: int = 3000
    """Optimizer steps."""
    batch: int = 2
    """Samples of one forward and backward pass in one process."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    styled: float = 1.0
    """Share of the samples that are drawn in the style of another label maker, on ground of another shape; 0: none."""
    whole: float = 0.0
    """Share of the samples whose movers are followed as whole bodies, as in every traffic but constant-velocity."""


def job(args: Args, index: SceneIndex, context: DistributedContext) -> Job:
    """Model, data and recipe of a run; where it starts from a checkpoint, that one's hash belongs to the run."""
    torch.manual_seed(args.seed)
    origin: dict[str, str] = {}
    if args.init is None:
        model = GeometricForecaster(PRESETS[args.preset]()).to(context.device)
    else:
        model, card = load_geometric(args.init, context.device)
        model.train()
        origin = {"init": card["weights"]}
    optim = OptimConfig(learning_rate=args.learning_rate, schedule="cosine", warmup=50, ema=0.99)
    config = args.config(optim)
    loss = GeometricLossConfig(learn=args.learn, styled_ratio=args.styled, whole_ratio=args.whole)
    shard = config.shard(context)
    indexes = [index, *(SceneIndex.load(path) for path in args.also)]
    if args.also:
        origin["also"] = ", ".join(each.fingerprint for each in indexes[1:])
    task = GeometricTask(
        model, indexes, args.split, loss, seed=args.seed, shard=shard, context=context, workers=args.workers
    )
    look = None
    if args.held_out_every:
        look = HeldOut(
            index, args.held_out_split, args.held_out, lambda weights: of_world(GeometricWorld(filled(model, weights)))
        )
    return Job(
        task=task,
        look=look,
        config=config,
        identity={"model": config_to_json(model.config), "loss": config_to_json(loss), **origin},
        title=(
            f"geometric {args.init or args.preset}: {count_parameters(model)} on {context.device}, learning "
            f"{args.learn}; {len(task.moments)} {index.source} moments"
        ),
        write=lambda weights, card: save_model(args.out / GEOMETRIC_FILE, model, weights, card),
        card={"preset": args.preset, **origin},
        following=f"python -m world_model.evaluate --world geometric --checkpoint {quote(str(args.out))}",
    )


def main(args: Args) -> Path:
    """Train, and return the folder of the checkpoint."""
    train(args, lambda index, context: job(args, index, context))
    return args.out


if __name__ == "__main__":
    run(Args, main, "python -m world_model.train_geometric", resumes=RESUMES)
