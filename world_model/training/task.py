"""What the training loop needs to know about a model, its data and its loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from world_model.data.prefetch import feed
from world_model.training.distributed import BatchShard, DistributedContext, draws

Loss = tuple[Tensor, dict[str, Tensor]]
"""A scalar, and named parts of it for the log."""


class Task(ABC):
    """A model, its data and its loss. Samples of a step depend on (seed, iteration, their number) alone.

    Args:
        model: what is trained.
        seed: fixes the draw of samples and whatever else is random.
        shard: which samples of a step this process works on.
        context: this process among those that train; None: alone.
        workers: threads that read data ahead.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        seed: int,
        shard: BatchShard,
        context: DistributedContext | None = None,
        workers: int = 2,
    ) -> None:
        self.model, self.seed, self.shard, self.workers = model, seed, shard, workers
        self.device = next(model.parameters()).device
        self.context = context or DistributedContext(device=self.device)

    @property
    @abstractmethod
    def heavy(self) -> list[nn.Module]:
        """Modules that may compute in bfloat16; they take and return tensors, or tuples of tensors."""

    @abstractmethod
    def read(self, iteration: int, samples: range) -> Any:
        """Some samples of a step, from disk: a dataclass of tensors on the CPU. Called in background threads."""

    @abstractmethod
    def loss(self, batch: Any, iteration: int, micro: int = 0) -> Loss:
        """Loss of one of this process's micro-batches: a mean over its groups."""

    def batches(self, first: int, last: int) -> Iterator[Any]:
        """This process's micro-batches of the iterations first..last-1, one after the other, on the device."""
        count = self.shard.accumulate

        def read(number: int) -> Any:
            return self.read(number // count, self.shard.samples(number % count))

        return feed(read, range(first * count, last * count), self.device, workers=self.workers)

    def begin_step(self, batch: Any, iteration: int) -> None:  # noqa: B027 (most tasks have nothing to do)
        """Called with the first micro-batch of a step, before its loss."""

    def end_step(self) -> dict[str, Tensor]:
        """Called after the last gradient of a step; more values for the log."""
        return {}

    def state(self) -> dict[str, Any]:
        """Tensors and plain values of all processes, beyond weights, that decide the following iterations."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: B027 (most tasks have no state)
        """Take over a state from `state`."""

    def draw(self, count: int, iteration: int, micro: int) -> Tensor:
        """(count, micro_batch) random numbers in [0, 1) on the device, drawn for all samples of the step."""
        numbers = torch.rand(
            count,
            self.shard.batch,
            generator=draws(self.seed, iteration, -1),
            dtype=torch.float32,
            device="cpu",
        )
        samples = self.shard.samples(micro)
        return numbers[:, samples.start : samples.stop].to(self.device)

    def groups(self, iteration: int, micro: int, *rows: Tensor) -> Iterator[tuple[Any, ...]]:
        """Each group of a micro-batch: its part of tensors that hold equally many rows per sample, the samples one
        after the other, and last its own random numbers (a `torch.Generator`)."""
        count = self.shard.groups_per_micro_batch
        parts = zip(*(part.reshape(count, -1, *part.shape[1:]) for part in rows), strict=True)
        for group, own in zip(self.shard.groups(micro), parts, strict=True):
            yield *own, draws(self.seed, iteration, group)

    def mean_over_groups(self, loss: Callable[..., Loss], iteration: int, micro: int, *rows: Tensor) -> Loss:
        """Mean of a loss that couples its samples over the `groups` of a micro-batch."""
        values, logs = zip(*(loss(*group) for group in self.groups(iteration, micro, *rows)), strict=True)
        return torch.stack(values).mean(), mean_logs(logs)


def mean_logs(logs: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of each named value."""
    return {name: torch.stack([part[name].detach() for part in logs]).mean() for name in logs[0]}
