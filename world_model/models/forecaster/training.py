"""How the forecaster learns: rollouts over cached tokens, with scheduled sampling (Bengio et al., NeurIPS 2015)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from world_model.core.errors import ConfigError, DataError
from world_model.core.geometry import invert_pose, quat_from_yaw, yaw_from_matrix
from world_model.data.index import SceneIndex
from world_model.data.tokens import TokenCache
from world_model.models.forecaster.forecaster import Forecaster
from world_model.models.forecaster.losses import rotation_loss, token_loss, trajectory_loss
from world_model.models.forecaster.objective import future_of, published_rollout
from world_model.models.tokenizer import Tokenizer
from world_model.models.tokenizer.reconstruction import decoded_loss
from world_model.training.distributed import BatchShard, DistributedContext, draws
from world_model.training.task import Loss, Task


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
        voxels: voxels per grid in the reconstruction loss.
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
        tokens: (B, P + K, C, Xl, Yl) float16, as in the cache.
        poses: (B, P + K, 4, 4) float64 ego -> global.
        command: (B, P + K) long.
        decoded: the forecast step that is also decoded.
        labels: (B, X, Y, Z) uint8 true labels of that step; None where nothing is decoded.
    """

    tokens: Tensor
    poses: Tensor
    command: Tensor
    decoded: int = 0
    labels: Tensor | None = None


