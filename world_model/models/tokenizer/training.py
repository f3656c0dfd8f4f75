"""How the tokenizer learns: streams of frames, reconstruction and codebook losses, revival of unused codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from world_model.core.errors import ConfigError
from world_model.data.prefetch import feed
from world_model.data.streams import StreamBatch, StreamPlan
from world_model.models.losses import reconstruction_loss, sample_voxels, sampled_reconstruction_loss
from world_model.models.tokenizer.embedding import patch_index
from world_model.models.tokenizer.memory import Memory
from world_model.models.tokenizer.tokenizer import Encoded, Tokenizer
from world_model.training.distributed import Ranks, Share, draws
from world_model.training.loop import mean_logs


@dataclass(frozen=True, kw_only=True)
class TokenizerLossConfig:
    """What the tokenizer is trained for.

    Args:
        vq_weight: weight of the codebook loss.
        voxels: voxels per grid that the reconstruction loss looks at (stratified, weighted to stand for all); 0 takes
            every voxel, as published.
        rare_weight: weight of a cross-entropy that lifts rare classes (`rare_class_loss`); needs ``voxels``. 0: none,
            as published.
        revive_every: iterations between replacing codes that nothing used by inputs of the current batch; 0 never, as
            published.
    """

    vq_weight: float = 1.0
    voxels: int = 0
    rare_weight: float = 0.0
    revive_every: int = 0

    def __post_init__(self) -> None:
        if self.rare_weight and not self.voxels:
            raise ConfigError(
                f"rare_weight={self.rare_weight} with a loss of every voxel", "voxels > 0", "give --voxels 24000"
            )


class TokenizerTask:
    """Model, data and loss of the tokenizer, for the training loop.

    Args:
        model: the tokenizer.
        plan: the streams of all processes.
        config: what to learn.
        seed: fixes the draw of voxels and codes.
        share: which streams are this process's; None: all, in one portion.
        ranks: this process among those that train; None: alone.
        workers: threads that read labels.
    """

    def __init__(
        self,
        model: Tokenizer,
        plan: StreamPlan,
        config: TokenizerLossConfig,
        seed: int,
        *,
        share: Share | None = None,
        ranks: Ranks | None = None,
        workers: int = 2,
    ) -> None:
        self.model, self.plan, self.config, self.seed, self.workers = model, plan, config, seed, workers
        self.device = model.class_embeds.weight.device
        self.share = share or Share(portion=plan.batch)
        self.ranks = ranks or Ranks(device=self.device)
        self.memories = [model.empty_memory(self.share.portion) for _ in range(self.share.portions)]
        self.used = torch.zeros(model.config.codes, device=self.device)
        self.counts = torch.zeros_like(self.used)

    @property
    def heavy(self) -> list[nn.Module]:
        """What may compute in bfloat16."""
        return [self.model.encoder, self.model.decoder]

    def batches(self, first: int, last: int) -> Iterator[StreamBatch]:
        """Portions of the iterations first..last-1, one after the other."""
        self.plan.extend(last)
        portions = self.share.portions
        return feed(self._read, range(first * portions, last * portions), self.device, workers=self.workers)

    def _read(self, number: int) -> StreamBatch:
        iteration, portion = divmod(number, self.share.portions)
        samples = self.share.samples(portion)
        return self.plan.read(self.plan.slots(iteration)[samples.start : samples.stop])

    def begin_step(self, batch: StreamBatch, iteration: int) -> None:
        """Revive unused codes when it is time to."""
        if self.config.revive_every and iteration % self.config.revive_every == 0:
            self._revive(batch, iteration)

    def loss(self, batch: StreamBatch, iteration: int, portion: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """Encode the next frame of every stream, decode it, compare."""
        out = self.model.encode(batch.labels, self.memories[portion], batch.curr_to_prev, batch.start)
        self.memories[portion] = out.memory
        self._count(out)
        rebuilt, parts = self._reconstruction(out.token, batch.labels, iteration, portion)
        loss = rebuilt + self.config.vq_weight * out.vq_loss
        return loss, {**parts, "vq": out.vq_loss.detach()}

    def _reconstruction(
        self, token: Tensor, labels: Tensor, iteration: int, portion: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over the groups of a portion: the Lovász loss couples all voxels that it is given."""
        rows = self.model.decode_rows(token).unflatten(0, (self.share.groups_in_portion, -1))
        parts = [
            self._group_loss(own_rows, own_labels, draws(self.seed, iteration, group))
            for own_rows, own_labels, group in zip(
                rows, labels.split(self.share.group), self.share.groups(portion), strict=True
            )
        ]
        return torch.stack([loss for loss, _ in parts]).mean(), mean_logs([logs for _, logs in parts])

    def _group_loss(self, rows: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        config, table = self.model.config, self.model.class_embeds.weight
        if not self.config.voxels:
            return reconstruction_loss(self.model.unpatch(rows.float() @ table.float().t()), labels)
        sample = sample_voxels(labels, self.config.voxels, generator)
        position = patch_index(sample.index, config.grid.shape, config.patch)
        return sampled_reconstruction_loss(rows, table, labels, sample, position, self.config.rare_weight)

    def end_step(self) -> dict[str, Tensor]:
        """Take down which codes the step has used."""
        self.used = self.used * 0.99 + self.ranks.total(self.counts)
        self.used[self.used < 0.05] = 0
        self.counts.zero_()
        return {"codes_used": (self.used > 0).float().mean()}

    @torch.no_grad()
    def _count(self, out: Encoded) -> None:
        for codes in out.codes:
            self.counts += torch.bincount(codes.flatten(), minlength=len(self.counts))

    @torch.no_grad()
    def _revive(self, batch: StreamBatch, iteration: int) -> None:
        """Move unused codes onto inputs of the quantizer (as Jukebox does, Dhariwal et al., 2020).

        The inputs are those of the step's first group, which the first process has; the others get its codebook.
        """
        dead = (self.used == 0).nonzero()[:, 0]
        if len(dead) == 0:
            return
        book = self.model.vq.embedding.weight
        if self.ranks.first:
            own = slice(0, self.share.group)
            out = self.model.encode(
                batch.labels[own], self.memories[0].index(own), batch.curr_to_prev[own], batch.start[own]
            )
            pool = torch.cat([x.reshape(-1, x.shape[-1]) for x in out.inputs])
            pick = torch.randint(len(pool), (len(dead),), generator=draws(self.seed, iteration, -1)).to(pool.device)
            book[dead] = pool[pick].to(book.dtype)
        self.ranks.from_first(book.data)

    def state(self) -> dict[str, Any]:
        """The memory of all streams of all processes and the usage of codes."""
        own = torch.cat([memory.latents for memory in self.memories])
        return {"memory": self.ranks.gather(own), "used": self.used}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up this process's part of the streams' memory, and the usage of codes."""
        for portion in range(self.share.portions):
            samples = self.share.samples(portion)
            latents = state["memory"][samples.start : samples.stop].to(self.device)
            self.memories[portion] = Memory(latents=latents)
        self.used.copy_(state["used"])
