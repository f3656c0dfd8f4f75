"""Model calls of one fixed width, so that a sample's result depends on nothing but the sample.

Matrix products choose their kernels by the shapes they are given, and another kernel rounds differently: the same
window forecast alone and as one of eight can differ in the last bits, and a near-tied voxel then changes its class. So
samples go through the models in calls of always the same number, the last call filled up with repetitions. How many
samples are at hand at once, how scenes are packed, and how many processes share the work then changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from world_model.tokenizer import Tokenizer

GPU_LANES = 8
"""Samples per model call on a GPU, which is idle with less; one keeps a CPU core busy."""


def lanes_for(device: torch.device) -> int:
    """Samples per model call."""
    return 1 if device.type == "cpu" else GPU_LANES


def in_lanes(count: int, lanes: int) -> Iterator[tuple[list[int], int]]:
    """Sample numbers of each call (always ``lanes`` of them), and how many of these are no repetition."""
    for begin in range(0, count, lanes):
        real = list(range(begin, min(begin + lanes, count)))
        yield real + real[-1:] * (lanes - len(real)), len(real)


def decode(tokenizer: Tokenizer, tokens: Tensor, lanes: int) -> Tensor:
    """Labels (M, X, Y, Z) uint8 of token maps (M, C, Xl, Yl), on their device."""
    parts = [tokenizer.decode(tokens[rows])[:real] for rows, real in in_lanes(len(tokens), lanes)]
    return torch.cat(parts)


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, compute with one thread: how many share a product changes its rounding. Processes share the work."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
