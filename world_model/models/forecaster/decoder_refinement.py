"""How the decoder is refined: fixed tokens in, observed and forecast, labels out.

Once a forecaster has been trained, its tokens are not quite those that the decoder was trained on, and rare classes
may still be missing. Refining the decoder alone mends both and keeps all tokens valid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from world_model.core.errors import DataError
from world_model.core.geometry import invert_pose
from world_model.data.balance import BalancedFrames
from world_model.data.index import SceneIndex
from world_model.data.prefetch import feed
from world_model.data.tokens import TokenCache
from world_model.models.forecaster.forecaster import Forecaster
from world_model.models.losses import sample_voxels, sampled_reconstruction_loss
from world_model.models.tokenizer.embedding import patch_index
from world_model.models.tokenizer.tokenizer import Tokenizer
from world_model.training.distributed import Ranks, Share, draws
from world_model.training.loop import mean_logs


@dataclass(frozen=True, kw_only=True)
class RefinementConfig:
    """What the decoder is refined on.

    Args:
        past: observed frames before the current one.
        horizon: forecasts run 1..horizon steps.
        voxels: voxels per grid that the loss looks at.
        rare_weight: weight of a cross-entropy that lifts rare classes (`rare_class_loss`).
    """

    past: int = 4
    horizon: int = 6
    voxels: int = 24_000
    rare_weight: float = 2.0


@dataclass(frozen=True, kw_only=True)
class RefinementBatch:
    """B windows: the first half of each group is decoded as observed, the second as forecast.

    Attributes:
        tokens: (B, P, C, Xl, Yl) observed tokens, float16.
        poses: (B, P + K, 4, 4) float64 ego -> global.
        command: (B, P + K) long.
        steps: how many steps to forecast.
        forecast: (B,) bool, which windows are decoded as forecast.
        labels: (B, X, Y, Z) uint8 of the frames to decode.
    """

    tokens: Tensor
    poses: Tensor
    command: Tensor
    steps: int
    forecast: Tensor
    labels: Tensor


class RefinementTask:
    """Model, data and loss of the decoder, for the training loop; only the decoder is trained.

    Args:
        model: a trained tokenizer.
        forecaster: trained on its tokens.
        index: the data set.
        cache: its tokens.
        split: the split to learn from.
        config: what to learn from.
        batch: grids per iteration, over all processes; half of them forecast.
        seed: fixes the draw of frames.
        share: which grids are this process's; None: all, in one portion.
        ranks: this process among those that train; None: alone.
        workers: threads that read tokens and labels.
    """

    def __init__(
        self,
        model: Tokenizer,
        forecaster: Forecaster,
        index: SceneIndex,
        cache: TokenCache,
        split: str,
        config: RefinementConfig,
        *,
        batch: int,
        seed: int,
        share: Share | None = None,
        ranks: Ranks | None = None,
        workers: int = 2,
    ) -> None:
        self.tokenizer, self.model, self.forecaster = model, model.decoder, forecaster
        self.index, self.cache, self.config, self.batch, self.seed = index, cache, config, batch, seed
        scenes = [index.frames(s) for s in index.scenes(split)]
        windows = np.array([f for s in scenes for f in s[config.past : len(s) - config.horizon]], dtype=np.int64)
        if not len(windows):
            raise DataError(
                f"split {split!r} has no windows", f"scenes of {config.past + config.horizon + 1} frames", ""
            )
        self.frames = BalancedFrames(index, windows)
        self.device = next(model.parameters()).device
        self.share = share or Share(portion=batch)
        self.ranks = ranks or Ranks(device=self.device)
        self.workers = workers

    @property
    def heavy(self) -> list[nn.Module]:
        """What may compute in bfloat16."""
        return [self.model]

    def batches(self, first: int, last: int) -> Iterator[RefinementBatch]:
        """Portions of the iterations first..last-1, one after the other."""
        portions = self.share.portions
        return feed(self._read, range(first * portions, last * portions), self.device, workers=self.workers)

    def _read(self, number: int) -> RefinementBatch:
        iteration, portion = divmod(number, self.share.portions)
        config, rng = self.config, np.random.default_rng([self.seed, iteration, 13])
        drawn, steps = self.frames.draw(self.batch, rng), int(rng.integers(1, config.horizon + 1))
        own = self.share.samples(portion)
        current = drawn[own.start : own.stop]
        forecast = np.arange(len(current)) % self.share.group >= self.share.group // 2
        frames = current[:, None] + np.arange(-config.past, steps + 1)
        shown = np.where(forecast, current + steps, current)
        return RefinementBatch(
            tokens=torch.from_numpy(np.stack([self.cache.rows(row[0], row[config.past] + 1) for row in frames])),
            poses=torch.from_numpy(self.index.ego_to_global[frames]),
            command=torch.from_numpy(self.index.command[frames].astype(np.int64)),
            steps=steps,
            forecast=torch.from_numpy(forecast),
            labels=torch.from_numpy(np.stack([self.index.read_truth(int(f)) for f in shown])),
        )

    def begin_step(self, batch: RefinementBatch, iteration: int) -> None:
        """Nothing to prepare."""

    def end_step(self) -> dict[str, Tensor]:
        """Nothing to add."""
        return {}

    def loss(self, batch: RefinementBatch, iteration: int, portion: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """Decode observed and forecast tokens and compare; a mean over the groups of a portion."""
        grid, table = self.tokenizer.config, self.tokenizer.class_embeds.weight
        rows = self.tokenizer.decode_rows(self._tokens(batch)).unflatten(0, (self.share.groups_in_portion, -1))
        losses, logs = [], []
        for own_rows, labels, group in zip(
            rows, batch.labels.split(self.share.group), self.share.groups(portion), strict=True
        ):
            sample = sample_voxels(labels, self.config.voxels, draws(self.seed, iteration, group))
            position = patch_index(sample.index, grid.grid.shape, grid.patch)
            loss, parts = sampled_reconstruction_loss(
                own_rows, table, labels, sample, position, self.config.rare_weight
            )
            losses.append(loss)
            logs.append(parts)
        return torch.stack(losses).mean(), mean_logs(logs)

    @torch.no_grad()
    def _tokens(self, batch: RefinementBatch) -> Tensor:
        now, chosen, tokens = self.config.past, batch.forecast, batch.tokens.float()
        shown = tokens[:, -1].clone()
        if not bool(chosen.any()):
            return shown
        poses, command = batch.poses[chosen], batch.command[chosen]
        state = self.forecaster.start(tokens[chosen], poses[:, : now + 1])
        for k in range(batch.steps):
            motion = (invert_pose(poses[:, now + k + 1]) @ poses[:, now + k]).float()
            state, _ = self.forecaster.step(state, command[:, now + k], motion)
        shown[chosen] = state.token
        return shown

    def state(self) -> dict[str, Any]:
        """Nothing beyond the weights: batches depend on (seed, iteration) alone."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to take up."""
