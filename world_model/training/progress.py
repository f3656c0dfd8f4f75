"""What a training run reports between two lines of progress."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from world_model.training.distributed import DistributedContext


class Progress:
    """Running sums since the last line of progress; read off the device only when reported."""

    def __init__(self) -> None:
        self.begin, self.steps, self.waited_s = time.perf_counter(), 0, 0.0
        self._before = 0
        self.sums: dict[str, Tensor] = {}

    def timed(self, batches: Iterator[Any], count: int) -> Iterator[Any]:
        """The next ``count`` micro-batches, with the time that this process waits for them."""
        for _ in range(count):
            begin = time.perf_counter()
            batch = next(batches)
            self.waited_s += time.perf_counter() - begin
            yield batch

    def add(self, logs: dict[str, Tensor]) -> None:
        """Count one step."""
        self.steps += 1
        for name, value in logs.items():
            self.sums[name] = (
                self.sums.get(name, torch.zeros((), dtype=torch.float32, device=value.device)) + value.float()
            )

    def means(self, context: DistributedContext) -> dict[str, float]:
        """Mean of each logged value over the steps and the processes."""
        values = context.mean(torch.stack(list(self.sums.values()))).tolist()
        return {k: round(v / self.steps, 6) for k, v in zip(self.sums, values, strict=True)}

    def state(self, context: DistributedContext) -> dict[str, Any] | None:
        """What a resumed run needs to report the same means; called by all processes."""
        if not self.sums:
            return None
        return {"steps": self.steps, "sums": {name: context.mean(value) for name, value in self.sums.items()}}

    def restore(self, state: dict[str, Any] | None, device: torch.device) -> None:
        """Go on from a `state`; the pace is that of this process alone."""
        if state is not None:
            self.steps, self.sums = state["steps"], {k: v.to(device) for k, v in state["sums"].items()}
            self._before = self.steps

    def pace(self) -> tuple[float, float]:
        """Steps a second, and the share of the time spent waiting for data."""
        took = max(time.perf_counter() - self.begin, 1e-9)
        return (self.steps - self._before) / took, self.waited_s / took
