"""How the geometry-first forecaster learns: any observed moment, any later moment, one step of the network between.

The evidence is sampled straight from the observation, so a forecast four seconds ahead needs no rollout through the
steps before it, and training costs one forward pass per sample whatever the horizon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.core.errors import ConfigError, DataError
from world_model.core.geometry import invert_pose
from world_model.core.grid import VoxelGrid
from world_model.data.index import SceneIndex
from world_model.data.label_styles import draw_style
from world_model.models.geometric.agents.observed import FollowedMoment
from world_model.models.geometric.evidence import align_past, gather_evidence, is_movable, previous_forecast
from world_model.models.geometric.forecaster import GeometricForecaster
from world_model.models.geometric.fusion import Fused
from world_model.models.geometric.moments import MomentBatch, read_moment
from world_model.models.geometric.riding import RoadPlane
from world_model.models.losses import lovasz_softmax_binned
from world_model.models.tokenizer.embedding import patch_index
from world_model.models.voxel_sample import sample_voxels
from world_model.training.distributed import BatchShard, DistributedContext, draws
from world_model.training.task import Loss, Task

OCCUPIED_SHARE = 0.06
"""The likelihood is divided by the voxels that are usually occupied, so that it weighs about as much as Lovász."""


Learn = Literal["all", "motion", "fusion"]


@dataclass(frozen=True, kw_only=True)
class GeometricLossConfig:
    """What the geometry-first forecaster is trained for.

    Args:
        learn: both networks, or one of them while the other stays as it is. Velocities alone cost a quarter.
        near_steps: forecasts up to this many steps ahead...
        near_share: ... are this share of all samples;
        far_steps: the other samples are up to this many steps ahead.
        teacher_forcing_ratio: share of the samples whose evidence moves by the boxes' velocities, not the network's.
        whole_ratio: share of the samples whose movers are followed as whole bodies; those of the others move column by
            column.
        memory_ratio: share of the samples that also see their own forecast of the step before.
        styled_ratio: share of the samples drawn as another label maker would, on ground of another shape.
        held_ratio: share of these that repeat one frame.
        voxels: voxels per grid in the loss, beside all those of objects.
        velocity_weight: weight of the error of velocities (per m/s).
        moving_weight: weight of the decision whether something moves.
        belief_weight: weight of the pull of gates and class trust towards belief in what was seen. It decides where
            the data say little: labels and textures that are rare in training.
    """

    learn: Learn = "all"
    near_steps: int = 6
    near_share: float = 0.75
    far_steps: int = 16
    teacher_forcing_ratio: float = 0.3
    whole_ratio: float = 0.0
    memory_ratio: float = 0.5
    styled_ratio: float = 1.0
    held_ratio: float = 0.08
    voxels: int = 24_000
    velocity_weight: float = 0.15
    moving_weight: float = 1.0
    belief_weight: float = 0.02

    def __post_init__(self) -> None:
        if not 1 <= self.near_steps <= self.far_steps:
            raise ConfigError(
                f"near_steps={self.near_steps}, far_steps={self.far_steps}", "1 <= near <= far", "change one of them"
            )


class GeometricTask(Task):
    """Model, data and loss of the geometry-first forecaster, for the training loop.

    Args:
        model: the forecaster.
        indexes: the data sets; every moment of all of them is as likely.
        split: the split to learn from.
        config: what to learn.
        seed: fixes the samples.
        shard, context, workers: see `Task`.
    """

    model: GeometricForecaster

    def __init__(
        self,
        model: GeometricForecaster,
        indexes: Sequence[SceneIndex],
        split: str,
        config: GeometricLossConfig,
        *,
        seed: int,
        shard: BatchShard,
        context: DistributedContext | None = None,
        workers: int = 2,
    ) -> None:
        super().__init__(model, seed=seed, shard=shard, context=context, workers=workers)
        self.indexes, self.config = tuple(indexes), config
        model.motion.requires_grad_(config.learn != "fusion")
        model.fusion.requires_grad_(config.learn != "motion")
        past = model.config.observed - 1
        moments = [
            (n, f, index.frames(s).stop - 1 - f)
            for n, index in enumerate(self.indexes)
            for s in index.scenes(split)
            for f in index.frames(s)[past:-1]
        ]
        if not moments:
            raise DataError(
                f"split {split!r} has no scene of more than {past + 1} frames", "longer scenes", "use another data set"
            )
        self.moments = np.array(moments)

    @property
    def heavy(self) -> list[nn.Module]:
        """The bodies of both networks."""
        return [self.model.motion.body, self.model.fusion.body]

    def read(self, iteration: int, samples: range) -> MomentBatch:
        """Some moments of a step."""
        rows = [self._sample(np.random.default_rng([self.seed, iteration, n, 13])) for n in samples]
        return MomentBatch(**{k: torch.stack([row[k] for row in rows]) for k in rows[0]})

    def _sample(self, rng: np.random.Generator) -> dict[str, Tensor]:
        config, model = self.config, self.model.config
        number, frame, left = self.moments[rng.integers(len(self.moments))].tolist()
        index = self.indexes[number]
        near = rng.random() < config.near_share
        low, high = (1, config.near_steps) if near else (config.near_steps, config.far_steps)
        steps = min(int(rng.integers(low, high + 1)), left)
        if rng.random() >= config.styled_ratio:
            return read_moment(index, frame, steps, model.observed, model.grid)
        style, planar, held = draw_style(rng), rng.random() < 0.6, rng.random() < config.held_ratio
        return read_moment(index, frame, steps, model.observed, model.grid, style, planar=planar, held=held)

    def loss(self, batch: MomentBatch, iteration: int, micro: int = 0) -> Loss:
        """Likelihood and Lovász of the later labels, and the velocities of what moves."""
        batch = ridden(batch, self.model.config.grid)
        aligned = align_past(batch.observed, batch.frame_to_current, self.model.config.grid)
        loss = torch.zeros((), device=self.device)
        logs: dict[str, Tensor] = {}
        if self.config.learn != "fusion":
            samples = self.shard.samples(micro)
            how = torch.rand(self.shard.batch, 3, generator=draws(self.seed, iteration, -2)) < 0.5
            rotated, velocity = rotate(aligned, batch.velocity_mps, how[samples.start : samples.stop])
            loss, logs = self._motion_loss(rotated, velocity, batch.known)
        if self.config.learn != "motion":
            labels, parts = self._forecast_loss(aligned, batch, iteration, micro)
            loss, logs = loss + labels, logs | parts
        return loss, logs

    def _forecast_loss(self, aligned: Tensor, batch: MomentBatch, iteration: int, micro: int) -> Loss:
        model, config, grid = self.model, self.config, self.model.config.grid
        chance = self.draw(3 if config.whole_ratio else 2, iteration, micro)
        teacher_forced, with_memory = chance[0] < config.teacher_forcing_ratio, chance[1] < config.memory_ratio
        whole = chance[2] < config.whole_ratio if config.whole_ratio else torch.zeros_like(with_memory)
        with torch.no_grad():
            # Unmirrored: learning to trust velocities a little less does no harm, three more passes cost time.
            speed, going = model.motion.by_column(aligned, mirrored=False)
            predicted = model.motion.of_movers(aligned, speed, going)
            forced = teacher_forced.view(-1, 1, 1, 1)
            velocity = torch.where(forced, batch.velocity_mps, predicted)
            field = torch.where(forced, batch.velocity_mps, speed.permute(0, 2, 3, 1))
            moves = torch.where(forced[..., 0], (batch.velocity_mps != 0).any(-1), going[:, 0])
            moment = FollowedMoment.of(aligned, field, moves, velocity, whole, grid)
            seen = moment.seen
            memory = None
            if bool(with_memory.any()):
                draw = moment.drawn(batch.before_to_current, batch.before_s).onto
                evidence = gather_evidence(seen, batch.before_to_current, batch.before_s, grid, draw=draw)
                before, _ = model.fusion.forecast(evidence)
                draw(before)
                before = moment.without(before, batch.before_to_current, batch.before_s)
                target_to_before = invert_pose(batch.before_to_current) @ batch.target_to_current
                memory = previous_forecast(before, target_to_before, grid)
                inside = memory.move.inside & with_memory.view(-1, 1, 1)
                memory = replace(memory, move=replace(memory.move, inside=inside))
            draw = moment.drawn(batch.target_to_current, batch.elapsed_s).onto
            evidence = gather_evidence(seen, batch.target_to_current, batch.elapsed_s, grid, previous=memory, draw=draw)
        evidence, shift = model.fusion.canonical(evidence)
        fused, target = model.fusion(evidence), shift.lowered(batch.target)
        # Voxels are drawn, and Lovász is taken, within a group of samples: see world_model.training.distributed.
        groups = self.groups(iteration, micro, *vars(fused).values(), target)
        parts = [
            self._label_loss(Fused(features=f, labels=x, memory=m, visibility=v), *rest) for f, x, m, v, *rest in groups
        ]
        likelihood, lovasz = (torch.stack(values).mean() for values in zip(*parts, strict=True))
        doubt = model.fusion.doubt(fused)
        logs = {"likelihood": likelihood.detach(), "lovasz": lovasz.detach(), "doubt": doubt.detach()}
        return likelihood + lovasz + config.belief_weight * doubt, logs

    def _label_loss(self, fused: Fused, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        grid, patch = self.model.config.grid, self.model.config.patch
        sample = sample_voxels(target, self.config.voxels, generator)
        log_p = self.model.fusion.log_probabilities(fused, patch_index(sample.index, grid.shape, patch))
        truth = target.reshape(-1)[sample.index].long()
        likelihood = (F.nll_loss(log_p, truth, reduction="none") * sample.weight).sum()
        likelihood = likelihood / (OCCUPIED_SHARE * max(sample.total, 1))
        return likelihood, lovasz_softmax_binned(log_p.exp(), truth, sample.weight)

    def _motion_loss(self, aligned: Tensor, velocity_mps: Tensor, known: Tensor) -> Loss:
        config, patch = self.config, float(self.model.config.patch)
        speed, moves = self.model.motion(aligned)
        fine = F.interpolate(speed.float(), scale_factor=patch).permute(0, 2, 3, 1)
        going = F.interpolate(moves[:, None].float(), scale_factor=patch)[:, 0]
        column = is_movable(aligned[:, 0]).any(-1) & known[:, None, None]
        mover = column & (velocity_mps.norm(dim=-1) > self.model.config.moving_mps)
        error = (fine - velocity_mps).abs().sum(-1) * mover
        decision = F.binary_cross_entropy_with_logits(going, mover.float(), reduction="none") * column
        # Means per sample first, so that a sample weighs the same in every batch.
        velocity = (error.sum((1, 2)) / mover.sum((1, 2)).clamp(min=1)).mean()
        moving = (decision.sum((1, 2)) / column.sum((1, 2)).clamp(min=1)).mean()
        loss = config.velocity_weight * velocity + config.moving_weight * moving
        return loss, {"velocity": velocity.detach(), "moving": moving.detach()}


def ridden(batch: MomentBatch, grid: VoxelGrid) -> MomentBatch:
    """The batch with ego frames as they stand on the road; see `RoadPlane`."""
    road = RoadPlane.of(batch.observed[:, -1], grid)
    past = [road.ride(pose, grid) for pose in batch.frame_to_current.unbind(1)]
    return replace(
        batch,
        frame_to_current=torch.stack(past, 1),
        target_to_current=road.ride(batch.target_to_current, grid),
        before_to_current=road.ride(batch.before_to_current, grid),
    )


def rotate(aligned: Tensor, velocity_mps: Tensor, how: Tensor) -> tuple[Tensor, Tensor]:
    """Mirrored and rotated samples: eight times as many views of what moves.

    Args:
        aligned: (B, P, X, Y, Z) frames in one ego frame.
        velocity_mps: (B, X, Y, 2) in it.
        how: (B, 3) bool, mirror x, mirror y, swap x and y (where the grid is as wide as long).

    Returns:
        Both, of the same shapes.
    """
    frames, velocities = list(aligned), list(velocity_mps)
    for n, (flip_x, flip_y, swap) in enumerate(how.tolist()):
        axes = [axis for axis, flip in ((0, flip_x), (1, flip_y)) if flip]
        sign = velocity_mps.new_tensor((-1.0 if flip_x else 1.0, -1.0 if flip_y else 1.0))
        frames[n] = frames[n].flip([axis + 1 for axis in axes])
        velocities[n] = velocities[n].flip(axes) * sign
        if swap and aligned.shape[2] == aligned.shape[3]:
            frames[n], velocities[n] = frames[n].transpose(1, 2), velocities[n].transpose(0, 1).flip(-1)
    return torch.stack(frames), torch.stack(velocities)
