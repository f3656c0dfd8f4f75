"""The forecaster: from tokens and poses seen so far, and a motion to come, to the next token.

State goes in and comes out; nothing is remembered on the module. Source: I2-World (ICCV 2025, arXiv 2507.09144).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.core.errors import DataError
from world_model.core.geometry import invert_pose, planar_pose, warp_bev, yaw_from_matrix
from world_model.core.tensor_state import TensorState
from world_model.models.forecaster.config import ForecasterConfig
from world_model.models.forecaster.ego import EgoState, observed_ego
from world_model.models.forecaster.ego import curr_to_next as curr_to_next_of
from world_model.models.forecaster.motion import PoseEncoder, chosen_motion, observed_slots, slot_of, step_pose
from world_model.models.forecaster.transformer import Transformer, to_cells, to_map


@dataclass(frozen=True, kw_only=True)
class ForecastState(TensorState):
    """All that the next step depends on. B samples, H remembered frames, oldest to newest, the current one last.

    Attributes:
        tokens: (B, H, C, Xl, Yl).
        poses: (B, H, 4, 4) ego -> the ego frame at the start of the forecast, float32.
        motions: (B, H, 9) motion slots.
        ego: the ego vehicle as the published model follows it; None unless ``faithful``.
    """

    tokens: Tensor
    poses: Tensor
    motions: Tensor
    ego: EgoState | None = None

    @property
    def token(self) -> Tensor:
        """(B, C, Xl, Yl) current token."""
        return self.tokens[:, -1]


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """One forecast step.

    Attributes:
        token: (B, C, Xl, Yl) next token.
        curr_to_next: (B, 4, 4) the motion it was conditioned on: current ego frame -> next ego frame.
        motion: (B, 6) the ego head's own prediction: dx, dy in the current ego frame (m; along the global axes if
            ``faithful``), quaternion (w, x, y, z).
        predicted_motion: (B, 3) the same as dx, dy in the current ego frame (m), dyaw (rad).
        predicted_ego: where the ego head's prediction leads, and the motion slot (B, 9) of it; only if ``faithful``.
    """

    token: Tensor
    curr_to_next: Tensor
    motion: Tensor
    predicted_motion: Tensor
    predicted_ego: tuple[EgoState, Tensor] | None = None


class Forecaster(nn.Module):
    """Tokens -> next tokens, step by step."""

    def __init__(self, config: ForecasterConfig) -> None:
        super().__init__()
        self.config = config
        self.pose_encoder = PoseEncoder(config.width, config.pose_width, config.history)
        self.transformer = Transformer(config)
        if config.transport:
            self.phase_embed = nn.Linear(4, config.width)
            self.change = nn.Linear(config.width, config.width)
            # At first the forecast is the moved token itself.
            nn.init.zeros_(self.change.weight)
            nn.init.zeros_(self.change.bias)

    def start(self, tokens: Tensor, poses: Tensor) -> ForecastState:
        """Begin a forecast.

        Args:
            tokens: (B, P, C, Xl, Yl) tokens of the observed frames, oldest to newest, P >= 1.
            poses: (B, P, 4, 4) their ego poses in any common frame (float64 for global coordinates).

        With ``faithful``, the poses have to be true global ones (deviation 12), and the motion memory is that of a
        sequence which starts at the first of them; `resume` continues an earlier call instead.

        Raises:
            DataError: tokens of another size than the configured one.
        """
        config = self.config
        expected = (config.width, *config.latent_shape)
        if tokens.shape[2:] != expected or poses.shape != (*tokens.shape[:2], 4, 4):
            raise DataError(
                f"tokens {tuple(tokens.shape)} with poses {tuple(poses.shape)}",
                f"(B, P, {', '.join(map(str, expected))}) with (B, P, 4, 4)",
                "use tokens of the tokenizer that this forecaster was trained with",
            )
        if config.faithful:
            return self._begin(tokens[:, -1], observed_ego(poses, config.history))
        # Relative poses first, then float32: global coordinates run to kilometres.
        local = (invert_pose(poses[:, -1:]) @ poses).float()
        motions = observed_slots(local, config.history)
        tokens, local = tokens[:, -config.history :], local[:, -config.history :]
        missing = config.history - tokens.shape[1]
        return ForecastState(
            tokens=torch.cat((tokens[:, :1].expand(-1, missing, -1, -1, -1), tokens), 1),
            poses=torch.cat((local[:, :1].expand(-1, missing, -1, -1), local), 1),
            motions=motions.to(tokens.dtype),
        )

    def resume(self, token: Tensor, ego: EgoState, position: Tensor, rotation: Tensor, start: Tensor) -> ForecastState:
        """Begin a forecast as the published model does, with the motion memory of earlier calls (``faithful`` only).

        Args:
            token: (B, C, Xl, Yl) current token.
            ego: from `EgoState.initial`, or from the last state of the call before (after `EgoState.observe`).
            position: (B, 3) current global position, metres.
            rotation: (B, 4) current quaternion ego -> global.
            start: (B,) bool, True where a sequence starts with this frame.
        """
        return self._begin(token, ego.begin(position, rotation, start))

    def _begin(self, token: Tensor, ego: EgoState) -> ForecastState:
        slots = self.config.history
        still = torch.eye(4, dtype=torch.float32, device=token.device).expand(len(token), slots, 4, 4)
        # Deviation 11: the history is the current token over and over.
        tokens = token[:, None].expand(-1, slots, -1, -1, -1)
        return ForecastState(tokens=tokens, poses=still, motions=ego.observed.to(token.dtype), ego=ego)

    def step(
        self, state: ForecastState, command: Tensor, curr_to_next: Tensor | None = None
    ) -> tuple[ForecastState, Forecast]:
        """Forecast half a second.

        With ``faithful``, a given motion only conditions the next token; the motion memory follows the model's own
        prediction, as published.

        Args:
            state: from `start` or the previous step.
            command: (B,) long: 0 right, 1 left, 2 straight.
            curr_to_next: (B, 4, 4) current ego frame -> next ego frame; None lets the model choose by the command.
        """
        forecast = self.predict(state, command, curr_to_next)
        if forecast.predicted_ego is not None:
            return self.advance_published(state, forecast.token, *forecast.predicted_ego), forecast
        return self.advance(state, forecast.token, invert_pose(forecast.curr_to_next)), forecast

    def follow(self, state: ForecastState, command: Tensor, curr_to_next: Tensor) -> ForecastState:
        """The state after `step` with a given motion, to the bit, without computing the ego head.

        With ``faithful`` the motion memory follows that head, so nothing can be left out.
        """
        if state.ego is not None:
            return self.step(state, command, curr_to_next)[0]
        token = self._next_token(state, self.transformer.encode_map(state.token), curr_to_next)
        return self.advance(state, token, invert_pose(curr_to_next))

    def predict(
        self,
        state: ForecastState,
        command: Tensor,
        curr_to_next: Tensor | None = None,
        *,
        couple_batch: bool = False,
    ) -> Forecast:
        """The forecast of `step` without moving on.

        ``couple_batch`` measures speed over the batch as published (deviation 5; ``faithful`` only, for tests).
        """
        if state.ego is not None:
            return self._predict_published(state, state.ego, command, curr_to_next, couple_batch)
        present, motions = self.transformer.encode(state.token, self.pose_encoder(state.motions))
        motion = chosen_motion(motions, command).float()
        predicted = step_pose(motion)
        if curr_to_next is None:
            curr_to_next = invert_pose(predicted)
        return Forecast(
            token=self._next_token(state, present, curr_to_next),
            curr_to_next=curr_to_next,
            motion=motion,
            predicted_motion=torch.cat((motion[:, :2], yaw_from_matrix(predicted)[:, None]), -1),
        )

    def _predict_published(
        self, state: ForecastState, ego: EgoState, command: Tensor, curr_to_next: Tensor | None, couple_batch: bool
    ) -> Forecast:
        present, motions = self.transformer.encode(state.token, self.pose_encoder(state.motions))
        obeyed, ego = ego.obey(command)
        motion = chosen_motion(motions, obeyed)
        following, slot = ego.follow(motion, couple_batch=couple_batch)
        to_next = curr_to_next_of(ego, following)
        next_in_curr = invert_pose(to_next)
        if curr_to_next is None:
            curr_to_next = to_next.to(torch.promote_types(present.dtype, torch.float32))
        return Forecast(
            token=self._decode_published(state, present, curr_to_next),
            curr_to_next=curr_to_next,
            motion=motion,
            predicted_motion=planar_pose(next_in_curr).float(),
            predicted_ego=(following, slot),
        )

    def advance_published(self, state: ForecastState, token: Tensor, ego: EgoState, slot: Tensor) -> ForecastState:
        """`advance` as published: to an ego state, with the motion slot (B, 9) of the step (``faithful`` only)."""
        assert state.ego is not None
        moved = invert_pose(curr_to_next_of(state.ego, ego)).to(state.poses.dtype)
        following = self.advance(state, token, moved)
        motions = torch.cat((state.motions[:, 1:], slot[:, None].detach().to(state.motions.dtype)), 1)
        return replace(following, motions=motions, ego=ego)

    def advance(self, state: ForecastState, token: Tensor, next_in_curr: Tensor) -> ForecastState:
        """Take a token and the next ego frame's pose in the current one (B, 4, 4) as what happened."""
        pose = state.poses[:, -1] @ next_in_curr.to(state.poses.dtype)
        slot = slot_of(next_in_curr).to(state.motions.dtype)
        # The copy in the history carries no gradient; the current token does.
        past = torch.cat((state.tokens[:, 1:-1], state.tokens[:, -1:].detach()), 1)
        return ForecastState(
            tokens=torch.cat((past, token[:, None].to(past.dtype)), 1),
            poses=torch.cat((state.poses[:, 1:], pose[:, None]), 1),
            motions=torch.cat((state.motions[:, 1:], slot[:, None].detach()), 1),
        )

    def _next_token(self, state: ForecastState, present: Tensor, curr_to_next: Tensor) -> Tensor:
        decode = self._decode_moved if self.config.transport else self._decode_published
        return decode(state, present, curr_to_next.float())

    def _decode_published(self, state: ForecastState, present: Tensor, curr_to_next: Tensor) -> Tensor:
        # Gradients reach the current token through the encoder alone, not through its copy in the history.
        return self.transformer.decode(present, state.tokens.detach(), curr_to_next)

    def _decode_moved(self, state: ForecastState, present: Tensor, curr_to_next: Tensor) -> Tensor:
        """Move what is known into the next frame first: the network only predicts what geometry cannot."""
        config = self.config
        batch, slots, width, size_x, size_y = state.tokens.shape
        next_pose = state.poses[:, -1] @ invert_pose(curr_to_next)
        next_to_slot = invert_pose(state.poses) @ next_pose[:, None]
        place = (config.lower_m, config.cell_m, 0.0)
        history = warp_bev(state.tokens.flatten(0, 1), next_to_slot.flatten(0, 1), *place)
        history = history.view(batch, slots, width, size_x, size_y)
        present = warp_bev(present, next_to_slot[:, -1], *place) + self._phase(next_to_slot[:, -1], present.dtype)
        change = self.change(to_cells(self.transformer.decode(present, history, curr_to_next)))
        return history[:, -1] + to_map(change, config.latent_shape)

    def _phase(self, next_to_curr: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, C, Xl, Yl) where between two cells each moved cell was read: what interpolation has blurred."""
        size_x, size_y = self.config.latent_shape
        x = torch.arange(size_x, dtype=torch.float32, device=next_to_curr.device) + 0.5
        y = torch.arange(size_y, dtype=torch.float32, device=next_to_curr.device) + 0.5
        low = torch.tensor(self.config.lower_m, dtype=torch.float32, device=next_to_curr.device) / self.config.cell_m
        points = torch.stack(torch.meshgrid(x, y, indexing="ij"), -1) + low
        source = torch.einsum("bij,xyj->bxyi", next_to_curr[:, :2, :2], points)
        source = source + next_to_curr[:, None, None, :2, 3] / self.config.cell_m - low
        phase = 2 * torch.pi * (source - 0.5)
        waves = torch.cat((phase.sin(), phase.cos()), -1).to(dtype)
        return F.linear(waves, self.phase_embed.weight, self.phase_embed.bias).permute(0, 3, 1, 2)
