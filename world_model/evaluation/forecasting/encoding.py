"""Run the tokenizer along scenes as in a driving vehicle: every frame once, with the memory of those before it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from world_model.core.geometry import invert_pose
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
