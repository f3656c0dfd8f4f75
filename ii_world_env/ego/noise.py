"""Random numbers without a generator: a number depends on a seed and a step alone.

So noise needs no hidden state: a kept `State` draws the same numbers again, wherever it stands in a batch.
Splitmix64 (Steele, Lea and Flood, OOPSLA 2014) over a counter, then Box and Muller's transform.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GAMMA, FIRST, SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685
"""0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9 and 0x94d049bb133111eb as signed numbers."""


def normal(seed: Tensor, step: Tensor, size: int) -> Tensor:
    """Standard normal numbers.

    Args:
        seed: (B,) int64. step: (B,) int64. size: numbers for each pair.

    Returns:
        (B, size) float32.
    """
    counter = torch.arange(2 * size, device=seed.device)
    # Mixed once per level: neighbouring seeds and steps share nothing.
    bits = _mix(_mix(_mix(seed) + step)[:, None] + counter)
    # 53 bits in (0, 1): never 0, whose logarithm is infinite.
    uniform = ((_shift(bits, 11)).double() + 0.5) * 2.0**-53
    radius, angle = (-2 * uniform[:, :size].log()).sqrt(), 2 * math.pi * uniform[:, size:]
    return (radius * angle.cos()).float()


def _mix(value: Tensor) -> Tensor:
    value = value + GAMMA
    value = (value ^ _shift(value, 30)) * FIRST
    value = (value ^ _shift(value, 27)) * SECOND
    return value ^ _shift(value, 31)


def _shift(value: Tensor, by: int) -> Tensor:
    """Logical shift to the right; torch's own repeats the sign."""
    return (value >> by) & ((1 << (64 - by)) - 1)
