"""Read the next items in background threads while the current one is in use."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


Batch = TypeVar("Batch", bound=_Dataclass)


def prefetch(
    read: Callable[[int], Item], numbers: Iterable[int], depth: int = 2, workers: int | None = None
) -> Iterator[Item]:
    """``read(n)`` for each number, in order, with the next ``depth`` in background threads.

    Order and content do not depend on the number of threads. Threads are enough: unpacking label files, copying from
    memory maps and reading from disk all run outside Python's interpreter lock.

    Args:
        read: must depend on its argument alone.
        numbers: what to read.
        depth: how many items are read before they are asked for.
        workers: threads; None: as many as ``depth``.
    """
    with ThreadPoolExecutor(max_workers=workers or depth) as pool:
        waiting: list[Future[Item]] = []
        try:
            for number in numbers:
                waiting.append(pool.submit(read, number))
                if len(waiting) > depth:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def pinned(batch: Batch) -> Batch:
    """A batch of tensors in page-locked memory, from where copies to a GPU run beside its work."""
    return _each_tensor(batch, lambda tensor: tensor.pin_memory())


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch of tensors on a device; from page-locked memory without waiting for the copy."""
    return _each_tensor(batch, lambda tensor: tensor.to(device, non_blocking=True))


def feed(
    read: Callable[[int], Batch], numbers: Iterable[int], device: torch.device, *, depth: int = 2, workers: int = 2
) -> Iterator[Batch]:
    """`prefetch` onto a device: the copy of a batch starts before the batch in front of it is handed out."""
    if device.type != "cuda":
        # Threads share the memory of a CPU; there is nothing to copy.
        yield from (to_device(batch, device) for batch in prefetch(read, numbers, depth, workers))
        return
    following: Batch | None = None
    for batch in prefetch(lambda number: pinned(read(number)), numbers, depth, workers):
        current, following = following, to_device(batch, device)
        if current is not None:
            yield current
    if following is not None:
        yield following


def _each_tensor(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    values = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    changed = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
    return dataclasses.replace(batch, **changed)
