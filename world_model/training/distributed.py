"""Several processes that train one model, and how a step's batch is divided among them.

The rule that everything here serves: **the loss curve does not depend on how a step's batch is divided.** A batch is a
row of samples, cut into groups that are normalised and scored together (BatchNorm statistics, the Lovász loss, a mean
over valid samples); samples are coupled within a group only. Each process gets a shard of the batch, and works through
it in micro-batches whose gradients are added up. One process with a batch of 16, two with 8, and one with two
micro-batches of 8 all follow the same loss curve, but for the order in which floating-point numbers are added.

The published model was trained on eight devices with a batch of eight on each, which makes groups of eight.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from world_model.core.errors import ConfigError, OptionError
from world_model.core.runtime import choose_device


@dataclass(frozen=True, kw_only=True)
class DistributedContext:
    """This process among those that work on one job.

    Attributes:
        device: where this process computes.
        rank: its number.
        world_size: number of processes; 1 needs no process group.
        local_rank: its number on its machine.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Sum of a tensor over all processes."""
        if self.world_size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over all processes."""
        return self.sum(value) / self.world_size if self.world_size > 1 else value

    def gather(self, part: Tensor) -> Tensor:
        """Parts (n, ...) of all processes, one after the other: (world_size * n, ...)."""
        if self.world_size == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.world_size)]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    def broadcast(self, value: Tensor) -> None:
        """Overwrite a tensor with that of the first process."""
        if self.world_size > 1:
            dist.broadcast(value, 0)

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any process."""
        if self.world_size == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag), dtype=torch.float32, device=self.device)) > 0)

    def agree(self, number: int) -> bool:
        """Whether all processes hold the same number."""
        numbers = self.gather(torch.tensor([number], device=self.device))
        return bool((numbers == number).all()) and not self.any(bool((numbers != number).any()))

    def barrier(self) -> None:
        """Wait until all processes have come this far."""
        self.any(False)


@contextmanager
def join(device: str = "auto", patience: timedelta | None = None) -> Iterator[DistributedContext]:
    """Take part in what ``torchrun`` started; without it this process is alone.

    Args:
        device: "auto" or "cuda" gives each process of a machine its own GPU, by ``LOCAL_RANK``; anything else as in
            `choose_device`. Processes talk through NCCL on GPUs, through gloo elsewhere.
        patience: how long a process waits for the others; None: as long as torch has it, some minutes.

    Raises:
        OptionError: the device is not there, or ``torchrun`` started more processes than there are GPUs.
    """
    count = _from_torchrun("WORLD_SIZE", 1) if "RANK" in os.environ else 1
    if count == 1:
        yield DistributedContext(device=choose_device(device))
        return
    local_rank = _from_torchrun("LOCAL_RANK", 0)
    place = _own_device(device, local_rank)
    begun_here = not dist.is_initialized()
    if begun_here:
        try:
            dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=patience)
        except (ValueError, RuntimeError) as error:
            raise OptionError(
                f"RANK is {os.environ['RANK']}, but the processes do not meet ({str(error).splitlines()[0]})",
                "the environment that torchrun sets",
                "start with torchrun --nproc-per-node N -m COMMAND, or unset RANK and WORLD_SIZE",
            ) from error
    yield DistributedContext(
        device=place, rank=dist.get_rank(), world_size=dist.get_world_size(), local_rank=local_rank
    )
    # Not closed after an exception on purpose: other processes may be waiting in it, and torchrun ends them all.
    if begun_here:
        leave()


def _from_torchrun(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise OptionError(f"{name}={value!r} in the environment", "a number, as torchrun sets it", f"unset {name}")
    return int(value)


def leave() -> None:
    """Close the process group. Trainers that are no longer needed are collected first: what they still hold of the
    group would be torn down at the end of the process, in an order that can abort it."""
    gc.collect()
    dist.destroy_process_group()


def _own_device(name: str, local_rank: int) -> torch.device:
    if name not in ("auto", "cuda") or not torch.cuda.is_available():
        return choose_device(name)
    if local_rank >= torch.cuda.device_count():
        raise OptionError(
            f"process {local_rank} of this machine, which has {torch.cuda.device_count()} GPUs",
            "one process for each GPU",
            "lower --nproc-per-node of torchrun",
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


@dataclass(frozen=True, kw_only=True)
class BatchShard:
    """Which samples of a step's batch this process works on, and in what micro-batches.

    Samples of a step are numbered 0..batch-1; process r has a run of them, cut into micro-batches, each cut into
    groups.

    Args:
        micro_batch: samples of one forward and backward pass.
        accumulate: micro-batches whose gradients are added up before a step.
        group: samples normalised and scored together; 0: ``micro_batch``.
        rank: number of this process.
        world_size: number of processes.
    """

    micro_batch: int
    accumulate: int = 1
    group: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.group == 0:
            object.__setattr__(self, "group", self.micro_batch)
        if min(self.micro_batch, self.accumulate, self.group) < 1 or self.micro_batch % self.group:
            raise ConfigError(
                f"groups of {self.group} samples in micro-batches of {self.micro_batch}, {self.accumulate} of them",
                "positive numbers, and a micro-batch that holds whole groups",
                "change --batch, --group or --accumulate",
            )

    @property
    def batch(self) -> int:
        """Samples of a whole step, over all processes."""
        return self.micro_batch * self.accumulate * self.world_size

    @property
    def groups_per_micro_batch(self) -> int:
        """Groups in one micro-batch."""
        return self.micro_batch // self.group

    def samples(self, micro: int) -> range:
        """Sample numbers of one of this process's micro-batches."""
        begin = (self.rank * self.accumulate + micro) * self.micro_batch
        return range(begin, begin + self.micro_batch)

    def groups(self, micro: int) -> range:
        """Group numbers of one of this process's micro-batches."""
        begin = self.samples(micro).start // self.group
        return range(begin, begin + self.groups_per_micro_batch)

    def __str__(self) -> str:
        """A step's batch in words."""
        words = str(self.batch)
        if self.world_size > 1:
            words += f" ({self.world_size} processes)"
        if self.accumulate > 1:
            words += f" ({self.accumulate} micro-batches{' each' if self.world_size > 1 else ''})"
        return words if self.group == self.batch else f"{words}, in groups of {self.group}"


def draws(seed: int, iteration: int, stream: int = 0) -> torch.Generator:
    """Random numbers (CPU) that belong to a place in the run, not to a process.

    Args:
        seed: of the run.
        iteration: of the step.
        stream: what they are for: the number of a group, or a negative number for the whole step.
    """
    return torch.Generator().manual_seed((seed * 1_000_003 + iteration + stream * 0x9E3779B97F4A7C15) % 2**63)
