"""The whole of OccWorld: tokenizer, forecaster, pose encoder and decoder, and the adapter for actions if it has one.

Sources: Zheng et al., ECCV 2024; the adapter is ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.core.errors import ConfigError
from world_model.models.layers import ResidualBlock
from world_model.models.occworld.config import COMMANDS, POSE_INPUTS, OccWorldConfig
from world_model.models.occworld.forecaster import Forecaster
from world_model.models.occworld.tokenizer import OccWorldTokenizer


class PoseEncoder(nn.Module):
    """Displacement and command (..., 5) -> (..., C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pose_encoder = nn.Sequential(nn.Linear(POSE_INPUTS, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pose_encoder(x)
        return out


class PoseDecoder(nn.Module):
    """(..., C) -> the next displacement under each command (..., 3, 2), metres."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pose_decoder = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2 * COMMANDS))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pose_decoder(x)
        return out.view(*out.shape[:-1], COMMANDS, 2)


class Adapter(nn.Module):
    """Lets the forecast answer the action: it sees the codes of the present labels moved into the next ego frame.

    Its last layer starts at zero, so a model that gets one forecasts as before.

    Args:
        width: of its layers.
        latent: of code vectors and features.
    """

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.join = nn.Conv2d(2 * latent + 1, width, 1)
        self.body = nn.Sequential(ResidualBlock(width, width), ResidualBlock(width, width), nn.SiLU())
        self.out = nn.Conv2d(width, latent + 1, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, features: Tensor, moved: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """What is added to the features (B, C, h, w), and to the logit of the moved code (B, 1, h, w).

        Args:
            features: (B, C, h, w) of the forecaster.
            moved: (B, C, h, w) vectors of the moved codes.
            inside: (B, 1, h, w) 1 where the moved labels come from inside the grid, else 0.
        """
        out: Tensor = self.out(self.body(self.join(torch.cat((features, moved, inside), 1))))
        return out[:, :-1], out[:, -1:]


class OccWorld(nn.Module):
    """Codes and poses of a window -> logits of the next codes, and the next displacement under each command."""

    def __init__(self, config: OccWorldConfig) -> None:
        super().__init__()
        self.config = config
        self.vae = OccWorldTokenizer(config.codec)
        self.transformer = Forecaster(config)
        self.pose_encoder, self.pose_decoder = PoseEncoder(config.latent), PoseDecoder(config.latent)
        self.adapter = Adapter(config.adapter, config.latent) if config.adapter else None

    def features(
        self, codes: Tensor, poses: Tensor, at: Tensor | None = None, cache: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the forecaster says of the frame after each of n frames.

        Args:
            codes: (B, n, h, w) long.
            poses: (B, n, 5) displacement to the next frame (right, forward, metres) and the command's three flags.
            at: (B, n) places in the window; None: from the first on.
            cache: as `Forecaster.forward`.

        Returns:
            (B, n, C, h, w) features, and (B, n, 3, 2) displacements from the next frame on, for each command.

        Raises:
            ConfigError: more frames than the window holds, or none; maps of another size.
        """
        limit, size = self.config.window, self.config.latent_shape
        if not 1 <= codes.shape[1] <= limit or tuple(codes.shape[2:]) != size:
            raise ConfigError(
                f"a window of {codes.shape[1]} frames of {tuple(codes.shape[2:])} codes",
                f"1 to {limit} frames of {size} codes: the weights are tied to both",
                "give fewer frames, or labels of the model's grid",
            )
        if at is None:
            at = torch.arange(codes.shape[1], device=codes.device).expand(codes.shape[:2])
        z = self.vae.vqvae.embedding(codes).movedim(-1, 2)
        maps, pose = self.transformer(z, self.pose_encoder(poses.to(z.dtype)), at, cache)
        return maps, self.pose_decoder(pose)

    def logits(self, features: Tensor, moved: Tensor | None = None, inside: Tensor | None = None) -> Tensor:
        """Logits (B, K, h, w) of the next codes.

        Args:
            features: (B, C, h, w) of `features`.
            moved: (B, h, w) long, codes of the present labels in the next ego frame, for the adapter; None: without it.
            inside: (B, h, w) bool, where these come from inside the grid.
        """
        if moved is None or inside is None or self.adapter is None:
            out: Tensor = self.transformer.conv_out(features)
            return out
        known = inside[:, None].to(features.dtype)
        change, trust = self.adapter(features, self.vae.vqvae.vectors(moved), known)
        logits: Tensor = self.transformer.conv_out(features + change)
        return logits.scatter_add(1, moved[:, None], trust)

    def forward(self, codes: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher forcing: logits (B, n, K, h, w) and displacements (B, n, 3, 2), see `features`."""
        maps, displacement = self.features(codes, poses)
        logits = self.logits(maps.flatten(0, 1))
        return logits.view(*codes.shape[:2], *logits.shape[1:]), displacement


def code_loss(logits: Tensor, codes: Tensor) -> Tensor:
    """Cross-entropy over all cells: logits (B, n, K, h, w), codes (B, n, h, w) long."""
    return F.cross_entropy(logits.flatten(0, 1), codes.flatten(0, 1))


def plan_loss(displacement: Tensor, true: Tensor, command: Tensor) -> Tensor:
    """Distance of the summed displacements from the true ones, under the true command, mean over windows and frames.

    The sums ignore how the frames are turned against each other, as published.

    Args:
        displacement: (B, n, 3, 2) metres.
        true: (B, n, 2) metres.
        command: (B, n) long.
    """
    path, true_path = displacement.cumsum(1), true.cumsum(1)
    chosen = path.gather(2, command[:, :, None, None].expand(-1, -1, 1, 2))[:, :, 0]
    away: Tensor = (chosen - true_path).norm(dim=-1)
    return away.mean()
