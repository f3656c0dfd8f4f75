"""Run the tokenizer along a scene, as a running vehicle would: every frame once, with the memory of those before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from world_model.data.index import SceneIndex
from world_model.geometry import invert_pose
from world_model.tokenizer import Tokenizer


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
        # Differences of global positions are taken in float64: they have six digits before the point.
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
