"""Codes of whole data sets on disk, which the forecaster learns from: a `TokenCache` of two maps per frame.

The first map holds the codes of a frame. The second holds those of its labels moved into the next frame of the scene,
which the adapter looks at. Every second frame is decoded before it is moved, as it is in every step of a forecast but
the first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.errors import ConfigError
from world_model.core.geometry import invert_pose, warp_voxels
from world_model.data.index import SceneIndex
from world_model.data.tokens import TokenCache
from world_model.models.occworld.tokenizer import OccWorldTokenizer
from world_model.training.distributed import DistributedContext

MAPS = 2
MOST_CODES = 2048
"""Whole numbers that float16, the format of the cache, tells apart."""
FRAMES_AT_ONCE = 8


def moved_codes(vae: OccWorldTokenizer, labels: Tensor, curr_to_next: Tensor) -> Tensor:
    """Codes (B, h, w) of labels (B, X, Y, Z) moved into the next ego frame; what comes into view is free."""
    return vae.encode(warp_voxels(labels, invert_pose(curr_to_next), vae.config.grid))


def encode_scenes(
    vae: OccWorldTokenizer,
    index: SceneIndex,
    scenes: Sequence[int],
    folder: Path,
    tokens: str,
    context: DistributedContext,
) -> TokenCache:
    """Encode what is missing of some scenes, with progress; several processes deal them out.

    Args:
        vae: the tokenizer, on the device to compute on.
        index: the data set.
        scenes: their numbers.
        folder: of the cache; a killed run goes on with the scenes that are missing.
        tokens: hash of the tokenizer.
        context: this process.

    Raises:
        ConfigError: more codes than the cache can tell apart.
        DataError: labels are missing or damaged, or the folder belongs to other data.
    """
    if vae.config.codes > MOST_CODES:
        raise ConfigError(f"a tokenizer of {vae.config.codes} codes", f"at most {MOST_CODES}", "train a smaller one")
    shape = (MAPS, *vae.config.latent_shape)
    if context.first:
        TokenCache.create(folder, index, tokens, shape)
    context.barrier()
    cache = TokenCache.create(folder, index, tokens, shape)
    missing = sorted(set(scenes) - cache.done)
    # All have listed the missing scenes before the first one is filled in.
    context.barrier()
    own, begin = missing[context.rank :: context.world_size], time.perf_counter()
    for done, scene in enumerate(own, 1):
        cache.write(scene, _encode(vae, index, scene))
        if context.first and (done % 10 == 0 or done == len(own)):
            left = (time.perf_counter() - begin) / done * (len(own) - done) / 60
            print(f"codes of scene {done} of {len(own)}, {left:.1f} min left", flush=True)
    context.barrier()
    return cache


@torch.inference_mode()
def _encode(vae: OccWorldTokenizer, index: SceneIndex, scene: int) -> NDArray[Any]:
    """(n, 2, h, w) codes of the frames of a scene, and of their labels moved into the next frame."""
    device, grid = vae.class_embeds.weight.device, vae.config.grid
    frames, parts = index.frames(scene), []
    for begin in range(frames.start, frames.stop, FRAMES_AT_ONCE):
        numbers = range(begin, min(begin + FRAMES_AT_ONCE, frames.stop))
        labels = torch.from_numpy(np.stack([index.read_labels(f, grid.shape) for f in numbers])).to(device)
        codes = vae.encode(labels)
        labels[1::2] = vae.decode(vae.token(codes[1::2]))
        motion = torch.stack([motion_to_next(index, f, min(f + 1, frames.stop - 1)) for f in numbers])
        parts.append(torch.stack((codes, moved_codes(vae, labels, motion.float().to(device))), 1))
    found: NDArray[Any] = torch.cat(parts).cpu().numpy().astype(np.float32)
    return found


def motion_to_next(index: SceneIndex, frame: int, following: int) -> Tensor:
    """(4, 4) float64 ego frame of a keyframe -> that of the following one."""
    poses = torch.from_numpy(index.ego_to_global[[frame, following]])
    return invert_pose(poses[1]) @ poses[0]
