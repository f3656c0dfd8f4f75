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
from torch import Tensor

from world_model.data.ahead import read_ahead
from world_model.data.balance import BalancedFrames
from world_model.data.index import SceneIndex
from world_model.data.labels import read_labels
from world_model.data.tokens import TokenCache
from world_model.errors import DataError
from world_model.forecaster.forecaster import Forecaster
from world_model.geometry import invert_pose
from world_model.losses import sample_voxels, sampled_reconstruction_loss
from world_model.tokenizer.embedding import patch_index
from world_model.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class RefinementConfig:
    """What the decoder is refined on.

    Args:
        past: observed frames before the current one.
        horizon: forecasts run 1..horizon steps.
        voxels: voxels per grid that the loss looks at.
    """

    past: int = 4
    horizon: int = 6
    voxels: int = 24_000


@dataclass(frozen=True, kw_only=True)
class RefinementBatch:
    """B windows: the first half is decoded as observed, the second as forecast.

    Attributes:
        tokens: (B, P, C, Xl, Yl) observed tokens.
        poses: (B, P + K, 4, 4) float64 ego -> global.
        command: (B, P + K) long.
        steps: how many steps to forecast.
        labels: (B, X, Y, Z) uint8 of the frames to decode.
    """

    tokens: Tensor
    poses: Tensor
    command: Tensor
    steps: int
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
        batch: grids per iteration, half of them forecast.
        seed: fixes the draw of frames.
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

    def batches(self, first: int, last: int) -> Iterator[RefinementBatch]:
        """Batches of the iterations first..last-1, read in the background."""
        return read_ahead(self._read, range(first, last))

    def _read(self, iteration: int) -> RefinementBatch:
        config, rng = self.config, np.random.default_rng([self.seed, iteration, 13])
        current, steps = self.frames.draw(self.batch, rng), int(rng.integers(1, config.horizon + 1))
        frames = current[:, None] + np.arange(-config.past, steps + 1)
        observed = self.batch // 2
        shown = [int(f) for f in (*current[:observed], *(current[observed:] + steps))]
        labels = [read_labels(self.index.root / str(self.index.label_path[f])) for f in shown]
        tokens = np.stack([self.cache.tokens[row[0] : row[config.past] + 1] for row in frames])
        return RefinementBatch(
            tokens=torch.from_numpy(tokens).to(self.device).float(),
            poses=torch.from_numpy(self.index.ego_to_global[frames]).to(self.device),
            command=torch.from_numpy(self.index.command[frames].astype(np.int64)).to(self.device),
            steps=steps,
            labels=torch.from_numpy(np.stack(labels)).to(self.device),
        )

    def loss(self, batch: RefinementBatch, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Decode observed and forecast tokens and compare."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + iteration)
        sample = sample_voxels(batch.labels, self.config.voxels, generator)
        grid = self.tokenizer.config
        position = patch_index(sample.index, grid.grid.shape, grid.patch)
        rows = self.tokenizer.decode_rows(self._tokens(batch))
        return sampled_reconstruction_loss(rows, self.tokenizer.class_embeds.weight, batch.labels, sample, position)

    @torch.no_grad()
    def _tokens(self, batch: RefinementBatch) -> Tensor:
        observed, now = self.batch // 2, self.config.past
        state = self.forecaster.start(batch.tokens[observed:], batch.poses[observed:, : now + 1])
        for k in range(batch.steps):
            pose = batch.poses[observed:, now + k : now + k + 2]
            motion = (invert_pose(pose[:, 1]) @ pose[:, 0]).float()
            state, _ = self.forecaster.step(state, batch.command[observed:, now + k], motion)
        return torch.cat((batch.tokens[:observed, -1], state.token))

    def state(self) -> dict[str, Any]:
        """Nothing beyond the weights: batches depend on (seed, iteration) alone."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to take up."""
