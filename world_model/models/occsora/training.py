"""How OccSora learns: first labels <-> latents, then the noise in latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from world_model.core.errors import ConfigError
from world_model.data.augment import check_symmetric
from world_model.data.index import SceneIndex
from world_model.data.labels import unknown_as_free
from world_model.models.occsora.diffusion import diffusion_loss
from world_model.models.occsora.tokenizer import SoraTokenizer
from world_model.models.occsora.trajectory import encode_trajectory
from world_model.models.occsora.transformer import SoraTransformer
from world_model.models.occsora.windows import LatentCache, Window, read_drive, read_window, window_starts
from world_model.models.tokenizer.reconstruction import entropy_lovasz
from world_model.models.tokenizer.revival import CodeUsage
from world_model.training.distributed import BatchShard, DistributedContext, draws
from world_model.training.task import Loss, Task


@dataclass(frozen=True, kw_only=True)
class SoraLossConfig:
    """What the 4D tokenizer is trained for: 10 x cross-entropy + Lovász-softmax + the loss of the codes.

    Args:
        frames: frames of a window that are compared, drawn anew at every step; 0 all, as published.
        voxels: voxels per grid in the loss (stratified, weighted to stand for all); 0 all, as published.
        rare_weight: weight of `rare_class_loss`, which lifts rare classes where voxels are drawn; not published.
        revive_every: iterations between moving codes that nothing used onto inputs; 0 never, as published.
        mirror: half of the windows have left and right swapped; not published.
    """

    frames: int = 0
    voxels: int = 0
    rare_weight: float = 0.0
    revive_every: int = 0
    mirror: bool = False

    def __post_init__(self) -> None:
        if min(self.frames, self.voxels, self.rare_weight, self.revive_every) < 0:
            raise ConfigError(f"{self}", "numbers >= 0", "change them")
        if self.rare_weight and not self.voxels:
            raise ConfigError(f"rare_weight={self.rare_weight} with a loss of every voxel", "voxels > 0", "set both")


class SoraTokenizerTask(Task):
    """Model, data and loss of the 4D tokenizer, for the training loop; arguments as for `Task`."""

    model: SoraTokenizer

    def __init__(
        self,
        model: SoraTokenizer,
        index: SceneIndex,
        split: str,
        config: SoraLossConfig,
        *,
        seed: int,
        shard: BatchShard,
        context: DistributedContext | None = None,
        workers: int = 2,
    ) -> None:
        super().__init__(model, seed=seed, shard=shard, context=context, workers=workers)
        if config.mirror:
            check_symmetric(model.config.grid)
        self.index, self.config = index, config
        self.scenes = window_starts(index, split, model.config.frames)
        self.usage = CodeUsage(model.config.codes, self.context)

    @property
    def heavy(self) -> list[nn.Module]:
        """Encoder and decoder."""
        return [self.model.encoder_gpt, self.model.decoder_gpt]

    def read(self, iteration: int, samples: range) -> Window:
        """Random windows of random scenes."""
        found = [self._window(np.random.default_rng([self.seed, iteration, n, 17])) for n in samples]
        return Window(**{name: torch.cat([vars(one)[name] for one in found]) for name in vars(found[0])})

    def _window(self, rng: np.random.Generator) -> Window:
        scene = self.scenes[rng.integers(len(self.scenes))]
        start, mirrored = scene[rng.integers(len(scene))], bool(rng.random() < 0.5) and self.config.mirror
        config = self.model.config
        return read_window(self.index, start, config.frames, config.grid, mirrored)

    def begin_step(self, batch: Window, iteration: int) -> None:
        """Move unused codes when it is time to."""
        if self.config.revive_every and iteration and iteration % self.config.revive_every == 0:
            self.usage.revive(self.model.vqvae.embedding.weight, lambda: self._inputs(batch), self.seed, iteration)

    def _inputs(self, batch: Window) -> Tensor:
        """(N, C) what is quantized of the step's first group."""
        return self.model.inputs(unknown_as_free(batch.labels[: self.shard.group])).movedim(1, -1).flatten(0, -2)

    def loss(self, batch: Window, iteration: int, micro: int = 0) -> Loss:
        """Encode windows, decode some or all of their frames, compare."""
        frames = self.model.config.frames
        latent, vq, codes = self.model.reconstruct(unknown_as_free(batch.labels))
        self.usage.count([codes])
        maps = self.model.decode_maps(latent)
        order = torch.randperm(frames, generator=draws(self.seed, iteration, -2), device="cpu").to(self.device)
        chosen = order[: self.config.frames or frames]
        rebuilt, parts = self.mean_over_groups(
            self._compare, iteration, micro, maps[:, chosen].flatten(0, 1), batch.labels[:, chosen].flatten(0, 1)
        )
        return rebuilt + vq, {**parts, "vq": vq.detach()}

    def _compare(self, maps: Tensor, labels: Tensor, generator: torch.Generator) -> Loss:
        config, table, patch = self.config, self.model.class_embeds.weight, self.model.config.patch
        return entropy_lovasz(
            self.model.rows(maps), table, labels, patch, generator,
            voxels=config.voxels, rare_weight=config.rare_weight,
        )  # fmt: skip

    def end_step(self) -> dict[str, Tensor]:
        """Note which codes the step has used."""
        return self.usage.end_step()

    def state(self) -> dict[str, Any]:
        """The usage of codes."""
        return {"used": self.usage.used}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with the usage of codes."""
        self.usage.used.copy_(state["used"])


@dataclass(frozen=True, kw_only=True)
class LatentBatch:
    """Samples of the diffusion model.

    Attributes:
        latent: (B, 1 or 2, C, t, x, y) float32 unscaled: the window's, and that of its carried first frame.
        trajectory: (B, 2 F) float32.
    """

    latent: Tensor
    trajectory: Tensor


class SoraTransformerTask(Task):
    """Model, data and loss of the diffusion transformer, for the training loop.

    Args:
        model: the transformer.
        index: the data set.
        cache: latents of all windows.
        seed, shard, context, workers: see `Task`.
    """

    model: SoraTransformer

    def __init__(
        self,
        model: SoraTransformer,
        index: SceneIndex,
        cache: LatentCache,
        *,
        seed: int,
        shard: BatchShard,
        context: DistributedContext | None = None,
        workers: int = 2,
    ) -> None:
        super().__init__(model, seed=seed, shard=shard, context=context, workers=workers)
        self.latents = [cache.read(n) for n in range(len(cache.scenes))]
        self.rows = [(n, row) for n, scene in enumerate(cache.scenes) for row in range(len(scene))]
        drives = [read_drive(index, p.start, model.config.frames, p.mirrored) for scene in cache.scenes for p in scene]
        poses, commands = (torch.stack(part) for part in zip(*drives, strict=True))
        self.trajectories = encode_trajectory(model.config, poses, commands)

    @property
    def heavy(self) -> list[nn.Module]:
        """The blocks."""
        return list(self.model.blocks)

    def read(self, iteration: int, samples: range) -> LatentBatch:
        """Random windows."""
        rows = [int(np.random.default_rng([self.seed, iteration, n, 19]).integers(len(self.rows))) for n in samples]
        found = [np.array(self.latents[scene][row], np.float32) for scene, row in (self.rows[r] for r in rows)]
        return LatentBatch(latent=torch.from_numpy(np.stack(found)), trajectory=self.trajectories[rows])

    def loss(self, batch: LatentBatch, iteration: int, micro: int = 0) -> Loss:
        """The error of the predicted noise at random steps of the process."""
        scaled = batch.latent / self.model.config.latent_scale
        step = (self.draw(1, iteration, micro)[0] * self.model.config.steps).long()
        noise = torch.cat(
            [torch.randn(scaled[own, 0].shape, generator=g, device="cpu") for own, g in self._groups(iteration, micro)]
        ).to(scaled)
        history = scaled[:, 1] if self.model.config.history else None
        return diffusion_loss(self.model, scaled[:, 0], batch.trajectory, step, noise, history)

    def _groups(self, iteration: int, micro: int) -> list[tuple[slice, torch.Generator]]:
        size = self.shard.group
        return [
            (slice(n * size, (n + 1) * size), draws(self.seed, iteration, group))
            for n, group in enumerate(self.shard.groups(micro))
        ]
