"""How the forecaster learns: rollouts over cached tokens, with scheduled sampling (Bengio et al., NeurIPS 2015)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.data.ahead import read_ahead
from world_model.data.index import SceneIndex
from world_model.data.tokens import TokenCache
from world_model.errors import ConfigError, DataError
from world_model.forecaster.forecaster import Forecaster
from world_model.geometry import invert_pose, quat_from_yaw, yaw_from_matrix
from world_model.losses import rotation_loss, sample_voxels, sampled_reconstruction_loss, token_loss, trajectory_loss
from world_model.tokenizer import Tokenizer
from world_model.tokenizer.embedding import patch_index


@dataclass(frozen=True, kw_only=True)
class ForecasterLossConfig:
    """What the forecaster is trained for.

    Args:
        past: observed frames before the current one.
        step_weights: weight of each forecast step; their number is the length of the rollout.
        sampling_rate: the ground truth replaces the prediction after a step with probability
            exp(-sampling_rate * iteration / iterations).
        through_time: gradients flow from later steps into earlier predictions, as published. False trains every step
            on its own (predictions of earlier steps are inputs like any other), at half the cost.
        normalise: divide the token loss by the variance of the tokens, so that one learning rate fits any tokenizer.
        occupancy_weight: weight of the reconstruction loss of one decoded step per rollout; 0 is published.
        voxels: voxels per grid that the reconstruction loss looks at.
    """

    past: int = 4
    step_weights: tuple[float, ...] = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25)
    sampling_rate: float = 2.5
    through_time: bool = True
    normalise: bool = False
    occupancy_weight: float = 0.0
    voxels: int = 16_000

    def __post_init__(self) -> None:
        if not self.step_weights or self.past < 0:
            raise ConfigError(f"step_weights {self.step_weights}, past {self.past}", "at least one step", "change them")


@dataclass(frozen=True, kw_only=True)
class WindowBatch:
    """Windows of P observed and K future frames.

    Attributes:
        tokens: (B, P + K, C, Xl, Yl) float32.
        poses: (B, P + K, 4, 4) float64 ego -> global.
        command: (B, P + K) long.
        frames: (B, P + K) long frame numbers in the index.
    """

    tokens: Tensor
    poses: Tensor
    command: Tensor
    frames: np.ndarray


class ForecasterTask:
    """Model, data and loss of the forecaster, for the training loop.

    Args:
        model: the forecaster.
        index: the data set.
        cache: its tokens.
        split: the split to learn from.
        config: what to learn.
        batch: windows per iteration.
        iterations: length of the run, which scheduled sampling is drawn over.
        seed: fixes the order of the windows and the sampling.
        tokenizer: needed where ``occupancy_weight`` is positive.
        read_labels: reads the labels (X, Y, Z) of a frame number; needed likewise.
    """

    def __init__(
        self,
        model: Forecaster,
        index: SceneIndex,
        cache: TokenCache,
        split: str,
        config: ForecasterLossConfig,
        *,
        batch: int,
        iterations: int,
        seed: int,
        tokenizer: Tokenizer | None = None,
        read_labels: Any = None,
    ) -> None:
        self.model, self.index, self.cache, self.config = model, index, cache, config
        self.batch, self.iterations, self.seed = batch, iterations, seed
        self.tokenizer, self.read_labels = tokenizer, read_labels
        self.device = next(model.parameters()).device
        horizon = len(config.step_weights)
        self.windows = np.array(
            [f for s in index.scenes(split) for f in index.frames(s)[config.past : len(index.frames(s)) - horizon]]
        )
        if len(self.windows) < batch:
            raise DataError(
                f"split {split!r} has {len(self.windows)} windows of {config.past} + 1 + {horizon} frames",
                f"at least one batch of {batch}",
                "use longer scenes or a smaller batch",
            )
        self.scale = self._scale() if config.normalise else 1.0

    def _scale(self) -> float:
        """Variance of the tokens, over frames spread evenly through the windows."""
        frames = self.windows[:: max(1, len(self.windows) // 64)]
        tokens = np.stack([self.cache.tokens[f] for f in frames]).astype(np.float32)
        return float(tokens.var())

    def batches(self, first: int, last: int) -> Iterator[WindowBatch]:
        """Windows of the iterations first..last-1, read in the background."""
        return read_ahead(self._read, range(first, last))

    def _read(self, iteration: int) -> WindowBatch:
        per_epoch = len(self.windows) // self.batch
        epoch, place = divmod(iteration, per_epoch)
        order = np.random.default_rng([self.seed, epoch, 11]).permutation(len(self.windows))
        current = self.windows[order[place * self.batch : (place + 1) * self.batch]]
        frames = current[:, None] + np.arange(-self.config.past, len(self.config.step_weights) + 1)
        tokens = np.stack([self.cache.tokens[row[0] : row[-1] + 1] for row in frames])
        return WindowBatch(
            tokens=torch.from_numpy(tokens).to(self.device).float(),
            poses=torch.from_numpy(self.index.ego_to_global[frames]).to(self.device),
            command=torch.from_numpy(self.index.command[frames].astype(np.int64)).to(self.device),
            frames=frames,
        )

    def loss(self, batch: WindowBatch, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Roll out over the future frames and compare tokens, positions and rotations."""
        config, generator = self.config, torch.Generator().manual_seed(self.seed * 1_000_003 + iteration)
        keep = math.exp(-config.sampling_rate * iteration / self.iterations)
        steps, now = len(config.step_weights), config.past
        decoded = int(torch.randint(steps, (1,), generator=generator))
        state = self.model.start(batch.tokens[:, : now + 1], batch.poses[:, : now + 1])
        valid = torch.ones(len(batch.tokens), dtype=torch.bool, device=self.device)
        token_total = torch.zeros((), device=self.device)
        occupancy = torch.zeros((), device=self.device)
        shifts, wanted_shifts, turns, wanted_turns = [], [], [], []
        for k, weight in enumerate(config.step_weights):
            step = (invert_pose(batch.poses[:, now + k]) @ batch.poses[:, now + k + 1]).float()
            target = batch.tokens[:, now + k + 1]
            forecast = self.model.predict(state, batch.command[:, now + k], invert_pose(step))
            token_total = token_total + weight * token_loss(forecast.token, target, valid) / self.scale
            if config.occupancy_weight and k == decoded:
                occupancy = self._occupancy_loss(forecast.token, batch.frames[:, now + k + 1], generator)
            heading = state.poses[:, -1, :2, :2]
            shifts.append((heading @ forecast.motion[:, :2, None])[..., 0])
            wanted_shifts.append((heading @ step[:, :2, 3:])[..., 0])
            turns.append(F.normalize(forecast.motion[:, 2:], dim=-1))
            wanted_turns.append(quat_from_yaw(yaw_from_matrix(step)))
            truth = (torch.rand(len(target), generator=generator) < keep).to(self.device)
            token = torch.where(truth.view(-1, 1, 1, 1), target, forecast.token.float())
            state = self.model.advance(state, token if config.through_time else token.detach(), step)
        pad = torch.tensor(config.step_weights, device=self.device)
        alright = valid[:, None].expand(-1, steps)
        path = trajectory_loss(torch.stack(shifts, 1), torch.stack(wanted_shifts, 1), alright, pad).mean()
        turn = rotation_loss(torch.stack(turns, 1), torch.stack(wanted_turns, 1))
        loss = token_total + path + turn + config.occupancy_weight * occupancy
        logs = {"token": token_total, "trajectory": path, "rotation": turn, "occupancy": occupancy}
        return loss, {k: v.detach() for k, v in logs.items()}

    def _occupancy_loss(self, token: Tensor, frames: np.ndarray, generator: torch.Generator) -> Tensor:
        if self.tokenizer is None or self.read_labels is None:
            raise ConfigError("occupancy_weight without a tokenizer", "a tokenizer and its labels", "give --tokenizer")
        labels = torch.from_numpy(np.stack([self.read_labels(int(f)) for f in frames])).to(self.device)
        sample = sample_voxels(labels, self.config.voxels, generator)
        grid = self.tokenizer.config
        position = patch_index(sample.index, grid.grid.shape, grid.patch)
        rows, table = self.tokenizer.decode_rows(token), self.tokenizer.class_embeds.weight
        return sampled_reconstruction_loss(rows, table, labels, sample, position)[0]

    def state(self) -> dict[str, Any]:
        """Nothing beyond the weights: batches depend on (seed, iteration) alone."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to take up."""
