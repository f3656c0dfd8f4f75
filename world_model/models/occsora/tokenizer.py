"""The 4D tokenizer: labels of many keyframes <-> one latent. A VQ-VAE over time, x and y (VideoGPT, Yan et al., 2021).

Nothing in it is causal: every latent cell sees all frames. Parameter names are those of the published checkpoints.
Legend: B clips, F frames, X Y Z grid, C channels; the axes of a map are (t, x, y).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.core.errors import DataError
from world_model.core.grid import FREE, NUM_CLASSES
from world_model.models.layers import from_cells, sum_rows, to_cells
from world_model.models.occsora.config import SoraTokenizerConfig
from world_model.models.tokenizer.codec import classify
from world_model.models.tokenizer.quantizer import Codebook


class Conv(nn.Module):
    """A 3D convolution that keeps the size, or halves it (rounding up) along axes of stride 2."""

    def __init__(
        self, i: int, o: int, kernel: int, stride: tuple[int, int, int] = (1, 1, 1), bias: bool = True
    ) -> None:
        super().__init__()
        t, x, y = (4 if s == 2 else kernel for s in stride)
        self.conv = nn.Conv3d(i, o, (t, x, y), stride, padding=kernel // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        odd = [n % 2 if s == 2 else 0 for n, s in zip(x.shape[2:], self.conv.stride, strict=True)]
        if any(odd):
            x = F.pad(x, [0, odd[2], 0, odd[1], 0, odd[0]])
        out: Tensor = self.conv(x)
        return out


class TransposedConv(nn.Module):
    """A transposed 3D convolution that doubles the size along axes of stride 2, cut to the size asked for."""

    def __init__(self, i: int, o: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        t, x, y = (4 if s == 2 else 3 for s in stride)
        # Padding the input by one and the result by three, as published, comes to the same.
        self.convt = nn.ConvTranspose3d(i, o, (t, x, y), stride, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int, int]) -> Tensor:
        out: Tensor = self.convt(x)[:, :, : size[0], : size[1], : size[2]]
        return out


class LineAttention(nn.Module):
    """Multi-head attention along one axis of (..., L, C): every line of cells by itself, without positions or mask."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.w_qs = nn.Linear(width, width, bias=False)
        self.w_ks = nn.Linear(width, width, bias=False)
        self.w_vs = nn.Linear(width, width, bias=False)
        self.fc = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(-2, -3) for layer in (self.w_qs, self.w_ks, self.w_vs)
        )
        attended = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.fc(attended.transpose(-2, -3).flatten(-2))
        return out


