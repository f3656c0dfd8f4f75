"""OccWorld as a world: observed labels -> codes -> the next codes -> occupancy, one frame a step.

Legend: B environments, W frames of a window, h x w cells of a map of codes, N numbers kept of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from world_model.core.errors import OptionError
from world_model.core.geometry import invert_pose, planar_pose, warp_voxels
from world_model.core.grid import STEP_S
from world_model.core.tensor_state import TensorState
from world_model.data.clips import Clips
from world_model.models.occworld import OccWorld
from world_model.models.occworld.config import CONDITIONED, MODES, POSE_INPUTS, REWARP
from world_model.models.occworld.encoding import moved_codes
from world_model.models.occworld.motion import displacement_of, inside_cells, motion_of, pose_inputs

UNSEEN = 127
"""Marks voxels that come into view."""


@dataclass(frozen=True, kw_only=True)
class OccWorldState(TensorState):
    """B forecasts.

    Attributes:
        codes: (B, W, h, w) int16 of the frames of the window, oldest first; what lies beyond ``count`` is void.
        poses: (B, W, 5) float32 displacement and command of each frame but the current one, whose action is open.
        count: (B,) int64 frames in the window; the current one is the last.
        proposal: (B, 3, 2) float32 displacement to the next frame that the model proposes for each command, metres to
            the right and forward.
        labels: (B, X, Y, Z) uint8 occupancy now.
        kept: (B, W, N) what the frames before the current one said where attention looks; None without a cache.
    """

    codes: Tensor
    poses: Tensor
    count: Tensor
    proposal: Tensor
    labels: Tensor
    kept: Tensor | None = None


class OccWorldWorld:
    """A trained OccWorld.

    Args:
        model: tokenizer, forecaster, and for "conditioned" the adapter.
        mode: how the forecast answers the action. "faithful": not at all, as released; the occupancy is that of the
            frame which the model itself expects. "rewarp": so, then moved from the frame that its proposal leads to
            into the one that the action leads to, and encoded again. "conditioned": by the trained adapter. None: as
            the checkpoint says.
        cached: keep what past frames said; without it every step goes through the whole window, to the same result.

    Raises:
        OptionError: there is no such mode, or the model has no adapter.
    """

    needs_future_labels = False

    def __init__(self, model: OccWorld, mode: str | None = None, *, cached: bool = True) -> None:
        self.mode = mode or model.config.mode
        if self.mode not in MODES or (self.mode == CONDITIONED and model.adapter is None):
            raise OptionError(
                f"mode {self.mode!r} of an OccWorld {'without' if model.adapter is None else 'with'} an adapter",
                f"one of {MODES}; {CONDITIONED!r} needs an adapter",
                "train one with `python -m world_model.train_occworld --stage adapter`, or choose another mode",
            )
        self.model, self.cached, self.grid = model.eval(), cached, model.config.grid
        self.token_shape = (model.config.latent, *model.config.latent_shape)

    @property
    def device(self) -> torch.device:
        """Where the states live."""
        return self.model.transformer.conv_out.weight.device

    def reset(self, clips: Clips) -> OccWorldState:
        """Encode the newest observed frames, at most a window of them.

        Raises:
            DataError: labels of another grid.
        """
        device, config = self.device, self.model.config
        count = min(clips.past + 1, config.window)
        first, now = clips.past + 1 - count, clips.past
        labels = clips.occupancy[:, first:].to(device)
        codes = self.model.vae.encode_clip(labels)
        pose = clips.ego_to_global[:, first : now + 1]
        # Relative poses before float32: global coordinates run to kilometres.
        motion = (invert_pose(pose[:, 1:]) @ pose[:, :-1]).float().to(device)
        poses = pose_inputs(displacement_of(motion, config.lever_m), clips.command[:, first:now].to(device))
        velocity = clips.motion[:, now].to(device)
        last = torch.stack((-velocity[:, 1], velocity[:, 0]), -1) * STEP_S
        batch = len(labels)
        state = OccWorldState(
            codes=codes.new_zeros(batch, config.window, *codes.shape[2:], dtype=torch.int16),
            poses=torch.zeros(batch, config.window, POSE_INPUTS, dtype=torch.float32, device=device),
            count=torch.full((batch,), count, device=device),
            proposal=last[:, None].repeat(1, 3, 1),
            labels=labels[:, -1],
        )
        state.codes[:, :count] = codes.to(torch.int16)
        state.poses[:, : count - 1] = poses
        kept, displacement = self._read_in(state.codes[:, : count - 1], poses)
        proposal = state.proposal if displacement is None else displacement
        return replace(state, kept=kept, proposal=proposal)

    def step(self, state: OccWorldState, curr_to_next: Tensor, command: Tensor) -> OccWorldState:
        model, config = self.model, self.model.config
        rows, at = torch.arange(len(state.count), device=state.count.device), state.count - 1
        entry = pose_inputs(displacement_of(curr_to_next, config.lever_m), command)
        state = replace(state, poses=state.poses.index_put((rows, at), entry))
        features, proposal, state = self._look(state, rows, at)
        moved = inside = None
        if self.mode == CONDITIONED:
            moved = moved_codes(model.vae, state.labels, curr_to_next)
            inside = inside_cells(curr_to_next, config)
        codes = model.logits(features, moved, inside).argmax(1)
        labels = model.vae.decode(model.vae.token(codes))
        if self.mode == REWARP:
            labels = self._rewarped(state, labels, curr_to_next, command)
            codes = model.vae.encode(labels)
        return self._append(replace(state, labels=labels, proposal=proposal), codes)

    def drive(self, state: OccWorldState, command: Tensor) -> tuple[OccWorldState, Tensor]:
        """The ego moves as the planning head proposes under a command, with the heading of a constant curvature."""
        motion = self._proposed(state, command)
        return self.step(state, motion, command), motion

    def step_with_prediction(
        self, state: OccWorldState, command: Tensor, curr_to_next: Tensor | None = None
    ) -> tuple[OccWorldState, Tensor, Tensor]:
        """A step along a given motion or the proposal, with the proposal as dx m, dy m, dyaw rad."""
        proposed = self._proposed(state, command)
        motion = proposed if curr_to_next is None else curr_to_next
        return self.step(state, motion, command), motion, planar_pose(invert_pose(proposed))

    def tokens(self, state: OccWorldState) -> Tensor:
        """The code vectors (B, C, h, w) of the current frame."""
        rows = torch.arange(len(state.count), device=state.count.device)
        return self.model.vae.vqvae.vectors(state.codes[rows, state.count - 1].long()).float()

    def occupancy(self, state: OccWorldState) -> Tensor:
        return state.labels

    def _proposed(self, state: OccWorldState, command: Tensor) -> Tensor:
        rows = torch.arange(len(command), device=command.device)
        return motion_of(state.proposal[rows, command], self.model.config.lever_m)

    def _read_in(self, codes: Tensor, poses: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What complete frames say, for the cache, and the proposal (B, 3, 2) that follows from the last of them."""
        weight, shape = self.model.transformer.conv_out.weight, self.model.transformer.cache_shape
        kept = torch.zeros(len(codes), *shape, device=codes.device, dtype=weight.dtype) if self.cached else None
        if not codes.shape[1]:
            return kept, None
        _, displacement = self.model.features(codes.long(), poses, cache=kept)
        return kept, displacement[:, -1].float()

    def _look(self, state: OccWorldState, rows: Tensor, at: Tensor) -> tuple[Tensor, Tensor, OccWorldState]:
        """Features (B, C, h, w) and proposal (B, 3, 2) of the frame after the current one."""
        if state.kept is None:
            most = int(state.count.max())
            # What lies beyond the current frame of a shorter window is not looked at.
            maps, moved = self.model.features(state.codes[:, :most].long(), state.poses[:, :most])
            return maps[rows, at], moved[rows, at].float(), state
        kept = state.kept.clone()
        frame = state.codes[rows, at][:, None].long(), state.poses[rows, at][:, None]
        maps, moved = self.model.features(*frame, at[:, None], kept)
        return maps[:, 0], moved[:, 0].float(), replace(state, kept=kept)

    def _append(self, state: OccWorldState, codes: Tensor) -> OccWorldState:
        """The state with one more frame; a full window first forgets its older half and is read again."""
        if bool((full := state.count == self.model.config.window).any()):
            where = full.nonzero()[:, 0]
            state = state.put(where.tolist(), self._halved(state.index(where)))
        rows = torch.arange(len(codes), device=codes.device)
        codes = state.codes.index_put((rows, state.count), codes.to(torch.int16))
        return replace(state, codes=codes, count=state.count + 1)

    def _halved(self, state: OccWorldState) -> OccWorldState:
        """Full windows without their older half."""
        window = self.model.config.window
        gone = max(1, window // 2)
        codes, poses = state.codes.roll(-gone, 1), state.poses.roll(-gone, 1)
        kept, _ = self._read_in(codes[:, : window - gone], poses[:, : window - gone])
        return replace(state, codes=codes, poses=poses, count=state.count - gone, kept=kept)

    def _rewarped(self, state: OccWorldState, labels: Tensor, curr_to_next: Tensor, command: Tensor) -> Tensor:
        """Labels of the frame that the proposal leads to, moved into that of the action; at the border what was there
        before the step."""
        expected = self._proposed(state, command)
        found = warp_voxels(labels, expected @ invert_pose(curr_to_next), self.grid, fill=UNSEEN)
        before = warp_voxels(state.labels, invert_pose(curr_to_next), self.grid)
        return torch.where(found == UNSEEN, before, found)
