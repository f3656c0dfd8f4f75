"""Train the geometry-first forecaster on labels: ``python -m world_model.train_geometric``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from world_model.checkpoints.checkpoint import GEOMETRIC_FILE, config_to_json, load_geometric, save_model
from world_model.core.errors import IIWorldError
from world_model.core.runtime import keep_memory
from world_model.data.index import SceneIndex
from world_model.models.geometric import PRESETS, GeometricForecaster
from world_model.models.geometric.training import GeometricLossConfig, GeometricTask, Learn
from world_model.training.distributed import Ranks, describe, join
from world_model.training.loop import TrainConfig, Trainer
from world_model.training.optim import OptimConfig
from world_model.training.precision import Precision


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train the geometry-first forecaster on the labels of a prepared data set.

    It needs no tokenizer and no tokens: what was observed is moved, and the network learns how far to believe it, how
    fast things move (from the boxes of the data set), and what comes into view. Runs resume by themselves: give the
    same command again. The result is OUT/geometric.safetensors, for `gym.make(..., world="geometric", checkpoint=OUT)`.
    """

    index: Path
    """Index file that `world_model.prepare` wrote, or the folder it lies in."""
    out: Path
    """Folder for the checkpoint, the log and the file to resume from."""
    preset: Literal["base", "nano", "tiny"] = "nano"
    """Sizes: nano runs on two CPU cores, base wants a GPU. With --init, the checkpoint's own count."""
    init: Path | None = None
    """Checkpoint (file or folder) to start from instead of random weights: to go on, or to adapt to other data."""
    learn: Learn = "all"
    """Both networks, or only velocities (motion: four times as fast), or only the forecast given them (fusion)."""
    iterations: int = 3000
    """Optimizer steps."""
    batch: int = 2
    """Samples of one forward and backward pass in one process."""
    accumulate: int = 1
    """Passes whose gradients are added up before a step."""
    group: int = 0
    """Samples that the losses look at together; 0: batch."""
    seed: int = 0
    """Fixes weights, order and sampling."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Precision = "auto"
    """Of the convolution layers; auto is bfloat16 on GPUs that have it. All else is float32."""
    workers: int = 2
    """Threads of each process that read labels ahead; the order of the data does not depend on them."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    save_every: int = 250
    """Iterations between checkpoints."""
    log_every: int = 25
    """Iterations between lines of progress."""
    split: str = "train"
    """Split to train on."""


def recipe(args: Args) -> TrainConfig:
    """Training configuration."""
    return TrainConfig(
        iterations=args.iterations,
        batch=args.batch,
        accumulate=args.accumulate,
        group=args.group,
        seed=args.seed,
        save_every=args.save_every,
        log_every=args.log_every,
        precision=args.precision,
        optim=OptimConfig(learning_rate=args.learning_rate, schedule="cosine", warmup=50, ema=0.99),
    )


def main(args: Args) -> Path:
    """Train, and return the folder of the checkpoint."""
    keep_memory()
    with join(args.device) as ranks:
        return _train(args, ranks)


def _model(args: Args, ranks: Ranks) -> tuple[GeometricForecaster, dict[str, str]]:
    """The model to train, and the hash of the weights that it starts from, if any."""
    if args.init is None:
        return GeometricForecaster(PRESETS[args.preset]()).to(ranks.device), {}
    model, card = load_geometric(args.init, ranks.device)
    return model.train(), {"init": card["weights"]}


def _train(args: Args, ranks: Ranks) -> Path:
    index = SceneIndex.load(args.index)
    torch.manual_seed(args.seed)
    model, origin = _model(args, ranks)
    train, loss = recipe(args), GeometricLossConfig(learn=args.learn)
    share = train.share(ranks)
    task = GeometricTask(
        model,
        index,
        args.split,
        loss,
        batch=share.batch,
        seed=args.seed,
        share=share,
        ranks=ranks,
        workers=args.workers,
    )
    identity: dict[str, Any] = {
        "model": config_to_json(model.config),
        "train": train.identity(share),
        "loss": config_to_json(loss),
        "data": index.fingerprint,
        "split": args.split,
        **origin,
    }
    if ranks.first:
        size = sum(p.numel() for p in model.parameters())
        print(
            f"geometric {args.init or args.preset}: {size:,} parameters on {ranks.device}, learning {args.learn}; "
            f"{len(task.moments)} {index.source} moments, {train.iterations} iterations of {describe(share)}",
            flush=True,
        )
    trainer = Trainer(task, train, args.out, identity, ranks)
    trainer.run()
    if ranks.first:
        card = {
            "data": index.fingerprint,
            "data_source": index.source,
            "preset": args.preset,
            **origin,
            **trainer.card(),
        }
        save_model(args.out / GEOMETRIC_FILE, model, trainer.average.weights, card)
        print(
            f"checkpoint: {args.out / GEOMETRIC_FILE}\nlog: {args.out / 'log.csv'}\n"
            f"next: python -m world_model.evaluate --world geometric --checkpoint {args.out}",
            flush=True,
        )
    ranks.wait()
    return args.out


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, prog="python -m world_model.train_geometric"))
    except IIWorldError as error:
        raise SystemExit(f"error: {error}") from error
