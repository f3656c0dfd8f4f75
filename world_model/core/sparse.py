"""Where in a grid something is: the scans behind everything sparse.

On a CPU, numpy compares bytes and lists positions four to ten times faster than torch does.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.grid import FREE


def nonzero_indices(mask: Tensor) -> Tensor:
    """Positions (N,) int64 of what is True in a flattened mask, ascending."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.reshape(-1).nonzero()[:, 0]


def occupied_indices(labels: Tensor) -> Tensor:
    """Positions (N,) int64 of the occupied voxels in flattened labels, ascending."""
    if labels.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(labels.numpy() != FREE))
    return (labels.reshape(-1) != FREE).nonzero()[:, 0]


def positive_indices(values: Tensor) -> Tensor:
    """Positions (N,) int64 of the positive ones among flattened values, ascending."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(values.detach().numpy() > 0))
    return (values.reshape(-1) > 0).nonzero()[:, 0]


def within(numbers: Tensor, size: int) -> Tensor:
    """Whether int32 numbers (...) lie in 0..size-1: (...) bool."""
    if numbers.device.type == "cpu":
        return torch.from_numpy(numbers.numpy().view(np.uint32) < size)  # negative ones are large without a sign
    return (numbers >= 0) & (numbers < size)


def member(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """Whether labels (...), class ids below 256, are of some classes: (...) bool."""
    labels = labels.to(torch.uint8)
    values = labels.numpy() if labels.device.type == "cpu" else labels
    # Unsigned bytes wrap around, so one comparison tests a whole run of classes.
    found = [values - low <= high - low for low, high in _runs(sorted(classes))]
    here = functools.reduce(operator.or_, found)
    return here if isinstance(here, Tensor) else torch.from_numpy(here)


def members_between(labels: Tensor, classes: Sequence[int], low: int, high: int) -> Tensor:
    """How many voxels of each column (..., Z), heights low..high-1, are of some classes: (...) uint8."""
    size_z, count = labels.shape[-1], high - low
    if labels.device.type != "cpu" or size_z % 8 or high > 8 or count < 1 or not labels.is_contiguous():
        return member(labels[..., low:high], classes).sum(-1, dtype=torch.uint8)
    # The lowest eight voxels of a column are read as one number (little-endian), the wanted ones of them packed, and
    # the bytes of a number added up by a product.
    kind = np.uint32 if count <= 4 else np.uint64
    some = (labels.numpy().reshape(-1).view(np.uint64)[:: size_z // 8] >> np.uint64(8 * low)).astype(kind)
    bits: NDArray[Any] = member(torch.from_numpy(some.view(np.uint8)), classes).numpy().view(kind)
    size = bits.itemsize
    total = ((bits & kind(256**count - 1)) * kind(0x0101010101010101 % 256**size)) >> kind(8 * size - 8)
    return torch.from_numpy(total.astype(np.uint8)).view(labels.shape[:-1])


def any_in_columns(mask: Tensor) -> Tensor:
    """Whether anything in each column of a mask (..., Z) is True: (...) bool."""
    words = _words(mask)
    return mask.any(-1) if words is None else functools.reduce(operator.or_, words.unbind(-1)) != 0


def count_in_columns(mask: Tensor) -> Tensor:
    """How many in each column of a mask (..., Z), Z below 256, are True: (...) int64."""
    words = _words(mask)
    if words is None:
        return mask.sum(-1)
    # The bytes of a number are added up by a product; see `members_between`.
    total: Tensor = functools.reduce(operator.add, words.unbind(-1)) * 0x0101010101010101
    return (total >> 56) & 0xFF


def _words(mask: Tensor) -> Tensor | None:
    """Columns (..., Z) of a mask as numbers (..., Z / 8) of eight bytes, or None where they do not fill them."""
    fits = mask.shape[-1] % 8 == 0 and mask.shape[-1] < 256 and mask.is_contiguous()
    return mask.view(torch.int64) if fits else None


def _runs(classes: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive numbers in an ascending sequence."""
    first = [c for c in classes if c - 1 not in classes]
    last = [c for c in classes if c + 1 not in classes]
    return list(zip(first, last, strict=True))


def quotient(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Positions >= 0 divided by a size, and the remainders; powers of two by shifts, which are ten times faster."""
    if size & (size - 1):
        return position // size, position % size
    return position >> (size.bit_length() - 1), position & (size - 1)
