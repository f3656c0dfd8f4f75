"""Layers of OccWorld's forecaster. Parameter names are the published ones."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.MultiheadAttention):
    """Multi-head attention over the last axis but one; everything before it is batch."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)

    def forward(self, x: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Queries (..., n, C) and keys (..., m, C) -> (..., n, C).

        Args:
            x: queries.
            keys: keys and values.
            mask: bool, broadcast to (..., n, m), True where a query sees a key; None: everywhere.
        """
        c, weight, bias = self.embed_dim, self.in_proj_weight, self.in_proj_bias
        q = self._heads(F.linear(x, weight[:c], bias[:c]))
        k, v = (self._heads(part) for part in F.linear(keys, weight[c:], bias[c:]).chunk(2, -1))
        seen = None if mask is None else mask.unsqueeze(-3)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(-3, -2).flatten(-2)
        return F.linear(out, self.out_proj.weight, self.out_proj.bias)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.num_heads, -1).transpose(-3, -2)


class FeedForward(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class TemporalLayer(nn.ModuleList):
    """Queries attend to tokens of the same cell over time; post-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__([Attention(width, heads), nn.LayerNorm(width), FeedForward(width), nn.LayerNorm(width)])

    def forward(self, x: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """Queries (B, cells, n, C), tokens (B, cells, m, C), mask (B, 1, n, m) -> queries."""
        attend, norm, feed, last = self
        x = norm(x + attend(x, keys, mask))
        out: Tensor = last(x + feed(x))
        return out


class PoseLayer(nn.ModuleList):
    """Pose queries attend to pose tokens over time, then to all cells of the map of their frame; post-norm."""

    def __init__(self, width: int, heads: int) -> None:
        parts = (Attention(width, heads), Attention(width, heads), FeedForward(width))
        super().__init__([module for part in parts for module in (part, nn.LayerNorm(width))])

    def forward(self, x: Tensor, keys: Tensor, mask: Tensor, cells: Tensor) -> Tensor:
        """Queries (B, n, C), pose tokens (B, m, C), mask (B, n, m), map (B, n, cells, C) -> queries."""
        attend, norm, look, norm_look, feed, last = self
        x = norm(x + attend(x, keys, mask))
        x = norm_look(x + look(x.unsqueeze(-2), cells).squeeze(-2))
        out: Tensor = last(x + feed(x))
        return out


class MapBlock(nn.Module):
    """LayerNorm of the whole map, two 3x3 convolutions, plus the input as it was before the norm.

    Args:
        channels_in, channels_out: widths.
        size: (H, W) of the map, which the norm's weights fix.
        over_channels: normalise over (C, H, W); else over (H, W), each channel by itself.
    """

    def __init__(self, channels_in: int, channels_out: int, size: tuple[int, int], over_channels: bool) -> None:
        super().__init__()
        self.ln = nn.LayerNorm((channels_in, *size) if over_channels else size)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(self.ln(x))))
        return F.relu(h + self.shortcut(x))


def blocks(channels_in: int, channels_out: int, size: tuple[int, int], over_channels: bool) -> nn.Sequential:
    """Two map blocks."""
    pairs = ((channels_in, channels_out), (channels_out, channels_out))
    return nn.Sequential(*(MapBlock(a, b, size, over_channels) for a, b in pairs))


def mlp(channels_in: int, channels_out: int) -> nn.Sequential:
    """Two linear layers, a ReLU after each."""
    return nn.Sequential(
        nn.Linear(channels_in, channels_out), nn.ReLU(), nn.Linear(channels_out, channels_out), nn.ReLU()
    )
