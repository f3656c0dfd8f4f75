"""What a training run says about itself between two lines of progress."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from world_model.training.distributed import Ranks


class Tally:
    """Running sums between two lines of progress; read off the device only when reported."""

    def __init__(self) -> None:
        self.begin, self.steps, self.waited = time.perf_counter(), 0, 0.0
        self.sums: dict[str, Tensor] = {}

    def timed(self, portions: Iterator[Any], count: int) -> Iterator[Any]:
        """The next ``count`` portions, with the time that this process waits for them."""
        for _ in range(count):
            begin = time.perf_counter()
            portion = next(portions)
            self.waited += time.perf_counter() - begin
            yield portion

    def add(self, logs: dict[str, Tensor]) -> None:
        self.steps += 1
        for name, value in logs.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=value.device)) + value.float()

    def means(self, ranks: Ranks) -> dict[str, float]:
        values = ranks.mean(torch.stack(list(self.sums.values()))).tolist()
        return {k: round(v / self.steps, 6) for k, v in zip(self.sums, values, strict=True)}


def mean_logs(logs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of each named value."""
    return {name: torch.stack([part[name].detach() for part in logs]).mean() for name in logs[0]}
