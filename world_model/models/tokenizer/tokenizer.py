"""The II-Tokenizer: occupancy labels <-> token maps, frame after frame.

Source: I2-World: Intra-Inter Tokenization for Efficient Dynamic 4D Scene Forecasting (ICCV 2025, arXiv 2507.09144).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.core.errors import DataError
from world_model.core.grid import FREE, NUM_CLASSES
from world_model.models.layers import best_class
from world_model.models.tokenizer.autoencoder import Decoder2D, Encoder2D
from world_model.models.tokenizer.config import TokenizerConfig
from world_model.models.tokenizer.memory import Memory, align, remember
from world_model.models.tokenizer.quantizer import Quantizer

GRIDS_AT_ONCE = {"cpu": 5, "cuda": 64}
"""Grids that pass through the networks together: a few fill a processor, a GPU wants many but has no room for all."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One encoded frame of B streams.

    Attributes:
        token: (B, C, Xl, Yl) continuous token map.
        memory: the memory after this frame, to be given with the next one.
        codes: per quantizer stage (B, x, y) long.
        vq_loss: scalar.
        inputs: per quantizer stage, the vectors that were quantized (see `Quantized`).
    """

    token: Tensor
    memory: Memory
    codes: list[Tensor]
    vq_loss: Tensor
    inputs: list[Tensor]


class Tokenizer(nn.Module):
    """Labels (B, X, Y, Z) <-> tokens (B, C, Xl, Yl)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.class_embeds = nn.Embedding(NUM_CLASSES, config.class_embed)
        self.encoder = Encoder2D(config)
        self.vq = Quantizer(config)
        self.decoder = Decoder2D(config)
        self._expect_free_space()

    @torch.no_grad()
    def _expect_free_space(self) -> None:
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

    def empty_memory(self, batch: int) -> Memory:
        """A memory for streams that start; its content is ignored where ``start`` is True."""
        weight = self.vq.embedding.weight
        shape = (batch, self.config.memory, self.config.latent, *self.config.latent_shape)
        return Memory(latents=torch.zeros(shape, dtype=weight.dtype, device=weight.device))

    def encode(
        self,
        labels: Tensor,
        memory: Memory,
        curr_to_prev: Tensor,
        start: Tensor,
        augmentation: Tensor | None = None,
    ) -> Encoded:
        """Encode the next frame of B streams.

        Args:
            labels: (B, X, Y, Z) uint8 class ids 0..17.
            memory: from the previous call, or `empty_memory`.
            curr_to_prev: (B, 4, 4) current ego frame -> previous ego frame, metres.
            start: (B,) bool, True where a stream begins with this frame.
            augmentation: (B, 4, 4) bird's-eye transform that these labels were seen through and that ``curr_to_prev``
                does not contain yet; None: none.

        Raises:
            DataError: labels of another shape than the configured grid.
        """
        latent = self.latents(labels)
        history = align(memory, latent, curr_to_prev, start, self.config, augmentation)
        out = self.vq(latent, history)
        return Encoded(
            token=out.token,
            memory=remember(memory, history, latent, start, augmentation, self.config.faithful),
            codes=out.codes,
            vq_loss=out.vq_loss,
            inputs=out.inputs,
        )

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

    def encode_clip(self, labels: Tensor, to_previous: Tensor) -> Tensor:
        """Tokens of whole streams from their first frame on, as `encode` frame after frame gives them.

        Only the memory goes from frame to frame; the networks see the frames of all streams side by side, a few
        grids at a time.

        Args:
            labels: (B, P, X, Y, Z) uint8, oldest to newest.
            to_previous: (B, P - 1, 4, 4) ego frame of each frame but the first -> that of the frame before it, metres.

        Returns:
            (B, P, C, Xl, Yl).
        """
        batch, count = labels.shape[:2]
        latents = self._in_chunks(self.latents, labels)
        still = torch.eye(4, dtype=torch.float32, device=labels.device).expand(batch, 4, 4)
        memory, histories = self.empty_memory(batch), []
        for frame in range(count):
            start = torch.full((batch,), frame == 0, device=labels.device)
            motion = to_previous[:, frame - 1] if frame else still
            histories.append(align(memory, latents[:, frame], motion, start, self.config))
            memory = remember(memory, histories[-1], latents[:, frame], start, None, self.config.faithful)
        return self._in_chunks(lambda latent, past: self.vq(latent, past).token, latents, torch.stack(histories, 1))

    def _in_chunks(self, network: Callable[..., Tensor], *streams: Tensor) -> Tensor:
        """A network over the frames (B, P, ...) of all streams, a few grids at a time."""
        size = GRIDS_AT_ONCE.get(streams[0].device.type, GRIDS_AT_ONCE["cpu"])
        chunks = zip(*(torch.split(frames.flatten(0, 1), size) for frames in streams), strict=True)
        out = torch.cat([network(*chunk) for chunk in chunks])
        return out.view(*streams[0].shape[:2], *out.shape[1:])

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
