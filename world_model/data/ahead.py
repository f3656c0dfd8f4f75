"""Read what comes next while the present is worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def read_ahead(read: Callable[[int], Item], numbers: Iterable[int], ahead: int = 2) -> Iterator[Item]:
    """``read(n)`` for each number, in order, with the next ``ahead`` under way in background threads."""
    with ThreadPoolExecutor(max_workers=ahead) as pool:
        waiting: list[Future[Item]] = []
        for number in numbers:
            waiting.append(pool.submit(read, number))
            if len(waiting) > ahead:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()
