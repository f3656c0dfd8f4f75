"""Encode every frame of a data set into tokens: ``python -m world_model.encode_tokens``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from world_model.checkpoints.checkpoint import load_tokenizer
from world_model.core.errors import IIWorldError
from world_model.core.runtime import keep_memory
from world_model.data.index import SceneIndex
from world_model.data.tokens import TokenCache
from world_model.models.tokenizer import Tokenizer
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


@torch.inference_mode()
def encode_scenes(
    model: Tokenizer, index: SceneIndex, scenes: list[int], device: torch.device
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Encode scenes side by side, frame after frame.

    Yields:
        Frame numbers and their tokens (n, C, Xl, Yl), once per time step; scenes that have ended drop out.
    """
    scenes = sorted(scenes, key=lambda s: -len(index.frames(s)))
    memory = model.empty_memory(len(scenes))
    with ThreadPoolExecutor(max_workers=2) as pool:

        def read(step: int) -> list[NDArray[Any]]:
            frames = [index.frames(s)[step] for s in scenes if step < len(index.frames(s))]
            return [index.read_labels(f, model.config.grid.shape) for f in frames]

        length = len(index.frames(scenes[0]))
        waiting = pool.submit(read, 0)
        for step in range(length):
            labels = torch.from_numpy(np.stack(waiting.result())).to(device)
            if step + 1 < length:
                waiting = pool.submit(read, step + 1)
            frames = [index.frames(s)[step] for s in scenes if step < len(index.frames(s))]
            motion = [index.curr_to_prev(f) if step else np.eye(4) for f in frames]
            transforms = torch.from_numpy(np.stack(motion).astype(np.float32)).to(device)
            start = torch.full((len(frames),), step == 0, device=device)
            out = model.encode(labels, memory.index(slice(0, len(frames))), transforms, start)
            memory = out.memory
            yield frames, out.token


def main(args: Args) -> Path:
    """Encode, and return the folder of the cache."""
    keep_memory()
    with join(args.device) as context:
        return _encode(args, context)


def _encode(args: Args, context: DistributedContext) -> Path:
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
    for first in range(0, len(own), args.batch):
        group = own[first : first + args.batch]
        count += _encode_group(model, index, cache, group, context.device)
        pace = count / (time.perf_counter() - begin)
        if context.first:
            where = f" in this process of {context.world_size}" if context.world_size > 1 else ""
            left = f"{(total - count) / pace / 60:.1f} min left"
            print(f"[{count}/{total}]{where} {pace:.1f} frames/s, {left}", flush=True)
    context.barrier()
    if context.first:
        print(
            f"tokens: {args.out} ({len(cache.done)} scenes)\nnext: python -m world_model.train_forecaster", flush=True
        )
    return args.out


def _encode_group(
    model: Tokenizer, index: SceneIndex, cache: TokenCache, scenes: list[int], device: torch.device
) -> int:
    """Encode scenes side by side and store each of them; the number of frames."""
    rows = {s: np.empty((len(index.frames(s)), *cache.meta["shape"][1:]), np.float32) for s in scenes}
    owner = {frame: (scene, i) for scene in scenes for i, frame in enumerate(index.frames(scene))}
    for frames, tokens in encode_scenes(model, index, scenes, device):
        for frame, token in zip(frames, tokens.float().cpu().numpy(), strict=True):
            scene, i = owner[frame]
            rows[scene][i] = token
    for scene in scenes:
        cache.write(scene, rows[scene])
    return len(owner)


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, prog="python -m world_model.encode_tokens"))
    except IIWorldError as error:
        raise SystemExit(f"error: {error}") from error
