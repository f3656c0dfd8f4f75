"""The diffusion transformer: the noise in a latent, given the time of the process and a trajectory.

A transformer with adaptive layer norms that start at zero (Peebles and Xie, ICCV 2023), one token per latent cell.
Parameter names are those of the published checkpoints. Legend: B samples, N = t x y tokens, C latent channels, D width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.models.occsora.config import SoraTransformerConfig

WAVES = 256
"""Sines and cosines of the process's time."""


def waves(time: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Sines and cosines (..., count / 2) of times (...), at frequencies from 1 down to 1/10000."""
    exponent = torch.arange(count // 2, dtype=torch.float32, device=time.device) / (count // 2)
    angle = time[..., None].float() * torch.exp(-math.log(10_000) * exponent)
    return angle.sin(), angle.cos()


class Attention(nn.Module):
    """Full self-attention of (B, N, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """Four times as wide inside, GELU in its tanh form."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out


def modulation(width: int, count: int) -> nn.Sequential:
    """``count`` vectors out of the condition; zero at first, so that a block begins as the identity."""
    linear = nn.Linear(width, count * width)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.SiLU(), linear)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalised (B, N, D), scaled and shifted by (B, D)."""
    out: Tensor = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]
    return out


class Block(nn.Module):
    """Attention and feed-forward, each modulated and gated by the condition."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = FeedForward(width)
        self.adaLN_modulation = modulation(width, 6)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate, shift_2, scale_2, gate_2 = self.adaLN_modulation(condition).chunk(6, -1)
        x = x + gate[:, None] * self.attn(modulated(x, shift, scale))
        out: Tensor = x + gate_2[:, None] * self.mlp(modulated(x, shift_2, scale_2))
        return out


class FinalLayer(nn.Module):
    """(B, N, D) -> (B, N, 2 C)."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, channels)
        self.adaLN_modulation = modulation(width, 2)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        out: Tensor = self.linear(modulated(x, *self.adaLN_modulation(condition).chunk(2, -1)))
        return out


class TimeEmbedding(nn.Module):
    """Times of the process (B,) -> (B, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(WAVES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time: Tensor) -> Tensor:
        sine, cosine = waves(time, WAVES)
        out: Tensor = self.mlp(torch.cat((cosine, sine), -1).to(next(self.parameters()).dtype))
        return out


class TrajectoryEmbedding(nn.Module):
    """Trajectory vectors (B, 2 F) -> (B, D)."""

    def __init__(self, config: SoraTransformerConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2 * config.frames, config.trajectory_width)
        self.fc2 = nn.Linear(config.trajectory_width, config.trajectory_width)
        self.fc3 = nn.Linear(config.trajectory_width, config.width)

    def forward(self, trajectory: Tensor) -> Tensor:
        out: Tensor = self.fc3(F.relu(self.fc2(F.relu(self.fc1(trajectory)))))
        return out


class LatentStem(nn.Module):
    """Two 3D convolutions without activation: (B, C, t, x, y) -> (B, D, t, x, y)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, width, 3, padding=1)
        self.conv2 = nn.Conv3d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.conv1(x))
        return out


class SoraTransformer(nn.Module):
    """Noise and its variance in latents that were divided by ``config.latent_scale``."""

    def __init__(self, config: SoraTransformerConfig) -> None:
        super().__init__()
        self.config = config
        channels, *size = config.latent_shape
        sine, cosine = waves(torch.arange(1, math.prod(size) + 1, dtype=torch.float32, device="cpu"), config.width)
        self.pos_embed = nn.Parameter(torch.cat((sine, cosine), -1)[None])
        self.mlp_trag = TrajectoryEmbedding(config)
        self.my_net = LatentStem(channels, config.width)
        self.t_embedder = TimeEmbedding(config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.final_layer = FinalLayer(config.width, 2 * channels)
        if config.history:
            self.history_net = nn.Conv3d(channels, config.width, 3, padding=1)
            for parameter in self.history_net.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self, noisy: Tensor, time: Tensor, trajectory: Tensor, history: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Predict the noise.

        Args:
            noisy: (B, C, t, x, y).
            time: (B,) steps of the process, 0..steps-1.
            trajectory: (B, 2 F) from `encode_trajectory`.
            history: (B, C, t, x, y) scaled latent of the observation, where the configuration has one.

        Returns:
            The noise and the place of its log-variance between the two bounds in [-1, 1], both (B, C, t, x, y).
        """
        x = self.my_net(noisy)
        if history is not None and self.config.history:
            x = x + self.history_net(history)
        size = x.shape[2:]
        x = x.flatten(2).transpose(1, 2) + self.pos_embed
        condition = self.t_embedder(time) + self.mlp_trag(trajectory)
        for block in self.blocks:
            x = block(x, condition)
        out = self.final_layer(x, condition).transpose(1, 2).unflatten(2, size)
        noise, variance = out.chunk(2, 1)
        return noise, variance
