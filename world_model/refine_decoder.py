"""Refine a tokenizer's decoder on observed and forecast tokens: ``python -m world_model.refine_decoder``."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from world_model.checkpoints.checkpoint import (
    FORECASTER_FILE,
    TOKENIZER_FILE,
    config_to_json,
    load_forecaster,
    load_tokenizer,
    save_model,
)
from world_model.core.errors import IIWorldError
from world_model.core.files import atomic_write
from world_model.core.runtime import keep_memory
from world_model.data.index import SceneIndex
from world_model.data.tokens import TokenCache
from world_model.models.forecaster.decoder_refinement import RefinementConfig, RefinementTask
from world_model.training.distributed import Ranks, describe, join
from world_model.training.loop import TrainConfig, Trainer
from world_model.training.optim import OptimConfig
from world_model.training.precision import Precision


@dataclass(frozen=True, kw_only=True)
class Args:
    """Refine the decoder of a trained world: half of each batch comes from observed tokens, half from forecast ones.

    Frames are drawn so that every class of objects is seen equally often. Tokens, and so the forecaster, stay as they
    are. The result is OUT, a complete checkpoint. Optional; the published model has no such step.
    """

    index: Path
    """Index file that `world_model.prepare` wrote, or the folder it lies in."""
    tokens: Path
    """Token cache that `world_model.encode_tokens` wrote."""
    checkpoint: Path
    """Folder with the tokenizer and the forecaster."""
    out: Path
    """Folder for the refined checkpoint, the log and the file to resume from."""
    iterations: int = 600
    """Optimizer steps."""
    batch: int = 4
    """Grids of one pass in one process."""
    accumulate: int = 1
    """Add up the gradients of so many batches before a step: the same as a batch so many times larger."""
    group: int = 0
    """Grids scored together (the Lovasz loss couples them); 0: --batch. Keep it when you divide a batch otherwise."""
    rare_weight: float = RefinementConfig.rare_weight
    """Weight of a cross-entropy that lifts classes that are never predicted; it draws too much: refine again with 0."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    seed: int = 0
    """Fixes the draw of frames and voxels."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; under torchrun, auto gives each process its own GPU."""
    precision: Precision = "auto"
    """Of the decoder; auto is bfloat16 on GPUs that have it. All else is float32."""
    workers: int = 2
    """Threads of each process that read tokens and labels ahead; the order of the data does not depend on them."""
    save_every: int = 250
    """Iterations between checkpoints."""
    log_every: int = 25
    """Iterations between lines of progress."""
    split: str = "train"
    """Split to learn from."""


def main(args: Args) -> Path:
    """Refine, and return the folder of the checkpoint."""
    keep_memory()
    with join(args.device) as ranks:
        return _refine(args, ranks)


def _refine(args: Args, ranks: Ranks) -> Path:
    index = SceneIndex.load(args.index)
    tokenizer, card = load_tokenizer(args.checkpoint, ranks.device)
    forecaster, _ = load_forecaster(args.checkpoint, ranks.device)
    cache = TokenCache.load(args.tokens, index, args.split, card["tokens"])
    tokenizer.requires_grad_(False).decoder.requires_grad_(True)
    forecaster.requires_grad_(False)
    torch.manual_seed(args.seed)
    train = TrainConfig(
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
    config, share = RefinementConfig(rare_weight=args.rare_weight), train.share(ranks)
    task = RefinementTask(
        tokenizer,
        forecaster,
        index,
        cache,
        args.split,
        config,
        batch=share.batch,
        seed=args.seed,
        share=share,
        ranks=ranks,
        workers=args.workers,
    )
    identity = {
        "train": train.identity(share),
        "loss": config_to_json(config),
        "data": index.fingerprint,
        "tokens": card["tokens"],
        "split": args.split,
    }
    if ranks.first:
        print(
            f"decoder of {args.checkpoint}: {len(task.frames.groups)} groups of frames, "
            f"{args.iterations} iterations of {describe(share)}",
            flush=True,
        )
    trainer = Trainer(task, train, args.out, identity, ranks)
    trainer.run()
    if ranks.first:
        weights = {**tokenizer.state_dict(), **{f"decoder.{k}": v for k, v in trainer.average.weights.items()}}
        refined = {
            "iterations": args.iterations,
            "batch": share.batch,
            "rare_weight": args.rare_weight,
            "hours": round(trainer.seconds / 3600, 3),
        }
        own = {k: v for k, v in card.items() if k not in ("tokens", "weights")}
        before = own.get("decoder_refined", [])
        # Cards of version 0.1 hold a single refinement, not a list.
        history = [*(before if isinstance(before, list) else [before]), refined]
        save_model(args.out / TOKENIZER_FILE, tokenizer, weights, {**own, "decoder_refined": history})
        with (
            open(args.checkpoint / FORECASTER_FILE, "rb") as stream,
            atomic_write(args.out / FORECASTER_FILE) as target,
        ):
            shutil.copyfileobj(stream, target)
        again = f"refine again with --checkpoint {args.out} --rare-weight 0, or " if args.rare_weight else ""
        print(f"checkpoint: {args.out}\nnext: {again}python -m world_model.evaluate", flush=True)
    ranks.wait()
    return args.out


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, prog="python -m world_model.refine_decoder"))
    except IIWorldError as error:
        raise SystemExit(f"error: {error}") from error
