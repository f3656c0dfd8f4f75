"""The II-Former: an intra encoder of the present, an inter decoder of the history.

Source: I2-World (ICCV 2025, arXiv 2507.09144). Parameter names follow the published checkpoints.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.models.forecaster.attention import (
    BasicBlock,
    DeformableSelfAttention,
    FeedForward,
    PlanAttention,
    TemporalFusion,
)
from world_model.models.forecaster.config import ForecasterConfig


def to_cells(maps: Tensor) -> Tensor:
    """(B, C, X, Y) -> (B, X*Y, C)."""
    return maps.flatten(2).transpose(1, 2)


def to_map(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, X*Y, C) -> (B, C, X, Y)."""
    return cells.transpose(1, 2).reshape(cells.shape[0], -1, *size)


class IntraLayer(nn.Module):
    """Map attention, plan attention, convolution."""

    def __init__(self, config: ForecasterConfig, stride: int) -> None:
        super().__init__()
        width = config.width
        self.attentions = nn.ModuleList(
            (DeformableSelfAttention(width, config.heads, config.points), PlanAttention(width, config.heads))
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.plan_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.convs = nn.ModuleList([BasicBlock(width, stride)])

    def forward(self, maps: Tensor, plan: Tensor) -> tuple[Tensor, Tensor]:
        cells = self.attend(maps)
        plan = self.plan_norms[1](self.attentions[1](self.plan_norms[0](plan), cells))
        return self.convolve(cells, maps), plan

    def attend(self, maps: Tensor) -> Tensor:
        """Map attention: (B, C, X, Y) -> (B, X*Y, C)."""
        out: Tensor = self.norms[0](self.attentions[0](to_cells(maps), (maps.shape[2], maps.shape[3])))
        return out

    def convolve(self, cells: Tensor, maps: Tensor) -> Tensor:
        """The convolution of attended cells of maps."""
        out: Tensor = self.convs[0](to_map(self.norms[1](cells), (maps.shape[2], maps.shape[3])))
        return out


class InterLayer(nn.Module):
    """Map attention, temporal fusion, feed-forward."""

    def __init__(self, config: ForecasterConfig) -> None:
        super().__init__()
        width = config.width
        self.attentions = nn.ModuleList(
            (DeformableSelfAttention(width, config.heads, config.points), TemporalFusion(width, config.history))
        )
        self.ffns = nn.ModuleList([FeedForward(width, config.ffn)])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, cells: Tensor, history: Tensor, size: tuple[int, int]) -> Tensor:
        cells = self.norms[0](self.attentions[0](cells, size))
        cells = self.norms[1](self.attentions[1](cells, history))
        out: Tensor = self.norms[2](self.ffns[0](cells))
        return out


class Stack(nn.Module):
    """A list of layers (named as in the published checkpoints)."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class PositionEmbedding(nn.Module):
    """Learned embedding of rows (X) and columns (Y); the first half of the channels follows Y, the second X."""

    def __init__(self, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.row_embed = nn.Embedding(size[0], width // 2)
        self.col_embed = nn.Embedding(size[1], width // 2)

    def forward(self, size: tuple[int, int]) -> Tensor:
        """(X*Y, C)."""
        row = self.row_embed.weight[: size[0], None].expand(-1, size[1], -1)
        col = self.col_embed.weight[None, : size[1]].expand(size[0], -1, -1)
        return torch.cat((col, row), -1).flatten(0, 1)


class ScaleFusion(nn.Module):
    """Bring maps of several scales to one size and add them."""

    def __init__(self, width: int, scales: int) -> None:
        super().__init__()
        self.recover_convs = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(scales))

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=maps[0].device)
        for conv, x in zip(self.recover_convs, maps, strict=True):
            x = x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            total = total + conv(x)
        return total


class Transformer(nn.Module):
    """One forecasting step, without any state. Sizes: B batch, C width, H history, (Xl, Yl) map."""

    def __init__(self, config: ForecasterConfig) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.intra_encoder = Stack([IntraLayer(config, stride) for stride in config.strides])
        self.inter_decoder = Stack([InterLayer(config) for _ in range(config.decoder_layers)])
        self.positional_encoding = PositionEmbedding(width, config.latent_shape)
        self.temporal_embedding = nn.Embedding(config.history + 1, width)
        self.u_net = ScaleFusion(width, len(config.strides))
        self.plan_embed = nn.Sequential(nn.Linear(12, width), nn.ReLU(), nn.Linear(width, width))
        self.plan_translation_output = nn.Sequential(
            nn.Linear(width, width // 2), nn.Softplus(), nn.Linear(width // 2, 18)
        )
        if config.faithful:
            # Deviation 15: even the deformable offsets.
            for parameter in self.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)

    def encode(self, token: Tensor, plan: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the present.

        Args:
            token: (B, C, Xl, Yl) current token.
            plan: (B, 1, C) plan query.

        Returns:
            (B, C, Xl, Yl) encoded present, and (B, 3, 6) ego motion per command: dx, dy, quaternion (w, x, y, z).
        """
        maps, scales = self._placed(token), []
        for layer in self.intra_encoder.layers:
            maps, plan = layer(maps, plan)
            scales.append(maps)
        motion = self.plan_translation_output(plan[:, 0]).view(-1, 3, 6)
        return self.u_net(scales, self.config.latent_shape), motion

    def encode_map(self, token: Tensor) -> Tensor:
        """The encoded present of `encode` alone: the map never sees the plan, so nothing of the ego head is needed."""
        maps, scales = self._placed(token), []
        for layer in self.intra_encoder.layers:
            assert isinstance(layer, IntraLayer)
            maps = layer.convolve(layer.attend(maps), maps)
            scales.append(maps)
        present: Tensor = self.u_net(scales, self.config.latent_shape)
        return present

    def _placed(self, token: Tensor) -> Tensor:
        """The token map with its place and time."""
        size = self.config.latent_shape
        return to_map(to_cells(token) + self.positional_encoding(size) + self.temporal_embedding.weight[-1], size)

    def decode(self, present: Tensor, history: Tensor, transform: Tensor) -> Tensor:
        """The next token, from the encoded present and the past.

        Args:
            present: (B, C, Xl, Yl) from `encode`.
            history: (B, H, C, Xl, Yl) tokens, oldest to newest.
            transform: (B, 4, 4) current ego frame -> next ego frame.

        Returns:
            (B, C, Xl, Yl).
        """
        size = self.config.latent_shape
        condition = torch.cat((transform[:, :3, :3].flatten(1), transform[:, :3, 3]), -1)
        cells = to_cells(present) + self.plan_embed(condition.to(present.dtype))[:, None]
        past = history.flatten(3).permute(0, 3, 1, 2) + self.temporal_embedding.weight[:-1]
        for layer in self.inter_decoder.layers:
            cells = layer(cells, past.flatten(2), size)
        return to_map(cells, size)
