"""How the tokenizer learns: streams of frames, reconstruction and codebook losses, revival of unused codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from world_model.data.streams import StreamBatch, StreamPlan
from world_model.losses import reconstruction_loss, sample_voxels, sampled_reconstruction_loss
from world_model.tokenizer.embedding import patch_index
from world_model.tokenizer.tokenizer import Encoded, Tokenizer


@dataclass(frozen=True, kw_only=True)
class TokenizerLossConfig:
    """What the tokenizer is trained for.

    Args:
        vq_weight: weight of the codebook loss.
        voxels: voxels per grid that the reconstruction loss looks at (stratified, weighted to stand for all); 0 takes
            every voxel, as published.
        revive_every: iterations between replacing codes that nothing used by inputs of the current batch; 0 never, as
            published.
    """

    vq_weight: float = 1.0
    voxels: int = 0
    revive_every: int = 0


class TokenizerTask:
    """Model, data and loss of the tokenizer, for the training loop."""

    def __init__(self, model: Tokenizer, plan: StreamPlan, config: TokenizerLossConfig, seed: int) -> None:
        self.model, self.plan, self.config, self.seed = model, plan, config, seed
        self.memory = model.empty_memory(plan.batch)
        self.used = torch.zeros(model.config.codes, device=model.class_embeds.weight.device)

    def batches(self, first: int, last: int) -> Iterator[StreamBatch]:
        """Frames of the iterations first..last-1."""
        device = self.model.class_embeds.weight.device
        return (batch.to(device) for batch in self.plan.batches(first, last))

    def loss(self, batch: StreamBatch, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Encode the next frame of every stream, decode it, compare."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + iteration)
        if self.config.revive_every and iteration % self.config.revive_every == 0:
            self._revive(batch, generator)
        out = self.model.encode(batch.labels, self.memory, batch.curr_to_prev, batch.start)
        self.memory = out.memory
        self._count(out)
        rebuilt, parts = self._reconstruction(out.token, batch.labels, generator)
        loss = rebuilt + self.config.vq_weight * out.vq_loss
        active = (self.used > 0).float().mean()
        return loss, {**parts, "vq": out.vq_loss.detach(), "codes_used": active}

    def _reconstruction(
        self, token: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.model.config
        if not self.config.voxels:
            return reconstruction_loss(self.model.decode_logits(token).float(), labels)
        sample = sample_voxels(labels, self.config.voxels, generator)
        position = patch_index(sample.index, config.grid.shape, config.patch)
        table = self.model.class_embeds.weight
        return sampled_reconstruction_loss(self.model.decode_rows(token), table, labels, sample, position)

    @torch.no_grad()
    def _count(self, out: Encoded) -> None:
        self.used *= 0.99
        for codes in out.codes:
            self.used += torch.bincount(codes.flatten(), minlength=len(self.used))
        self.used[self.used < 0.05] = 0

    @torch.no_grad()
    def _revive(self, batch: StreamBatch, generator: torch.Generator) -> None:
        """Move unused codes onto inputs of the quantizer (as Jukebox does, Dhariwal et al., 2020)."""
        dead = (self.used == 0).nonzero()[:, 0]
        if len(dead) == 0:
            return
        out = self.model.encode(batch.labels, self.memory, batch.curr_to_prev, batch.start)
        pool = torch.cat([x.reshape(-1, x.shape[-1]) for x in out.inputs])
        pick = torch.randint(len(pool), (len(dead),), generator=generator).to(pool.device)
        self.model.vq.embedding.weight[dead] = pool[pick].to(self.model.vq.embedding.weight.dtype)

    def state(self) -> dict[str, Any]:
        """The streams' memory and the usage of codes."""
        return {"memory": self.memory.latents, "used": self.used}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the streams' memory and the usage of codes."""
        self.memory.latents.copy_(state["memory"])
        self.used.copy_(state["used"])