class AxialAttention(nn.Module):
    """The sum of attentions along y, x and time (Ho et al., 2019). (B, C, t, x, y) -> same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn_w, self.attn_h, self.attn_t = (LineAttention(width, heads) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 4, 1)
        along_x = self.attn_h(x.transpose(2, 3)).transpose(2, 3)
        along_t = self.attn_t(x.transpose(1, 3)).transpose(1, 3)
        out: Tensor = (self.attn_w(x) + along_x + along_t).permute(0, 4, 1, 2, 3)
        return out


class AttentionResidual(nn.Module):
    """BatchNorm, convolutions and axial attention, plus the input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        half = width // 2
        self.block = nn.Sequential(
            *(nn.BatchNorm3d(width), nn.ReLU(), Conv(width, half, 3, bias=False)),
            *(nn.BatchNorm3d(half), nn.ReLU(), Conv(half, width, 1, bias=False)),
            *(nn.BatchNorm3d(width), nn.ReLU(), AxialAttention(width, heads)),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.block(x)
        return out


def _residuals(config: SoraTokenizerConfig) -> nn.Sequential:
    blocks = [AttentionResidual(config.width, config.heads) for _ in range(config.blocks)]
    return nn.Sequential(*blocks, nn.BatchNorm3d(config.width), nn.ReLU())


class Encoder4D(nn.Module):
    """(B, C_in, F, X/p, Y/p) -> (B, width, t, x, y)."""

    def __init__(self, config: SoraTokenizerConfig) -> None:
        super().__init__()
        stages = range(max(config.halvings))
        first = config.stem or config.folded
        self.convs = nn.ModuleList(
            Conv(config.width if stage else first, config.width, 3, config.stride(stage)) for stage in stages
        )
        self.conv_last = Conv(config.width, config.width, 3)
        self.res_stack = _residuals(config)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.relu(conv(x))
        out: Tensor = self.res_stack(self.conv_last(x))
        return out


class Decoder4D(nn.Module):
    """The mirror image of `Encoder4D`."""

    def __init__(self, config: SoraTokenizerConfig) -> None:
        super().__init__()
        self.res_stack = _residuals(config)
        self.sizes = config.sizes[-2::-1]
        stages = range(len(self.sizes) - 1, -1, -1)
        last = config.stem or config.folded
        self.convts = nn.ModuleList(
            TransposedConv(config.width, config.width if stage else last, config.stride(stage)) for stage in stages
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.res_stack(x)
        for i, (conv, size) in enumerate(zip(self.convts, self.sizes, strict=True)):
            x = conv(F.relu(x) if i else x, size)
        return x


class SoraTokenizer(nn.Module):
    """Labels (B, F, X, Y, Z) <-> latents (B, C, t, x, y)."""

    def __init__(self, config: SoraTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.class_embeds = nn.Embedding(NUM_CLASSES, config.class_embed)
        self.encoder_gpt = Encoder4D(config)
        self.decoder_gpt = Decoder4D(config)
        self.pre_vq_conv = Conv(config.width, config.latent, 1)
        self.post_vq_conv = Conv(config.latent, config.width, 1)
        self.vqvae = Codebook(config.codes, config.latent, conv=nn.Conv3d)
        self.vqvae.spread()
        if config.stem:
            self.stem_in = nn.Linear(config.folded, config.stem)
            self.stem_out = nn.Linear(config.stem, config.folded)
            self._expect_free_space()

    @torch.no_grad()
    def _expect_free_space(self) -> None:
        """Let every map mean free space at first, as 95 % of all voxels are."""
        table = self.class_embeds.weight
        table.copy_(F.normalize(table, dim=1))
        self.stem_out.bias.copy_((4 * table[FREE] - table.mean(0)).repeat(self.config.folded // table.shape[1]))
        self.stem_out.weight.mul_(0.1)

    def latent(self, labels: Tensor) -> Tensor:
        """Latents (B, C, t, x, y) of label grids (B, F, X, Y, Z), as the transformer learns them.

        Raises:
            DataError: fewer or more frames than the configuration's, or another grid.
        """
        return self.reconstruct(labels)[0]

    def reconstruct(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For training: the latent with straight-through gradient, the codebook loss, and the codes (B, t, x, y)."""
        through, loss, codes = self.vqvae.quantize(self.inputs(labels))
        return self.vqvae.post_quant_conv(through), loss, codes

    def inputs(self, labels: Tensor) -> Tensor:
        """What is quantized of label grids: (B, C, t, x, y)."""
        self._check(labels)
        batch, frames = labels.shape[:2]
        x = self._folded(labels.flatten(0, 1))
        x = x.view(batch, frames, *x.shape[1:]).transpose(1, 2).contiguous()
        out: Tensor = self.vqvae.quant_conv(self.pre_vq_conv(self.encoder_gpt(x)))
        return out

    def _check(self, labels: Tensor) -> None:
        expected = (self.config.frames, *self.config.grid.shape)
        if tuple(labels.shape[1:]) != expected:
            raise DataError(
                f"a window of {labels.shape[1]} frames of {tuple(labels.shape[2:])} voxels",
                f"{expected[0]} consecutive keyframes of {expected[1:]} voxels, which this tokenizer encodes at once",
                "use longer scenes and the tokenizer's grid, or train a tokenizer of this size",
            )

    def _folded(self, labels: Tensor) -> Tensor:
        """(N, X, Y, Z) -> (N, C_in, X/p, Y/p)."""
        table, cells = self.class_embeds.weight, to_cells(labels, self.config.patch)
        if not self.config.stem:
            return table[cells.long()].flatten(3).permute(0, 3, 1, 2)
        # A 1x1 map of the embedded grid: what free space gives, and one row for each of the few occupied voxels.
        weight = self.stem_in.weight.view(self.config.stem, cells.shape[3], -1)
        response = torch.einsum("ose,ke->sko", weight, table)
        free = response[:, FREE]
        x = sum_rows(cells, (response - free[:, None]).flatten(0, 1)) + (free.sum(0) + self.stem_in.bias)
        return x.permute(0, 3, 1, 2)

    def decode_maps(self, latent: Tensor) -> Tensor:
        """Latents -> (B, F, X/p, Y/p, C): what `rows` makes the labels of."""
        maps: Tensor = self.decoder_gpt(self.post_vq_conv(latent))
        return maps.permute(0, 2, 3, 4, 1)

    def rows(self, maps: Tensor) -> Tensor:
        """Maps (..., X/p, Y/p, C) of any frames -> (N, e), one row per voxel in the order of `patch_index`.

        A voxel's logits are the products of its row with all class embeddings.
        """
        rows = self.stem_out(maps) if self.config.stem else maps
        return rows.reshape(-1, self.config.class_embed)

    def decode(self, latent: Tensor) -> Tensor:
        """Labels (B, F, X, Y, Z) uint8 of latents, frame by frame."""
        config, table = self.config, self.class_embeds.weight
        clips = [self.decode_maps(one[None])[0] for one in latent]
        drawn = [[classify(self.rows(frame), table) for frame in maps] for maps in clips]
        x, y, z = config.grid.shape
        cells = torch.stack([torch.stack(frames) for frames in drawn])
        cells = cells.view(-1, x // config.patch, y // config.patch, config.patch**2 * z)
        return from_cells(cells, config.patch, config.grid).view(len(latent), config.frames, x, y, z)
