"""How the geometry-first forecaster learns: any observed moment, any later moment, one step of the network between.

The evidence is sampled straight from the observation, so a forecast four seconds ahead needs no rollout through the
steps before it, and training costs one forward pass per sample whatever the horizon.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.core.errors import ConfigError, DataError
from world_model.core.geometry import invert_pose
from world_model.core.grid import VoxelGrid
from world_model.data.boxes import moving as moving_boxes
from world_model.data.boxes import voxels_inside
from world_model.data.clips import load_frame
from world_model.data.index import SceneIndex
from world_model.data.prefetch import feed
from world_model.models.geometric.evidence import align_past, is_movable, observe, recall_forecast
from world_model.models.geometric.forecaster import GeometricForecaster
from world_model.models.geometric.fusion import Fused
from world_model.models.losses import lovasz_softmax_binned, sample_voxels
from world_model.models.tokenizer.embedding import patch_index
from world_model.training.distributed import Ranks, Share, draws

OCCUPIED_SHARE = 0.06
"""The likelihood is divided by the voxels that are usually occupied, so that it weighs about as much as Lovász."""
BOX_MARGIN_M = 0.4


Learn = Literal["all", "motion", "fusion"]


@dataclass(frozen=True, kw_only=True)
class GeometricLossConfig:
    """What the geometry-first forecaster is trained for.

    Args:
        learn: both networks, or one of them while the other stays as it is. Velocities alone cost a quarter.
        near_steps: forecasts up to this many steps ahead...
        near_share: ... are this share of all samples;
        far_steps: the others reach up to here.
        taught_share: share of the samples whose evidence moves by the boxes' velocities, not the network's own.
        recalled_share: share of the samples that also see their own forecast of the step before.
        voxels: voxels per grid that the loss looks at, beside all those of objects.
        velocity_weight: weight of the error of velocities (per m/s).
        moving_weight: weight of the decision whether something moves.
    """

    learn: Learn = "all"
    near_steps: int = 6
    near_share: float = 0.75
    far_steps: int = 16
    taught_share: float = 0.3
    recalled_share: float = 0.5
    voxels: int = 24_000
    velocity_weight: float = 0.15
    moving_weight: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.near_steps <= self.far_steps:
            raise ConfigError(
                f"near_steps={self.near_steps}, far_steps={self.far_steps}", "1 <= near <= far", "change one of them"
            )


@dataclass(frozen=True, kw_only=True)
class MomentBatch:
    """B pairs of an observed and a later moment.

    Attributes:
        observed: (B, P, X, Y, Z) uint8, oldest first.
        frame_to_current: (B, P, 4, 4) float32 ego frame of each observed frame -> current ego frame, metres.
        target: (B, X, Y, Z) uint8 labels of the later moment.
        target_to_current, before_to_current: (B, 4, 4) ego frame of the later moment, and of the keyframe before it,
            -> current ego frame.
        elapsed_s, before_s: (B,) time since the current keyframe of the two.
        velocity_mps: (B, X, Y, 2) velocity of what the boxes say moves; zero elsewhere.
        known: (B,) bool, whether the current keyframe has boxes at all.
    """

    observed: Tensor
    frame_to_current: Tensor
    target: Tensor
    target_to_current: Tensor
    before_to_current: Tensor
    elapsed_s: Tensor
    before_s: Tensor
    velocity_mps: Tensor
    known: Tensor


class GeometricTask:
    """Model, data and loss of the geometry-first forecaster, for the training loop.

    Args:
        model: the forecaster.
        index: the data set.
        split: the split to learn from.
        config: what to learn.
        batch: samples per iteration, over all processes.
        seed: fixes the samples.
        share: which samples are this process's; None: all, in one portion.
        ranks: this process among those that train; None: alone.
        workers: threads that read labels.
    """

    def __init__(
        self,
        model: GeometricForecaster,
        index: SceneIndex,
        split: str,
        config: GeometricLossConfig,
        *,
        batch: int,
        seed: int,
        share: Share | None = None,
        ranks: Ranks | None = None,
        workers: int = 2,
    ) -> None:
        self.model, self.index, self.config, self.batch, self.seed = model, index, config, batch, seed
        self.device, self.workers = next(model.parameters()).device, workers
        self.share = share or Share(portion=batch)
        self.ranks = ranks or Ranks(device=self.device)
        model.motion.requires_grad_(config.learn != "fusion")
        model.fusion.requires_grad_(config.learn != "motion")
        past = model.config.observed - 1
        moments = [(f, index.frames(s).stop - 1 - f) for s in index.scenes(split) for f in index.frames(s)[past:-1]]
        if not moments:
            raise DataError(
                f"split {split!r} has no scene of more than {past + 1} frames", "longer scenes", "use another data set"
            )
        self.moments = np.array(moments)

    @property
    def heavy(self) -> list[nn.Module]:
        """What may compute in bfloat16."""
        return [self.model.motion.body, self.model.fusion.body]

    def batches(self, first: int, last: int) -> Iterator[MomentBatch]:
        """Portions of the iterations first..last-1, one after the other."""
        portions = self.share.portions
        return feed(self._read, range(first * portions, last * portions), self.device, workers=self.workers)

    def _read(self, number: int) -> MomentBatch:
        iteration, portion = divmod(number, self.share.portions)
        own = self.share.samples(portion)
        samples = [self._sample(np.random.default_rng([self.seed, iteration, n, 13])) for n in own]
        return MomentBatch(**{k: torch.stack([s[k] for s in samples]) for k in samples[0]})

    def _sample(self, rng: np.random.Generator) -> dict[str, Tensor]:
        config, grid = self.config, self.model.config.grid
        frame, left = self.moments[rng.integers(len(self.moments))].tolist()
        near = rng.random() < config.near_share
        low, high = (1, config.near_steps) if near else (config.near_steps, config.far_steps)
        ahead = min(int(rng.integers(low, high + 1)), left)
        past = list(range(frame - self.model.config.observed + 1, frame + 1))
        pose = torch.from_numpy(self.index.ego_to_global[[*past, frame + ahead - 1, frame + ahead]])
        # Relative poses before float32: global coordinates run to kilometres.
        to_current = (invert_pose(pose[len(past) - 1]) @ pose).float()
        time_s = (self.index.timestamp_us[[frame + ahead - 1, frame + ahead]] - self.index.timestamp_us[frame]) * 1e-6
        seconds = torch.tensor(time_s, dtype=torch.float32)
        velocity, known = box_velocities(self.index, frame, grid)
        return {
            "observed": torch.stack([load_frame(self.index, f, grid) for f in past]),
            "frame_to_current": to_current[: len(past)],
            "target": torch.from_numpy(np.array(self.index.read_truth(frame + ahead, grid.shape))),
            "target_to_current": to_current[-1],
            "before_to_current": to_current[-2],
            "elapsed_s": seconds[1],
            "before_s": seconds[0],
            "velocity_mps": velocity,
            "known": torch.tensor(known),
        }

    def begin_step(self, batch: MomentBatch, iteration: int) -> None:
        """Nothing to prepare."""

    def end_step(self) -> dict[str, Tensor]:
        """Nothing to add."""
        return {}

    def _chances(self, iteration: int, portion: int) -> tuple[Tensor, Tensor]:
        """(B,) bool each: who moves by the boxes, who recalls a forecast. Drawn for all samples of the step."""
        chance = torch.rand(2, self.batch, generator=draws(self.seed, iteration, -1))
        own = self.share.samples(portion)
        share = torch.tensor((self.config.taught_share, self.config.recalled_share))
        taught, recalled = (chance[:, own.start : own.stop] < share[:, None]).to(self.device)
        return taught, recalled

    def loss(self, batch: MomentBatch, iteration: int, portion: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """Likelihood and Lovász of the later labels, and the velocities of what moves."""
        aligned = align_past(batch.observed, batch.frame_to_current, self.model.config.grid)
        loss = torch.zeros((), device=self.device)
        logs: dict[str, Tensor] = {}
        if self.config.learn != "fusion":
            turned, velocity = turn(aligned, batch.velocity_mps, self._turns(iteration, portion))
            loss, logs = self._motion_loss(turned, velocity, batch.known)
        if self.config.learn != "motion":
            labels, parts = self._forecast_loss(aligned, batch, iteration, portion)
            loss, logs = loss + labels, logs | parts
        return loss, logs

    def _turns(self, iteration: int, portion: int) -> Tensor:
        """(B, 3) bool how the velocities' samples are turned; see `turn`."""
        own = self.share.samples(portion)
        return torch.rand(self.batch, 3, generator=draws(self.seed, iteration, -2))[own.start : own.stop] < 0.5

    def _forecast_loss(
        self, aligned: Tensor, batch: MomentBatch, iteration: int, portion: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        model, grid = self.model, self.model.config.grid
        taught, recalled = self._chances(iteration, portion)
        with torch.no_grad():
            # One look has to do: learning to trust velocities a little less does no harm, three more looks cost time.
            own = model.motion.velocity(aligned, mirrored=False)
            velocity = torch.where(taught.view(-1, 1, 1, 1), batch.velocity_mps, own)
            seen = observe(aligned, velocity)
            memory = None
            if bool(recalled.any()):
                before = model.fuse(model.move(seen, batch.before_to_current, batch.before_s))
                target_to_before = invert_pose(batch.before_to_current) @ batch.target_to_current
                back = recall_forecast(before, target_to_before, grid)
                who = recalled.view(-1, 1, 1)
                memory = replace(back, move=replace(back.move, inside=back.move.inside & who))
            evidence = model.move(seen, batch.target_to_current, batch.elapsed_s, recalled=memory)
        fused = model.fusion(evidence)
        # Voxels are drawn, and Lovász is taken, within a group of samples: see world_model.training.distributed.
        size, groups = self.share.group, self.share.groups(portion)
        parts = []
        for place, group in enumerate(groups):
            rows = slice(place * size, (place + 1) * size)
            part = fused if len(groups) == 1 else Fused(**{k: v[rows] for k, v in vars(fused).items()})
            parts.append(self._label_loss(part, batch.target[rows], draws(self.seed, iteration, group)))
        likelihood, lovasz = (torch.stack(values).mean() for values in zip(*parts, strict=True))
        return likelihood + lovasz, {"likelihood": likelihood.detach(), "lovasz": lovasz.detach()}

    def _label_loss(self, fused: Fused, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        grid, patch = self.model.config.grid, self.model.config.patch
        sample = sample_voxels(target, self.config.voxels, generator)
        log_p = self.model.fusion.log_probabilities(fused, patch_index(sample.index, grid.shape, patch))
        truth = target.reshape(-1)[sample.index].long()
        missed = F.nll_loss(log_p, truth, reduction="none") * sample.weight
        likelihood = missed.sum() / (OCCUPIED_SHARE * target.numel())
        return likelihood, lovasz_softmax_binned(log_p.exp(), truth, sample.weight)

    def _motion_loss(self, aligned: Tensor, velocity_mps: Tensor, known: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        config, patch = self.config, float(self.model.config.patch)
        speed, moves = self.model.motion(aligned)
        fine = F.interpolate(speed.float(), scale_factor=patch).permute(0, 2, 3, 1)
        going = F.interpolate(moves[:, None].float(), scale_factor=patch)[:, 0]
        column = is_movable(aligned[:, 0]).any(-1) & known[:, None, None]
        mover = column & (velocity_mps.norm(dim=-1) > self.model.config.moving_mps)
        error = (fine - velocity_mps).abs().sum(-1) * mover
        decision = F.binary_cross_entropy_with_logits(going, mover.float(), reduction="none") * column
        # Means per sample first, so that a sample weighs the same in whatever batch it stands.
        velocity = (error.sum((1, 2)) / mover.sum((1, 2)).clamp(min=1)).mean()
        moving = (decision.sum((1, 2)) / column.sum((1, 2)).clamp(min=1)).mean()
        loss = config.velocity_weight * velocity + config.moving_weight * moving
        return loss, {"velocity": velocity.detach(), "moving": moving.detach()}

    def state(self) -> dict[str, Any]:
        """Nothing beyond the weights: samples depend on (seed, iteration) alone."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to take up."""


def turn(aligned: Tensor, velocity_mps: Tensor, how: Tensor) -> tuple[Tensor, Tensor]:
    """Mirrored and turned worlds: what moves there is as easily said, and eight times as much is seen of it.

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


def box_velocities(index: SceneIndex, frame: int, grid: VoxelGrid) -> tuple[Tensor, bool]:
    """(X, Y, 2) float32 velocity of the columns inside boxes that move, ego axes, and whether there are boxes."""
    field = torch.zeros(*grid.shape[:2], 2)
    boxes = index.boxes(frame)
    movers = moving_boxes(boxes)
    for number in range(len(movers.class_id)):
        voxel = voxels_inside(movers, number, grid, BOX_MARGIN_M)
        field[voxel[:, 0], voxel[:, 1]] = torch.from_numpy(np.asarray(movers.velocity_mps[number], np.float32))
    return field, len(boxes.class_id) > 0
