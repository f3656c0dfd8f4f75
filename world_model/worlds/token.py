"""The token world, as published: observed labels -> tokens -> forecast tokens -> occupancy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.core.errors import ConfigError
from world_model.core.geometry import invert_pose
from world_model.core.tensor_state import TensorState
from world_model.data.clips import Clips
from world_model.models.forecaster import Forecaster, ForecastState
from world_model.models.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class TokenState(TensorState):
    """B forecasts.

    Attributes:
        forecast: the forecaster's own state.
        token: (B, C, Xl, Yl) current token map, which the occupancy is decoded from.
    """

    forecast: ForecastState
    token: Tensor


class TokenWorld:
    """A trained tokenizer and forecaster.

    Args:
        tokenizer: labels <-> token maps.
        forecaster: token maps -> the next token map.
    """

    needs_future_labels = False

    def __init__(self, tokenizer: Tokenizer, forecaster: Forecaster) -> None:
        if not forecaster.config.fits(tokenizer.config):
            raise ConfigError(
                f"a forecaster of {forecaster.config} for a tokenizer of {tokenizer.config}",
                "token maps of the same size and place",
                "use a tokenizer and a forecaster that were trained together",
            )
        self.tokenizer, self.forecaster = tokenizer.eval(), forecaster.eval()
        self.grid = tokenizer.config.grid
        self.token_shape = (forecaster.config.width, *forecaster.config.latent_shape)

    @property
    def device(self) -> torch.device:
        """Where the states live."""
        return next(self.tokenizer.parameters()).device

    def reset(self, clips: Clips) -> TokenState:
        """Read the observed frames in order, so that the token carries the tokenizer's temporal memory."""
        device = self.device
        labels, count = clips.occupancy.to(device), clips.past + 1
        pose = clips.ego_to_global[:, :count]
        # Relative poses before float32: global coordinates run to kilometres.
        to_previous = (invert_pose(pose[:, :-1]) @ pose[:, 1:]).float().to(device)
        return self.begin(self.tokenizer.encode_clip(labels, to_previous), pose)

    def begin(self, tokens: Tensor, ego_to_global: Tensor) -> TokenState:
        """Start from frames that are encoded already.

        Args:
            tokens: (B, P, C, Xl, Yl) token maps of the observed frames, oldest first, on the world's device.
            ego_to_global: (B, P, 4, 4) float64 their poses. Published weights read displacements along the global axes.

        Raises:
            DataError: tokens of another size than the forecaster's.
        """
        forecast = self.forecaster.start(tokens, ego_to_global.to(tokens.device))
        return TokenState(forecast=forecast, token=tokens[:, -1])

    def step(self, state: TokenState, curr_to_next: Tensor, command: Tensor) -> TokenState:
        forecast = self.forecaster.follow(state.forecast, command, curr_to_next)
        return TokenState(forecast=forecast, token=forecast.token)

    def drive(self, state: TokenState, command: Tensor) -> tuple[TokenState, Tensor]:
        """The forecast of the ego's own motion by the model's ego head, under a command."""
        return self.step_with_prediction(state, command)[:2]

    def step_with_prediction(
        self, state: TokenState, command: Tensor, curr_to_next: Tensor | None = None
    ) -> tuple[TokenState, Tensor, Tensor]:
        """A step along a given motion or the ego head's own, with the motion (B, 3) that the head predicts."""
        forecast, out = self.forecaster.step(state.forecast, command, curr_to_next)
        return TokenState(forecast=forecast, token=out.token), out.curr_to_next.float(), out.predicted_motion

    def tokens(self, state: TokenState) -> Tensor:
        """What the decoder makes the occupancy of."""
        return state.token.float()

    def occupancy(self, state: TokenState) -> Tensor:
        return self.tokenizer.decode(state.token)
