"""How the tokenizer learns: streams of frames, reconstruction and codebook losses, revival of unused codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from world_model.core.errors import ConfigError
from world_model.data.labels import unknown_as_free
from world_model.data.streams import StreamBatch, StreamPlan
from world_model.models.losses import reconstruction_loss
from world_model.models.tokenizer.memory import Memory
from world_model.models.tokenizer.reconstruction import decoded_loss
from world_model.models.tokenizer.revival import CodeUsage
from world_model.models.tokenizer.tokenizer import Tokenizer
from world_model.training.distributed import BatchShard, DistributedContext
from world_model.training.task import Loss, Task


@dataclass(frozen=True, kw_only=True)
class TokenizerLossConfig:
    """What the tokenizer is trained for.

    Args:
        vq_weight: weight of the codebook loss.
        voxels: voxels per grid in the reconstruction loss (stratified, weighted to stand for all); 0 takes
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


class TokenizerTask(Task):
    """Model, data and loss of the tokenizer, for the training loop.

    Args:
        model: the tokenizer.
        plan: the streams of all processes.
        config: what to learn.
        seed: fixes the draw of voxels and codes.
        shard, context, workers: see `Task`.
    """

    model: Tokenizer

    def __init__(
        self,
        model: Tokenizer,
        plan: StreamPlan,
        config: TokenizerLossConfig,
        *,
        seed: int,
        shard: BatchShard,
        context: DistributedContext | None = None,
        workers: int = 2,
    ) -> None:
        super().__init__(model, seed=seed, shard=shard, context=context, workers=workers)
        self.plan, self.config = plan, config
        self.memories = [model.empty_memory(shard.micro_batch) for _ in range(shard.accumulate)]
        self.usage = CodeUsage(model.config.codes, self.context)

    @property
    def heavy(self) -> list[nn.Module]:
        """Encoder and decoder."""
        return [self.model.encoder, self.model.decoder]

    def batches(self, first: int, last: int) -> Iterator[StreamBatch]:
        """As `Task.batches`."""
        self.plan.extend(last)  # it must not grow in the readers' threads
        return super().batches(first, last)

    def read(self, iteration: int, samples: range) -> StreamBatch:
        """The next frame of some streams."""
        return self.plan.read(self.plan.slots(iteration)[samples.start : samples.stop])

    def begin_step(self, batch: StreamBatch, iteration: int) -> None:
        """Revive unused codes when it is time to."""
        if self.config.revive_every and iteration % self.config.revive_every == 0:
            self.usage.revive(self.model.vq.embedding.weight, lambda: self._inputs(batch), self.seed, iteration)

    def loss(self, batch: StreamBatch, iteration: int, micro: int = 0) -> Loss:
        """Encode the next frame of every stream, decode it, compare."""
        out = self.model.encode(unknown_as_free(batch.labels), self.memories[micro], batch.curr_to_prev, batch.start)
        self.memories[micro] = out.memory
        self.usage.count(out.codes)
        rows = self.model.decode_rows(out.token)
        rebuilt, parts = self.mean_over_groups(self._reconstruction, iteration, micro, rows, batch.labels)
        loss = rebuilt + self.config.vq_weight * out.vq_loss
        return loss, {**parts, "vq": out.vq_loss.detach()}

    def _reconstruction(self, rows: Tensor, labels: Tensor, generator: torch.Generator) -> Loss:
        config = self.config
        if config.voxels:
            return decoded_loss(
                self.model, rows, labels, generator, voxels=config.voxels, rare_weight=config.rare_weight
            )
        table = self.model.class_embeds.weight
        return reconstruction_loss(self.model.unpatch(rows.float() @ table.float().t()), labels)

    def end_step(self) -> dict[str, Tensor]:
        """Note which codes the step has used."""
        return self.usage.end_step()

    def _inputs(self, batch: StreamBatch) -> Tensor:
        """(N, C) what is quantized of the step's first group."""
        own = slice(0, self.shard.group)
        out = self.model.encode(
            unknown_as_free(batch.labels[own]), self.memories[0].index(own), batch.curr_to_prev[own], batch.start[own]
        )
        return torch.cat([x.reshape(-1, x.shape[-1]) for x in out.inputs])

    def state(self) -> dict[str, Any]:
        """The memory of all streams of all processes and the usage of codes."""
        own = torch.cat([memory.latents for memory in self.memories])
        return {"memory": self.context.gather(own), "used": self.usage.used}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with this process's part of the streams' memory, and the usage of codes."""
        for micro in range(self.shard.accumulate):
            samples = self.shard.samples(micro)
            latents = state["memory"][samples.start : samples.stop].to(self.device)
            self.memories[micro] = Memory(latents=latents)
        self.usage.used.copy_(state["used"])
