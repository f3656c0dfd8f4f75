"""Encode every frame of a data set into tokens: ``python -m world_model.encode_tokens``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from world_model.checkpoints.checkpoint import load_tokenizer
from world_model.core.command import run
from world_model.core.files import check_writable
from world_model.core.runtime import keep_memory
from world_model.data.index import SceneIndex
from world_model.data.tokens import TokenCache
from world_model.models.tokenizer.encoding import encode_scenes
from world_model.training.distributed import DistributedContext, join


@dataclass(frozen=True, kw_only=True)
class Args:
    """Run a trained tokenizer over whole scenes and store the tokens that the forecaster learns from.

    Scenes are read in order, several side by side; the memory is reset with every scene. A killed run continues
    with the scenes that are missing. Several GPUs: `torchrun --nproc-per-node 8 -m world_model.encode_tokens ...`
    deals the scenes out.
    """

    index: Path
    """Index file that `world_model.prepare` wrote, or the folder it lies in."""
    tokenizer: Path
    """tokenizer.safetensors, or the folder it lies in."""
    out: Path
    """Folder for the token cache (float16; nano takes 0.32 MB a frame, base 0.64 MB)."""
    split: str = "all"
    """train, val or all."""
    batch: int = 4
    """Scenes side by side."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


def main(args: Args) -> Path:
    """Encode, and return the folder of the cache."""
    keep_memory()
    with join(args.device) as context:
        return _encode(args, context)


def _encode(args: Args, context: DistributedContext) -> Path:
    check_writable(args.out)
    index = SceneIndex.load(args.index)
    model, card = load_tokenizer(args.tokenizer, context.device)
    shape = (model.config.latent, *model.config.latent_shape)
    if context.first:
        TokenCache.create(args.out, index, card["tokens"], shape)
    context.barrier()
    cache = TokenCache.create(args.out, index, card["tokens"], shape)
    missing = sorted(set(index.scenes(args.split)) - cache.done)
    # All have listed the missing scenes before the first one is filled in.
    context.barrier()
    own = missing[context.rank :: context.world_size]
    total, count, begin = sum(len(index.frames(s)) for s in own), 0, time.perf_counter()
    where = f" in this process of {context.world_size}" if context.world_size > 1 else ""
    for done in encode_scenes(model, index, cache, own, args.batch):
        count += done
        pace = count / (time.perf_counter() - begin)
        if context.first:
            left = f"{(total - count) / pace / 60:.1f} min left"
            print(f"[{count}/{total}]{where} {pace:.1f} frames/s, {left}", flush=True)
    context.barrier()
    if context.first:
        following = "next: python -m world_model.train_forecaster"
        print(f"tokens: {args.out} ({len(cache.done)} scenes)\n{following}", flush=True)
    return args.out


if __name__ == "__main__":
    run(
        Args,
        main,
        "python -m world_model.encode_tokens",
        resumes="finished scenes are kept; the same command encodes the rest",
    )