class ForecasterTask(Task):
    """Model, data and loss of the forecaster, for the training loop.

    Args:
        model: the forecaster.
        index: the data set.
        cache: its tokens.
        split: the split to learn from.
        config: what to learn.
        iterations: length of the run, which scheduled sampling is drawn over.
        tokenizer: needed where ``occupancy_weight`` is positive.
        read_labels: reads the labels (X, Y, Z) of a frame number, 255 where nothing is known; needed likewise.
        seed: fixes the order of the windows and the sampling.
        shard, context, workers: see `Task`.
    """

    model: Forecaster

    def __init__(
        self,
        model: Forecaster,
        index: SceneIndex,
        cache: TokenCache,
        split: str,
        config: ForecasterLossConfig,
        *,
        iterations: int,
        tokenizer: Tokenizer | None = None,
        read_labels: Callable[[int], NDArray[Any]] | None = None,
        seed: int,
        shard: BatchShard,
        context: DistributedContext | None = None,
        workers: int = 2,
    ) -> None:
        if config.occupancy_weight and (tokenizer is None or read_labels is None):
            raise ConfigError("occupancy_weight without a tokenizer", "a tokenizer and its labels", "give --tokenizer")
        super().__init__(model, seed=seed, shard=shard, context=context, workers=workers)
        self.index, self.cache, self.config, self.iterations = index, cache, config, iterations
        self.tokenizer, self.read_labels = tokenizer, read_labels
        self.windows = windows_of(index, split, config)
        if len(self.windows) < shard.batch:
            raise DataError(
                f"split {split!r} has {len(self.windows)} windows of {config.past} + 1 + {self.horizon} frames",
                f"at least one batch of {shard.batch}",
                "use longer scenes or a smaller batch",
            )
        self.scale = self._scale() if config.normalise else 1.0

    @property
    def horizon(self) -> int:
        """Steps of a rollout."""
        return len(self.config.step_weights)

    @property
    def heavy(self) -> list[nn.Module]:
        """The layers of the transformer, and the decoder."""
        network = self.model.transformer
        layers = [*network.intra_encoder.layers, *network.inter_decoder.layers, network.u_net]
        return layers if self.tokenizer is None else [*layers, self.tokenizer.decoder]

    def _scale(self) -> float:
        """Variance of the tokens, over frames spread evenly through the windows."""
        frames = self.windows[:: max(1, len(self.windows) // 64)]
        tokens = np.concatenate([self.cache.rows(f, f + 1) for f in frames]).astype(np.float32)
        return float(tokens.var())

    def read(self, iteration: int, samples: range) -> WindowBatch:
        """Some windows of a step; every epoch sees all windows in another order."""
        epoch, place = divmod(iteration, len(self.windows) // self.shard.batch)
        order = np.random.default_rng([self.seed, epoch, 11]).permutation(len(self.windows))
        current = self.windows[order[place * self.shard.batch + np.asarray(samples)]]
        frames = current[:, None] + np.arange(-self.config.past, self.horizon + 1)
        decoded = int(torch.randint(self.horizon, (1,), generator=draws(self.seed, iteration, -2), device="cpu"))
        labels = None
        if self.config.occupancy_weight and self.read_labels is not None:
            numbers = frames[:, self.config.past + decoded + 1]
            labels = torch.from_numpy(np.stack([self.read_labels(int(f)) for f in numbers]))
        return WindowBatch(
            tokens=torch.from_numpy(np.stack([self.cache.rows(row[0], row[-1] + 1) for row in frames])),
            poses=torch.from_numpy(self.index.ego_to_global[frames]),
            command=torch.from_numpy(self.index.command[frames].astype(np.int64)),
            decoded=decoded,
            labels=labels,
        )

    def _teacher_forced(self, iteration: int, micro: int) -> Tensor:
        """(K, B) bool: where the truth replaces the prediction after a step."""
        ratio = math.exp(-self.config.sampling_rate * iteration / self.iterations)
        return self.draw(self.horizon, iteration, micro) < ratio

    def loss(self, batch: WindowBatch, iteration: int, micro: int = 0) -> Loss:
        """Roll out over the future frames and compare tokens, positions and rotations."""
        config, forced = self.config, self._teacher_forced(iteration, micro)
        tokens = batch.tokens.float()
        if self.model.config.faithful:
            return self._published_loss(tokens, batch, forced)
        steps, now = self.horizon, config.past
        state = self.model.start(tokens[:, : now + 1], batch.poses[:, : now + 1])
        valid = torch.ones(len(tokens), dtype=torch.bool, device=self.device)
        token_total = torch.zeros((), dtype=torch.float32, device=self.device)
        occupancy = torch.zeros((), dtype=torch.float32, device=self.device)
        shifts, true_shifts, rotations, true_rotations = [], [], [], []
        for k, weight in enumerate(config.step_weights):
            step = (invert_pose(batch.poses[:, now + k]) @ batch.poses[:, now + k + 1]).float()
            target = tokens[:, now + k + 1]
            forecast = self.model.predict(state, batch.command[:, now + k], invert_pose(step))
            token_total = token_total + weight * token_loss(forecast.token, target, valid) / self.scale
            if batch.labels is not None and k == batch.decoded:
                occupancy = self._occupancy_loss(forecast.token, batch.labels, iteration, micro)
            heading = state.poses[:, -1, :2, :2]
            shifts.append((heading @ forecast.motion[:, :2, None])[..., 0])
            true_shifts.append((heading @ step[:, :2, 3:])[..., 0])
            rotations.append(F.normalize(forecast.motion[:, 2:], dim=-1))
            true_rotations.append(quat_from_yaw(yaw_from_matrix(step)))
            token = torch.where(forced[k].view(-1, 1, 1, 1), target, forecast.token.float())
            state = self.model.advance(state, token if config.through_time else token.detach(), step)
        weights = torch.tensor(config.step_weights, dtype=torch.float32, device=self.device)
        every_step = valid[:, None].expand(-1, steps)
        path = trajectory_loss(torch.stack(shifts, 1), torch.stack(true_shifts, 1), every_step, weights).mean()
        rotation = rotation_loss(torch.stack(rotations, 1), torch.stack(true_rotations, 1), every_step, weights)
        loss = token_total + path + rotation + config.occupancy_weight * occupancy
        logs = {"token": token_total, "trajectory": path, "rotation": rotation, "occupancy": occupancy}
        return loss, {k: v.detach() for k, v in logs.items()}

    def _published_loss(self, tokens: Tensor, batch: WindowBatch, forced: Tensor) -> Loss:
        """The loss of a model with ``faithful=True``: pose and motion are teacher-forced as well as tokens."""
        config, now = self.config, self.config.past
        if config.occupancy_weight or not config.through_time:
            raise ConfigError(
                f"faithful=True with occupancy_weight={config.occupancy_weight}, through_time={config.through_time}",
                "the published objective: 0 and True",
                "change the recipe, or train with faithful=False",
            )
        state = self.model.start(tokens[:, : now + 1], batch.poses[:, : now + 1])
        future = future_of(tokens[:, now:], batch.poses[:, now - 1 if now else 0 :], batch.command[:, now:])
        _, losses = published_rollout(self.model, state, future, forced, config.step_weights)
        # Deviation 14 divides by the batch, which here is the group.
        path = losses.trajectory.mean() * self.shard.groups_per_micro_batch
        token = losses.token.sum() / self.scale
        logs = {"token": token, "trajectory": path, "rotation": losses.rotation}
        return token + path + losses.rotation, {k: v.detach() for k, v in logs.items()}

    def _occupancy_loss(self, token: Tensor, labels: Tensor, iteration: int, micro: int) -> Tensor:
        assert self.tokenizer is not None
        loss = partial(decoded_loss, self.tokenizer, voxels=self.config.voxels)
        return self.mean_over_groups(loss, iteration, micro, self.tokenizer.decode_rows(token), labels)[0]


def windows_of(index: SceneIndex, split: str, config: ForecasterLossConfig) -> NDArray[Any]:
    """Current-frame numbers of a split whose whole past and future lie in one scene."""
    past, horizon = config.past, len(config.step_weights)
    scenes = [index.frames(s) for s in index.scenes(split)]
    return np.array([f for frames in scenes for f in frames[past : max(past, len(frames) - horizon)]], dtype=np.int64)
