"""The 2D encoder and decoder between embedded labels and the latent map.

The layout is the convolutional autoencoder of VQGAN (Esser et al., CVPR 2021) as I2-World uses it on bird's-eye maps.
"""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from world_model.models.layers import ResidualBlock, group_norm
from world_model.models.tokenizer.config import TokenizerConfig
from world_model.models.tokenizer.embedding import stem


class AttentionBlock(nn.Module):
    """Single-head self-attention over all positions, plus the input. (B, C, X, Y) -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = x + self.proj_out(attended.transpose(1, 2).reshape(x.shape))
        return out


class Downsample(nn.Module):
    """Halve the map (rounding up): 3x3 convolution, stride 2, padding 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Upsample(nn.Module):
    """Nearest-neighbour doubling, cut to a given size, then a 3x3 convolution.

    Where an odd size was halved the doubled map is one too large: its first row or column is cut, as published.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0)[..., -size[0] :, -size[1] :])
        return out


class Middle(nn.Module):
    """Residual block, attention (optional), residual block at the coarsest level."""

    def __init__(self, channels: int, attention: bool) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels)
        self.attn_1 = AttentionBlock(channels) if attention else nn.Identity()
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention where asked for."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int, attention: bool) -> None:
        super().__init__()
        widths = [channels_in] + [channels_out] * blocks
        self.block = nn.ModuleList(ResidualBlock(a, b) for a, b in itertools.pairwise(widths))
        self.attn = nn.ModuleList(AttentionBlock(channels_out) for _ in range(blocks if attention else 0))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        return x


class DownLevel(Level):
    """A level of the encoder, halved at its end unless it is the coarsest."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int, attention: bool, halve: bool) -> None:
        super().__init__(channels_in, channels_out, blocks, attention)
        self.downsample = Downsample(channels_out) if halve else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.downsample(super().forward(x))
        return out


class UpLevel(Level):
    """A level of the decoder, enlarged at its end unless it is the finest."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int, attention: bool, enlarge: bool) -> None:
        super().__init__(channels_in, channels_out, blocks, attention)
        self.upsample = Upsample(channels_out) if enlarge else None

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        x = super().forward(x)
        if self.upsample is not None and size is not None:
            x = self.upsample(x, size)
        return x


class Encoder2D(nn.Module):
    """Labels (B, X, Y, Z) and class embeddings (K, e) -> (B, latent, Xl, Yl)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.channel_mult]
        last = len(widths) - 1
        self.patch = config.patch
        kernel = config.stem_kernel
        self.conv_in = nn.Conv2d(config.stem_channels, config.channels, kernel, padding=kernel // 2)
        self.down = nn.ModuleList()
        for i, (width, blocks) in enumerate(zip(widths, config.res_blocks, strict=True)):
            level = DownLevel(
                widths[i - 1] if i else config.channels, width, blocks, config.level_attention and i == last, i < last
            )
            self.down.append(level)
        self.mid = Middle(widths[-1], config.middle_attention)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.latent, 3, padding=1)

    def forward(self, labels: Tensor, table: Tensor) -> Tensor:
        x = stem(labels, table, self.conv_in, self.patch)
        for level in self.down:
            x = level(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return out


class Decoder2D(nn.Module):
    """(B, latent, Xl, Yl) -> (B, X/patch, Y/patch, stem channels)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.channel_mult]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.latent, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], config.middle_attention)
        self.up = nn.ModuleList()
        for i, (width, blocks) in enumerate(zip(widths, config.res_blocks, strict=True)):
            level = UpLevel(widths[min(i + 1, last)], width, blocks, config.level_attention and i == last, i > 0)
            self.up.append(level)
        self.norm_out = group_norm(widths[0])
        kernel = config.stem_kernel
        self.conv_out = nn.Conv2d(widths[0], config.stem_channels, kernel, padding=kernel // 2)
        x, y = config.grid.shape[0] // config.patch, config.grid.shape[1] // config.patch
        # Sizes before each halving (odd ones round up), so that any grid comes back at its own size.
        self.sizes = [(-(-x // 2**i), -(-y // 2**i)) for i in range(len(widths))]

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for i in reversed(range(len(self.up))):
            x = self.up[i](x, self.sizes[i - 1] if i else None)
        x = F.silu(self.norm_out(x))
        if self.conv_out.kernel_size == (1, 1):
            # A 1x1 convolution is a matrix product, whose result already lies voxel after voxel in memory.
            return F.linear(x.permute(0, 2, 3, 1), self.conv_out.weight.flatten(1), self.conv_out.bias)
        out: Tensor = self.conv_out(x).permute(0, 2, 3, 1)
        return out
