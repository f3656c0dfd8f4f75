"""Run the tokenizer along scenes, as a running vehicle would: every frame once, with the memory of those before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from world_model.core.geometry import invert_pose
from world_model.data.index import SceneIndex
from world_model.evaluation.forecasting.scene_data import SceneData
from world_model.models.tokenizer import Tokenizer
from world_model.models.tokenizer.memory import align, remember
from world_model.rollouts import fixed_slots


def with_tokens(tokenizer: Tokenizer, scene: SceneData, slots: int = 1) -> SceneData:
    """The scene with the token maps of all its labelled frames.

    Only the memory goes from frame to frame: encoder and quantizer see ``slots`` frames side by side. A frame without
    labels is passed over: the memory stays in the frame of the last one that had some.
    """
    weight, frames, count = tokenizer.vq.embedding.weight, scene.labelled, len(scene.labelled)
    batches = list(fixed_slots(range(count), slots))
    latents = torch.cat([tokenizer.latents(_labels(scene, rows).to(weight.device))[real] for rows, real in batches])
    histories, memory = [], tokenizer.empty_memory(1)
    for n, now in enumerate(frames):
        latent, start = latents[n : n + 1], torch.tensor([n == 0], device=weight.device)
        move = _to_earlier(scene, frames[max(n - 1, 0)], now)[None].float().to(weight.device)
        histories.append(align(memory, latent, move, start, tokenizer.config))
        memory = remember(memory, histories[-1], latent, start, None, tokenizer.config.faithful)
    history = torch.cat(histories)
    found = torch.cat([tokenizer.vq(latents[rows], history[rows]).token[real] for rows, real in batches])
    tokens = torch.zeros(len(scene.poses), *found.shape[1:], dtype=weight.dtype, device=weight.device)
    tokens[frames] = found.to(weight.dtype)
    return replace(scene, tokens=tokens)


def _labels(scene: SceneData, rows: list[int]) -> Tensor:
    """(S, X, Y, Z) of some labelled frames, counted along them."""
    return scene.observed[[scene.labelled[row] for row in rows]]


def _to_earlier(scene: SceneData, before: int, now: int) -> Tensor:
    """(4, 4) float64, ego frame ``now`` -> ego frame ``before``."""
    if scene.index.faithful and before == now - 1:
        return torch.from_numpy(scene.index.curr_to_prev(scene.first + now))
    # Differences of global positions are taken in float64: they have six digits before the point.
    return invert_pose(scene.poses[before]) @ scene.poses[now]


def scene_tokens(tokenizer: Tokenizer, labels: Tensor, poses: Tensor) -> Iterator[Tensor]:
    """Token maps of the consecutive frames of one scene, starting from an empty memory.

    Args:
        tokenizer: in evaluation mode; its device is used.
        labels: (N, X, Y, Z) uint8.
        poses: (N, 4, 4) float64 ego -> global.

    Yields:
        (C, Xl, Yl) token map of each frame in order.
    """
    device = next(tokenizer.parameters()).device
    memory = tokenizer.empty_memory(1)
    for n in range(len(labels)):
        to_previous = invert_pose(poses[max(n - 1, 0)]) @ poses[n]
        start = torch.tensor([n == 0], device=device)
        encoded = tokenizer.encode(labels[n : n + 1].to(device), memory, to_previous[None].float().to(device), start)
        memory = encoded.memory
        yield encoded.token[0]


def scene_poses(index: SceneIndex, scene: int) -> Tensor:
    """(N, 4, 4) float64 poses of a scene's frames."""
    frames = index.frames(scene)
    return torch.from_numpy(index.ego_to_global[frames.start : frames.stop])


def spread(items: Sequence[int], count: int | None) -> list[int]:
    """At most ``count`` of the items, evenly spaced, in order; all of them for None."""
    if count is None or count >= len(items):
        return list(items)
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]
