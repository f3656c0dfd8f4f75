"""Tokens of whole scenes, read in order, several scenes side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from world_model.data.index import SceneIndex
from world_model.data.tokens import TokenCache
from world_model.models.tokenizer.tokenizer import Tokenizer


def encode_scenes(
    model: Tokenizer, index: SceneIndex, cache: TokenCache, scenes: Sequence[int], batch: int
) -> Iterator[int]:
    """Encode scenes and store their tokens.

    Args:
        model: the tokenizer, on the device to compute on.
        index: the data set.
        cache: where the tokens go.
        scenes: scene numbers.
        batch: scenes side by side.

    Yields:
        The number of frames stored, after every batch of scenes.
    """
    for begin in range(0, len(scenes), batch):
        group = scenes[begin : begin + batch]
        rows = {s: np.empty((len(index.frames(s)), *cache.meta["shape"][1:]), np.float32) for s in group}
        owner = {frame: (scene, i) for scene in group for i, frame in enumerate(index.frames(scene))}
        for frames, tokens in encode_side_by_side(model, index, group):
            for frame, token in zip(frames, tokens.float().cpu().numpy(), strict=True):
                scene, i = owner[frame]
                rows[scene][i] = token
        for scene in group:
            cache.write(scene, rows[scene])
        yield len(owner)


@torch.inference_mode()
def encode_side_by_side(
    model: Tokenizer, index: SceneIndex, scenes: Sequence[int]
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Encode scenes side by side, frame after frame.

    Yields:
        Frame numbers and their tokens (n, C, Xl, Yl), once per time step; scenes that have ended drop out.
    """
    scenes = sorted(scenes, key=lambda s: -len(index.frames(s)))
    device, memory = model.class_embeds.weight.device, model.empty_memory(len(scenes))

    def frames_at(step: int) -> list[int]:
        return [index.frames(s)[step] for s in scenes if step < len(index.frames(s))]

    def read(step: int) -> list[NDArray[Any]]:
        return [index.read_labels(f, model.config.grid.shape) for f in frames_at(step)]

    with ThreadPoolExecutor(max_workers=2) as pool:
        length = len(index.frames(scenes[0]))
        waiting = pool.submit(read, 0)
        for step in range(length):
            labels = torch.from_numpy(np.stack(waiting.result())).to(device)
            if step + 1 < length:
                waiting = pool.submit(read, step + 1)
            frames = frames_at(step)
            motion = [index.curr_to_prev(f) if step else np.eye(4) for f in frames]
            transforms = torch.from_numpy(np.stack(motion).astype(np.float32)).to(device)
            start = torch.full((len(frames),), step == 0, device=device)
            out = model.encode(labels, memory.index(slice(0, len(frames))), transforms, start)
            memory = out.memory
            yield frames, out.token
