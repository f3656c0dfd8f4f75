"""Model calls in which every sample has a fixed place, so that its result depends on nothing but the sample.

A matrix product takes its kernel by the shape it is given, and treats the rows of one product differently: the same
window forecast alone, as one of eight, or as the third instead of the first of eight can differ in the last bits, and a
near-tied voxel then changes its class. So samples go through the models in calls of always the same width that never
mix scenes, and sample number n of a scene always stands at place n % width; places whose samples are not asked for are
filled with repetitions of one that is. How many samples are at hand at once, which of them were done by an earlier run,
and how many processes share the scenes then changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from world_model.models.tokenizer import Tokenizer

GPU_LANES = 8
"""Samples per model call on a GPU, which is idle with less; one keeps a CPU core busy."""


def lanes_for(device: torch.device) -> int:
    """Samples per model call."""
    return 1 if device.type == "cpu" else GPU_LANES


def in_lanes(numbers: Sequence[int], lanes: int) -> Iterator[tuple[list[int], list[int]]]:
    """Model calls for the samples of one scene.

    Args:
        numbers: the samples' numbers in their scene, ascending.
        lanes: places of each call.

    Yields:
        Which sample, counted along ``numbers``, stands at each place; and the places that are no repetition.
    """
    calls: dict[int, dict[int, int]] = {}
    for row, number in enumerate(numbers):
        calls.setdefault(number // lanes, {})[number % lanes] = row
    for places in calls.values():
        some = next(iter(places.values()))
        yield [places.get(place, some) for place in range(lanes)], list(places)


def through(model: Callable[[list[int]], Tensor], numbers: Sequence[int], lanes: int) -> Tensor:
    """What a model makes of the samples of one scene, (N, ...); it is given which samples make up each call."""
    return torch.cat([model(rows)[real] for rows, real in in_lanes(numbers, lanes)])


def decode(tokenizer: Tokenizer, tokens: Tensor, numbers: Sequence[int], lanes: int) -> Tensor:
    """Labels (N, X, Y, Z) uint8 of token maps (N, C, Xl, Yl) of a scene's samples, on their device."""
    return through(lambda rows: tokenizer.decode(tokens[rows]), numbers, lanes)


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
