"""Run the tokenizer along scenes, as a running vehicle would: every frame once, with the memory of those before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from world_model.data.index import SceneIndex
from world_model.evaluation.lanes import in_lanes
from world_model.evaluation.scene_data import SceneData
from world_model.geometry import invert_pose
from world_model.tokenizer import Tokenizer


def add_tokens(tokenizer: Tokenizer, scenes: Sequence[SceneData], lanes: int = 1) -> list[SceneData]:
    """Scenes with the token maps of all their labelled frames, several streams side by side.

    A frame without labels is passed over: the memory stays in the frame of the last one that had some.
    """
    found: list[SceneData] = []
    for rows, real in in_lanes(len(scenes), lanes):
        tokens = _streams(tokenizer, [scenes[row] for row in rows])
        found += [scenes[row].with_tokens(t) for row, t in zip(rows[:real], tokens, strict=False)]
    return found


def _streams(tokenizer: Tokenizer, scenes: list[SceneData]) -> list[Tensor]:
    """One stream per scene; a stream that has ended repeats its last frame, unheard."""
    config, weight = tokenizer.config, tokenizer.vq.embedding.weight
    memory = tokenizer.empty_memory(len(scenes))
    shape = (config.latent, *config.latent_shape)
    tokens = [torch.zeros(len(s.poses), *shape, dtype=weight.dtype, device=weight.device) for s in scenes]
    for turn in range(max(len(s.labelled) for s in scenes)):
        now = [s.labelled[min(turn, len(s.labelled) - 1)] for s in scenes]
        before = [s.labelled[max(min(turn, len(s.labelled) - 1) - 1, 0)] for s in scenes]
        labels = torch.stack([s.observed[n] for s, n in zip(scenes, now, strict=True)])
        moves = [_to_earlier(s, b, n) for s, b, n in zip(scenes, before, now, strict=True)]
        start = torch.full((len(scenes),), turn == 0, device=weight.device)
        encoded = tokenizer.encode(
            labels.to(weight.device), memory, torch.stack(moves).float().to(weight.device), start
        )
        memory = encoded.memory
        for slot, n in enumerate(now):
            if turn < len(scenes[slot].labelled):
                tokens[slot][n] = encoded.token[slot]
    return tokens


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
