"""Several processes that train one model, and how a step's batch is divided among them.

The rule that everything here serves: **a step does not know how its batch was divided.** A batch is a row of samples,
cut into groups that are normalised and scored together (BatchNorm statistics, the Lovász loss, a mean over what is
valid); whatever couples samples couples them within a group only. Groups are dealt out to processes and, within a
process, to portions whose gradients are added up. One process with a batch of 16, two with 8, and one that adds up two
portions of 8 all follow the same loss curve, but for the order in which floating-point numbers are added.

The published model was trained on eight devices with a batch of eight on each, which makes groups of eight.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from world_model.core.errors import ConfigError, OptionError
from world_model.core.runtime import choose_device


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that work together.

    Attributes:
        device: where this process computes.
        rank: its number.
        count: how many there are; 1 needs no process group.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def total(self, value: Tensor) -> Tensor:
        """Sum of a tensor over all processes."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over all processes."""
        return self.total(value) / self.count if self.count > 1 else value

    def gather(self, part: Tensor) -> Tensor:
        """Parts (n, ...) of all processes, one after the other: (count * n, ...)."""
        if self.count == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.count)]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    def from_first(self, value: Tensor) -> None:
        """Overwrite a tensor with that of the first process."""
        if self.count > 1:
            dist.broadcast(value, 0)

    def any(self, flag: bool) -> bool:
        """Whether a flag is up in any process."""
        if self.count == 1:
            return flag
        return bool(self.total(torch.tensor(float(flag), device=self.device)) > 0)

    def agree(self, number: int) -> bool:
        """Whether all processes hold the same number."""
        everyone = self.gather(torch.tensor([number], device=self.device))
        return bool((everyone == number).all()) and not self.any(bool((everyone != number).any()))

    def wait(self) -> None:
        """Go on only when all processes have come this far."""
        self.any(False)


@contextmanager
def join(device: str = "auto") -> Iterator[Ranks]:
    """Take part in what ``torchrun`` started; without it this process is alone.

    Args:
        device: "auto" or "cuda" gives each process of a machine its own GPU, by ``LOCAL_RANK``; anything else as in
            `choose_device`. Processes talk through NCCL on GPUs, through gloo elsewhere.

    Raises:
        OptionError: the device is not there, or ``torchrun`` started more processes than there are GPUs.
    """
    count = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if count == 1:
        yield Ranks(device=choose_device(device))
        return
    place = _own_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    begun_here = not dist.is_initialized()
    if begun_here:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    yield Ranks(device=place, rank=dist.get_rank(), count=dist.get_world_size())
    # Left standing after an exception on purpose: the others may be waiting in it, and torchrun ends them all.
    if begun_here:
        leave()


def leave() -> None:
    """Take leave of the other processes. Trainers that are no longer needed go first: what they still hold of the
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
class Share:
    """Which samples of a step's batch this process works on, and in what portions.

    Samples of a step are numbered 0..batch-1; process r has a run of them, cut into portions, each cut into groups.

    Args:
        portion: samples of one forward and backward pass.
        portions: passes whose gradients are added up before a step.
        group: samples normalised and scored together.
        rank: number of this process.
        ranks: number of processes.
    """

    portion: int
    portions: int = 1
    group: int = 0
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if self.group == 0:
            object.__setattr__(self, "group", self.portion)
        if min(self.portion, self.portions, self.group) < 1 or self.portion % self.group:
            raise ConfigError(
                f"groups of {self.group} samples in portions of {self.portion}, {self.portions} portions",
                "positive numbers, and a portion that holds whole groups",
                "change --batch, --group or --accumulate",
            )

    @property
    def batch(self) -> int:
        """Samples of a whole step, over all processes."""
        return self.local * self.ranks

    @property
    def local(self) -> int:
        """Samples of a step that this process works on."""
        return self.portion * self.portions

    @property
    def groups_in_portion(self) -> int:
        """Groups in one portion."""
        return self.portion // self.group

    def samples(self, portion: int) -> range:
        """Sample numbers of one of this process's portions."""
        begin = self.rank * self.local + portion * self.portion
        return range(begin, begin + self.portion)

    def groups(self, portion: int) -> range:
        """Group numbers of one of this process's portions."""
        begin = self.samples(portion).start // self.group
        return range(begin, begin + self.groups_in_portion)


def describe(share: Share) -> str:
    """A step's batch in words."""
    words = str(share.batch)
    if share.ranks > 1:
        words += f" ({share.ranks} processes)"
    if share.portions > 1:
        words += f" ({share.portions} portions each)" if share.ranks > 1 else f" ({share.portions} portions)"
    return words if share.group == share.batch else f"{words}, in groups of {share.group}"


def draws(seed: int, iteration: int, stream: int = 0) -> torch.Generator:
    """Random numbers (CPU) that belong to a place in the run, not to a process.

    Args:
        seed: of the run.
        iteration: of the step.
        stream: what they are for: the number of a group, or a negative number for the whole step.
    """
    return torch.Generator().manual_seed((seed * 1_000_003 + iteration + stream * 0x9E3779B97F4A7C15) % 2**63)
