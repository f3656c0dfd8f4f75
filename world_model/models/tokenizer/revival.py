"""Which codes are in use, and new places for those that are not (as Jukebox does, Dhariwal et al., 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from world_model.training.distributed import DistributedContext, draws


class CodeUsage:
    """How often each code was used lately, over all processes.

    Args:
        codes: number of codes.
        context: this process among those that train.
    """

    def __init__(self, codes: int, context: DistributedContext) -> None:
        self.context = context
        self.used = torch.zeros(codes, dtype=torch.float32, device=context.device)
        self.counts = torch.zeros_like(self.used)

    @torch.no_grad()
    def count(self, codes: Iterable[Tensor]) -> None:
        """Count codes of a micro-batch."""
        for part in codes:
            self.counts += torch.bincount(part.flatten(), minlength=len(self.counts))

    def end_step(self) -> dict[str, Tensor]:
        """Note what the step has used; the share of codes in use, for the log."""
        self.used = self.used * 0.99 + self.context.sum(self.counts)
        self.used[self.used < 0.05] = 0
        self.counts.zero_()
        return {"codes_used": (self.used > 0).float().mean()}

    @torch.no_grad()
    def revive(self, book: Tensor, inputs: Callable[[], Tensor], seed: int, iteration: int) -> None:
        """Move unused codes onto inputs of the quantizer; the other processes get the codebook of the first.

        Args:
            book: (K, C) code vectors, changed in place.
            inputs: gives vectors (N, C) that were quantized; asked in the first process only.
            seed, iteration: say which inputs are taken.
        """
        dead = (self.used == 0).nonzero()[:, 0]
        if len(dead) == 0:
            return
        if self.context.first:
            pool = inputs()
            pick = torch.randint(len(pool), (len(dead),), generator=draws(seed, iteration, -1), device="cpu")
            book[dead] = pool[pick.to(pool.device)].to(book.dtype)
        self.context.broadcast(book.data)
