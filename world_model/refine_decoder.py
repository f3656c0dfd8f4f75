"""Refine a tokenizer's decoder on observed and forecast tokens: ``python -m world_model.refine_decoder``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import Tensor

from world_model.checkpoints.checkpoint import (
    FORECASTER_FILE,
    TOKENIZER_FILE,
    config_to_json,
    copy_model,
    load_forecaster,
    load_tokenizer,
    save_model,
)
from world_model.core.command import run
from world_model.data.index import SceneIndex
from world_model.data.tokens import TokenCache
from world_model.evaluation.held_out import HeldOut, filled, of_world
from world_model.models.forecaster.decoder_refinement import RefinementConfig, RefinementTask
from world_model.training.command import RESUMES, Job, TrainArgs, train
from world_model.training.distributed import DistributedContext
from world_model.training.optim import OptimConfig
from world_model.worlds.token import TokenWorld


@dataclass(frozen=True, kw_only=True)
class Args(TrainArgs):
    """Refine the decoder of a trained world: half of each batch comes from observed tokens, half from forecast ones.

    Frames are drawn so that every class of objects is seen equally often. Tokens, and so the forecaster, stay as they
    are. The result is OUT, a complete checkpoint. Optional; the published model has no such step.
    """

    tokens: Path
    """Token cache that `world_model.encode_tokens` wrote."""
    checkpoint: Path
    """Folder with the tokenizer and the forecaster."""
    iterations: int = 600
    """Optimizer steps."""
    batch: int = 4
    """Grids of one pass in one process."""
    rare_weight: float = RefinementConfig.rare_weight
    """Weight of a cross-entropy that lifts classes that are never predicted; it draws too much: refine again with 0."""
    learning_rate: float = 1e-3
    """Peak learning rate."""


def job(args: Args, index: SceneIndex, context: DistributedContext) -> Job:
    """Model, data and recipe of a run."""
    tokenizer, before = load_tokenizer(args.checkpoint, context.device)
    forecaster, _ = load_forecaster(args.checkpoint, context.device)
    cache = TokenCache.load(args.tokens, index, args.split, before["tokens"])
    tokenizer.requires_grad_(False).decoder.requires_grad_(True)
    forecaster.requires_grad_(False)
    torch.manual_seed(args.seed)
    config = args.config(OptimConfig(learning_rate=args.learning_rate, schedule="cosine", warmup=50, ema=0.99))
    loss = RefinementConfig(rare_weight=args.rare_weight)
    task = RefinementTask(
        tokenizer,
        forecaster,
        index,
        cache,
        args.split,
        loss,
        seed=args.seed,
        shard=config.shard(context),
        context=context,
        workers=args.workers,
    )

    def refined_weights(decoder: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**tokenizer.state_dict(), **{f"decoder.{k}": v for k, v in decoder.items()}}

    def write(decoder: dict[str, Tensor], card: dict[str, Any]) -> Path:
        weights = refined_weights(decoder)
        refined = {k: card[k] for k in ("iterations", "batch")} | {"rare_weight": args.rare_weight}
        earlier = before.get("decoder_refined", [])
        # Cards of version 0.1 hold a single refinement, not a list.
        history = [*(earlier if isinstance(earlier, list) else [earlier]), {**refined, "hours": card["hours"]}]
        kept = {k: v for k, v in before.items() if k not in ("tokens", "weights")}
        save_model(args.out / TOKENIZER_FILE, tokenizer, weights, {**kept, "decoder_refined": history})
        copy_model(args.checkpoint, args.out, FORECASTER_FILE)
        return args.out

    again = f"refine again with --checkpoint {quote(str(args.out))} --rare-weight 0, or " if args.rare_weight else ""
    look = None
    if args.held_out_every:
        look = HeldOut(
            index,
            args.held_out_split,
            args.held_out,
            lambda decoder: of_world(TokenWorld(filled(tokenizer, refined_weights(decoder)), forecaster)),
        )
    return Job(
        task=task,
        look=look,
        config=config,
        identity={"loss": config_to_json(loss), "tokens": before["tokens"]},
        title=f"decoder of {args.checkpoint}: {len(task.frames.groups)} groups of frames",
        write=write,
        following=f"{again}python -m world_model.evaluate",
    )


def main(args: Args) -> Path:
    """Refine, and return the folder of the checkpoint."""
    train(args, lambda index, context: job(args, index, context))
    return args.out


if __name__ == "__main__":
    run(Args, main, "python -m world_model.refine_decoder", resumes=RESUMES)
