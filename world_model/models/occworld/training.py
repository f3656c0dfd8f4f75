"""How OccWorld learns: the tokenizer from labels, then the forecaster from codes, then the adapter beside it.

The losses are the published ones (Zheng et al., ECCV 2024); what samples voxels, lifts rare classes and moves unused
codes is as for the II-Tokenizer, and off in the published recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from world_model.core.errors import DataError
from world_model.core.geometry import invert_pose
from world_model.data.index import SceneIndex
from world_model.data.labels import unknown_as_free
from world_model.data.tokens import TokenCache
from world_model.models.occworld.model import OccWorld, code_loss, plan_loss
from world_model.models.occworld.motion import displacement_of, inside_cells, pose_inputs
from world_model.models.occworld.tokenizer import OccWorldTokenizer
from world_model.models.tokenizer.reconstruction import entropy_lovasz
from world_model.models.tokenizer.revival import CodeUsage
from world_model.training.distributed import BatchShard, DistributedContext
from world_model.training.task import Loss, Task


@dataclass(frozen=True, kw_only=True)
class OccWorldLossConfig:
    """What OccWorld is trained for.

    Args:
        frames: consecutive frames of a sample of the tokenizer.
        ce_weight, vq_weight, plan_weight: weights beside those of 1; the published ones.
        voxels: voxels per grid in the reconstruction loss (stratified, weighted to stand for all); 0: every one, as
            published.
        rare_weight: weight of `rare_class_loss`; needs ``voxels``.
        revive_every: iterations between moving codes that nothing used; 0: never, as published.
    """

    frames: int = 10
    ce_weight: float = 10.0
    vq_weight: float = 1.0
    plan_weight: float = 0.1
    voxels: int = 0
    rare_weight: float = 0.0
    revive_every: int = 0


def windows_of(index: SceneIndex, scenes: Sequence[int], count: int, batch: int) -> NDArray[Any]:
    """First-frame numbers of all windows of ``count`` frames that lie in one of some scenes.

    Raises:
        DataError: there are fewer than a batch.
    """
    inside = [index.frames(scene) for scene in scenes]
    found = np.array([f for frames in inside for f in frames[: max(0, len(frames) - count + 1)]], dtype=np.int64)
    if len(found) < batch:
        raise DataError(
            f"{len(scenes)} scenes with {len(found)} windows of {count} frames",
            f"at least one batch of {batch}",
            "use longer scenes or a smaller batch",
        )
    return found


def drawn(windows: NDArray[Any], seed: int, iteration: int, shard: BatchShard, samples: range) -> NDArray[Any]:
    """Some windows of a step; every epoch sees all windows in another order."""
    epoch, place = divmod(iteration, len(windows) // shard.batch)
    order = np.random.default_rng([seed, epoch, 18]).permutation(len(windows))
    chosen: NDArray[Any] = windows[order[place * shard.batch + np.asarray(samples)]]
    return chosen


@dataclass(frozen=True, kw_only=True)
class LabelBatch:
    """Labels (B, F, X, Y, Z) uint8 of windows."""

    labels: Tensor


class TokenizerTask(Task):
    """Model, data and loss of the tokenizer.

    Args:
        model: the tokenizer.
        index: the data set.
        scenes: numbers of those to learn from.
        config: what to learn.
        seed, shard, context, workers: see `Task`.
    """

    model: OccWorldTokenizer

    def __init__(
        self,
        model: OccWorldTokenizer,
        index: SceneIndex,
        scenes: Sequence[int],
        config: OccWorldLossConfig,
        *,
        seed: int,
        shard: BatchShard,
        context: DistributedContext | None = None,
        workers: int = 2,
    ) -> None:
        super().__init__(model, seed=seed, shard=shard, context=context, workers=workers)
        self.index, self.config = index, config
        self.windows = windows_of(index, scenes, config.frames, shard.batch)
        self.usage = CodeUsage(model.config.codes, self.context)

    @property
    def heavy(self) -> list[nn.Module]:
        """Encoder and decoder."""
        return [self.model.encoder, self.model.decoder]

    def read(self, iteration: int, samples: range) -> LabelBatch:
        """Some windows of labels."""
        first = drawn(self.windows, self.seed, iteration, self.shard, samples)
        frames = first[:, None] + np.arange(self.config.frames)
        shape = self.model.config.grid.shape
        labels = [[self.index.read_truth(int(f), shape) for f in row] for row in frames]
        return LabelBatch(labels=torch.from_numpy(np.array(labels)))

    def begin_step(self, batch: LabelBatch, iteration: int) -> None:
        """Move unused codes when it is time to."""
        if iteration and self.config.revive_every and iteration % self.config.revive_every == 0:
            book = self.model.vqvae.embedding.weight
            self.usage.revive(book, lambda: self._inputs(batch), self.seed, iteration)

    def _inputs(self, batch: LabelBatch) -> Tensor:
        """(N, C) what is quantized of the step's first group."""
        labels = unknown_as_free(batch.labels[: self.shard.group].flatten(0, 1))
        z: Tensor = self.model.vqvae.quant_conv(self.model.latents(labels))
        return z.permute(0, 2, 3, 1).flatten(0, 2)

    def loss(self, batch: LabelBatch, iteration: int, micro: int = 0) -> Loss:
        """Encode, decode, compare."""
        labels = batch.labels.flatten(0, 1)
        token, vq, codes = self.model.reconstruct(unknown_as_free(labels))
        self.usage.count([codes])
        rows = self.model.decode_rows(token)
        rebuilt, parts = self.mean_over_groups(self._reconstruction, iteration, micro, rows, labels)
        return rebuilt + self.config.vq_weight * vq, {**parts, "vq": vq.detach()}

    def _reconstruction(self, rows: Tensor, labels: Tensor, generator: torch.Generator) -> Loss:
        """Cross-entropy and Lovász-softmax of rows (N, e) against labels (B, X, Y, Z)."""
        config, table, patch = self.config, self.model.class_embeds.weight, self.model.config.patch
        return entropy_lovasz(
            rows, table, labels, patch, generator,
            voxels=config.voxels, weight=config.ce_weight, rare_weight=config.rare_weight,
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
class CodeBatch:
    """Windows of W inputs and the frame after them.

    Attributes:
        codes: (B, W + 1, h, w) long.
        moved: (B, W, h, w) long, codes of the labels of each input in the frame after it.
        curr_to_next: (B, W + 1, 4, 4) float32, ego frame -> next ego frame.
        command: (B, W + 1) long.
    """

    codes: Tensor
    moved: Tensor
    curr_to_next: Tensor
    command: Tensor


class ForecasterTask(Task):
    """Model, data and loss of the forecaster with its tokenizer frozen; or of the adapter with all else frozen.

    Args:
        model: the whole of OccWorld.
        index: the data set.
        cache: its codes.
        scenes: numbers of those to learn from.
        config: what to learn.
        adapter: train the adapter alone.
        seed, shard, context, workers: see `Task`.
    """

    model: OccWorld

    def __init__(
        self,
        model: OccWorld,
        index: SceneIndex,
        cache: TokenCache,
        scenes: Sequence[int],
        config: OccWorldLossConfig,
        *,
        adapter: bool = False,
        seed: int,
        shard: BatchShard,
        context: DistributedContext | None = None,
        workers: int = 2,
    ) -> None:
        super().__init__(model, seed=seed, shard=shard, context=context, workers=workers)
        self.index, self.cache, self.config, self.adapter = index, cache, config, adapter
        # One frame more, so that the last displacement is a true one.
        self.windows = windows_of(index, scenes, model.config.window + 2, shard.batch)
        model.requires_grad_(not adapter)
        model.vae.requires_grad_(False)
        if model.adapter is not None:
            model.adapter.requires_grad_(adapter)

    @property
    def heavy(self) -> list[nn.Module]:
        """Convolutions and attention."""
        return [self.model.transformer]

    def read(self, iteration: int, samples: range) -> CodeBatch:
        """Some windows of codes and poses."""
        first, count = drawn(self.windows, self.seed, iteration, self.shard, samples), self.model.config.window + 1
        maps = np.stack([self.cache.rows(f, f + count) for f in first]).astype(np.int64)
        poses = torch.from_numpy(self.index.ego_to_global[first[:, None] + np.arange(count + 1)])
        command = self.index.command[first[:, None] + np.arange(count)].astype(np.int64)
        return CodeBatch(
            codes=torch.from_numpy(maps[:, :, 0]),
            moved=torch.from_numpy(maps[:, :-1, 1]),
            # Relative poses before float32: global coordinates run to kilometres.
            curr_to_next=(invert_pose(poses[:, 1:]) @ poses[:, :-1]).float(),
            command=torch.from_numpy(command),
        )

    def loss(self, batch: CodeBatch, iteration: int, micro: int = 0) -> Loss:
        """Forecast every next frame of the windows from the true ones before it."""
        displacement = displacement_of(batch.curr_to_next, self.model.config.lever_m)
        poses, target = pose_inputs(displacement, batch.command), batch.codes[:, 1:]
        if self.adapter:
            return self._adapter_loss(batch, poses)
        logits, planned = self.model(batch.codes[:, :-1], poses[:, :-1])
        ce, plan = code_loss(logits, target), plan_loss(planned, displacement[:, 1:], batch.command[:, 1:])
        logs = {"ce": ce, "plan": plan, "right": (logits.argmax(2) == target).float().mean()}
        return ce + self.config.plan_weight * plan, {name: value.detach() for name, value in logs.items()}

    def _adapter_loss(self, batch: CodeBatch, poses: Tensor) -> Loss:
        with torch.no_grad():
            features, _ = self.model.features(batch.codes[:, :-1], poses[:, :-1])
        inside = inside_cells(batch.curr_to_next[:, :-1].flatten(0, 1), self.model.config)
        logits = self.model.logits(features.flatten(0, 1), batch.moved.flatten(0, 1), inside)
        target = batch.codes[:, 1:].flatten(0, 1)
        ce = F.cross_entropy(logits, target)
        logs = {"ce": ce, "right": (logits.argmax(1) == target).float().mean()}
        return ce, {name: value.detach() for name, value in logs.items()}
