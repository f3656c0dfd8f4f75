"""The II-Tokenizer: occupancy labels <-> token maps, frame after frame.

Source: I2-World: Intra-Inter Tokenization for Efficient Dynamic 4D Scene Forecasting (ICCV 2025, arXiv 2507.09144).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from world_model.core.grid import NUM_CLASSES
from world_model.models.tokenizer.autoencoder import Decoder2D, Encoder2D
from world_model.models.tokenizer.codec import LabelCodec
from world_model.models.tokenizer.config import TokenizerConfig
from world_model.models.tokenizer.memory import Memory, align, remember
from world_model.models.tokenizer.quantizer import Quantizer


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


class Tokenizer(LabelCodec):
    """Labels (B, X, Y, Z) <-> tokens (B, C, Xl, Yl)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.class_embeds = nn.Embedding(NUM_CLASSES, config.class_embed)
        self.encoder = Encoder2D(config)
        self.vq = Quantizer(config)
        self.decoder = Decoder2D(config)
        self.expect_free_space()

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
        latents = self.in_chunks(self.latents, labels)
        still = torch.eye(4, dtype=torch.float32, device=labels.device).expand(batch, 4, 4)
        memory, histories = self.empty_memory(batch), []
        for frame in range(count):
            start = torch.full((batch,), frame == 0, device=labels.device)
            motion = to_previous[:, frame - 1] if frame else still
            histories.append(align(memory, latents[:, frame], motion, start, self.config))
            memory = remember(memory, histories[-1], latents[:, frame], start, None, self.config.faithful)
        return self.in_chunks(lambda latent, past: self.vq(latent, past).token, latents, torch.stack(histories, 1))
