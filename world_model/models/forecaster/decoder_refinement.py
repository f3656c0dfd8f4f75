"""How the decoder is refined: fixed tokens in, observed and forecast, labels out.

Once a forecaster has been trained, its tokens are not quite those that the decoder was trained on, and rare classes
may still be missing. Refining the decoder alone corrects both and keeps all tokens valid.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from world_model.core.errors import DataError
from world_model.core.geometry import invert_pose
from world_model.data.balance import BalancedFrames
from world_model.data.index import SceneIndex
from world_model.data.tokens import TokenCache
from world_model.models.forecaster.forecaster import Forecaster
from world_model.models.tokenizer.reconstruction import decoded_loss
from world_model.models.tokenizer.tokenizer import Tokenizer
from world_model.training.distributed import BatchShard, DistributedContext
from world_model.training.task import Loss, Task


@dataclass(frozen=True, kw_only=True)
class RefinementConfig:
    """What the decoder is refined on.

    Args:
        past: observed frames before the current one.
        horizon: forecasts run 1..horizon steps.
        voxels: voxels per grid in the loss.
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


class RefinementTask(Task):
    """Model, data and loss of the decoder, for the training loop; only the decoder is trained.

    Args:
        tokenizer: trained.
        forecaster: trained on its tokens.
        index: the data set.
        cache: its tokens.
        split: the split to learn from.
        config: what to learn from.
        seed: fixes the draw of frames.
        shard, context, workers: see `Task`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        forecaster: Forecaster,
        index: SceneIndex,
        cache: TokenCache,
        split: str,
        config: RefinementConfig,
        *,
        seed: int,
        shard: BatchShard,
        context: DistributedContext | None = None,
        workers: int = 2,
    ) -> None:
        super().__init__(tokenizer.decoder, seed=seed, shard=shard, context=context, workers=workers)
        self.tokenizer, self.forecaster = tokenizer, forecaster
        self.index, self.cache, self.config = index, cache, config
        scenes = [index.frames(s) for s in index.scenes(split)]
        windows = np.array([f for s in scenes for f in s[config.past : len(s) - config.horizon]], dtype=np.int64)
        if not len(windows):
            raise DataError(
                f"split {split!r} has no windows", f"scenes of {config.past + config.horizon + 1} frames", ""
            )
        self.frames = BalancedFrames(index, windows)

    @property
    def heavy(self) -> list[nn.Module]:
        """The decoder."""
        return [self.model]

    def read(self, iteration: int, samples: range) -> RefinementBatch:
        """Some windows of a step."""
        config, rng = self.config, np.random.default_rng([self.seed, iteration, 13])
        drawn, steps = self.frames.draw(self.shard.batch, rng), int(rng.integers(1, config.horizon + 1))
        current = drawn[samples.start : samples.stop]
        forecast = np.arange(len(current)) % self.shard.group >= self.shard.group // 2
        frames = current[:, None] + np.arange(-config.past, steps + 1)
        decoded = np.where(forecast, current + steps, current)
        return RefinementBatch(
            tokens=torch.from_numpy(np.stack([self.cache.rows(row[0], row[config.past] + 1) for row in frames])),
            poses=torch.from_numpy(self.index.ego_to_global[frames]),
            command=torch.from_numpy(self.index.command[frames].astype(np.int64)),
            steps=steps,
            forecast=torch.from_numpy(forecast),
            labels=torch.from_numpy(np.stack([self.index.read_truth(int(f)) for f in decoded])),
        )

    def loss(self, batch: RefinementBatch, iteration: int, micro: int = 0) -> Loss:
        """Decode observed and forecast tokens and compare."""
        config = self.config
        loss = partial(decoded_loss, self.tokenizer, voxels=config.voxels, rare_weight=config.rare_weight)
        rows = self.tokenizer.decode_rows(self._tokens(batch))
        return self.mean_over_groups(loss, iteration, micro, rows, batch.labels)

    @torch.no_grad()
    def _tokens(self, batch: RefinementBatch) -> Tensor:
        now, chosen, tokens = self.config.past, batch.forecast, batch.tokens.float()
        to_decode = tokens[:, -1].clone()
        if not bool(chosen.any()):
            return to_decode
        poses, command = batch.poses[chosen], batch.command[chosen]
        state = self.forecaster.start(tokens[chosen], poses[:, : now + 1])
        for k in range(batch.steps):
            motion = (invert_pose(poses[:, now + k + 1]) @ poses[:, now + k]).float()
            state, _ = self.forecaster.step(state, command[:, now + k], motion)
        to_decode[chosen] = state.token
        return to_decode
