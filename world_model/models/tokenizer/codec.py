"""Labels <-> maps of features: what tokenizers share, whatever lies between encoder and decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.core.errors import DataError
from world_model.core.grid import FREE, NUM_CLASSES
from world_model.models.layers import best_class
from world_model.models.tokenizer.autoencoder import Decoder2D, Encoder2D
from world_model.models.tokenizer.config import TokenizerConfig

GRIDS_AT_ONCE = {"cpu": 5, "cuda": 64}
"""Grids that pass through the networks together: a few fill a processor, a GPU wants many but has no room for all."""


class LabelCodec(nn.Module):
    """Base of tokenizers.

    Attributes:
        config: sizes of encoder and decoder.
        class_embeds: (K, e) table, with which labels come in and logits go out.
    """

    config: TokenizerConfig
    class_embeds: nn.Embedding
    encoder: Encoder2D
    decoder: Decoder2D

    @torch.no_grad()
    def expect_free_space(self) -> None:
        """Let the first predictions be free space, as 95 % of all voxels are (the prior of Lin et al., ICCV 2017)."""
        table = F.normalize(self.class_embeds.weight, dim=1)
        self.class_embeds.weight.copy_(table)
        logits = torch.full((NUM_CLASSES, 1), -4.0)
        logits[FREE] = 4.0
        # In double precision: LAPACK's float32 solution differs in its last bits from call to call.
        feature = torch.linalg.lstsq(table.double(), logits.double()).solution[:, 0].float()
        assert self.decoder.conv_out.bias is not None
        self.decoder.conv_out.bias.copy_(feature.repeat(self.config.stem_channels // len(feature)))
        self.decoder.conv_out.weight.mul_(0.1)

    def latents(self, labels: Tensor) -> Tensor:
        """Encoder outputs (B, C, Xl, Yl) of labels (B, X, Y, Z), before any memory.

        Raises:
            DataError: labels of another shape than the configured grid.
        """
        if tuple(labels.shape[1:]) != tuple(self.config.grid.shape):
            raise DataError(
                f"labels of shape {tuple(labels.shape)}",
                f"(batch, {', '.join(map(str, self.config.grid.shape))})",
                "use labels of the tokenizer's grid, or a tokenizer of the labels' grid",
            )
        out: Tensor = self.encoder(labels, self.class_embeds.weight)
        return out

    def decode_rows(self, token: Tensor) -> Tensor:
        """Token (B, C, Xl, Yl) -> one feature row (e) per voxel, (B*X*Y*Z, e), in the patch layout of `patch_index`.

        The product of a row with `class_embeds` gives the voxel's logits.
        """
        out: Tensor = self.decoder(token).reshape(-1, self.config.class_embed)
        return out

    def unpatch(self, rows: Tensor) -> Tensor:
        """Rows (B*X*Y*Z, ...) in the patch layout -> (B, X, Y, Z, ...)."""
        (size_x, size_y, size_z), patch = self.config.grid.shape, self.config.patch
        rest = rows.shape[1:]
        if patch > 1:
            rows = rows.view(-1, size_x // patch, size_y // patch, patch, patch, size_z, *rest).transpose(2, 3)
        return rows.reshape(-1, size_x, size_y, size_z, *rest)

    def decode_logits(self, token: Tensor) -> Tensor:
        """Token (B, C, Xl, Yl) -> class logits (B, X, Y, Z, 18)."""
        rows = self.decode_rows(token)
        return self.unpatch(rows @ self.class_embeds.weight.t().to(rows.dtype))

    def decode(self, token: Tensor) -> Tensor:
        """Token (B, C, Xl, Yl) -> labels (B, X, Y, Z) uint8, the class of the highest logit."""
        return self.unpatch(classify(self.decode_rows(token), self.class_embeds.weight))

    def in_chunks(self, network: Callable[..., Tensor], *streams: Tensor) -> Tensor:
        """A network over the frames (B, P, ...) of all streams, a few grids at a time."""
        size = GRIDS_AT_ONCE.get(streams[0].device.type, GRIDS_AT_ONCE["cpu"])
        chunks = zip(*(torch.split(frames.flatten(0, 1), size) for frames in streams), strict=True)
        out = torch.cat([network(*chunk) for chunk in chunks])
        return out.view(*streams[0].shape[:2], *out.shape[1:])


def classify(rows: Tensor, table: Tensor) -> Tensor:
    """Arg max over classes of ``rows @ table.T``: (N, e) and (K, e) -> (N,) uint8.

    Works through the voxels in chunks that stay in the processor's cache, classes outermost.
    """
    if rows.device.type != "cpu":
        return (rows @ table.to(rows.dtype).t()).argmax(1).to(torch.uint8)
    out = torch.empty(rows.shape[0], dtype=torch.uint8, device="cpu")
    table = table.float()
    size = 1 << 14
    for begin in range(0, rows.shape[0], size):
        out[begin : begin + size] = best_class(table @ rows[begin : begin + size].float().t())
    return out
