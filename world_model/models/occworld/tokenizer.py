"""OccWorld's tokenizer: labels of one frame <-> a map of codes.

Source: OccWorld: Learning a 3D Occupancy World Model for Autonomous Driving (Zheng et al., ECCV 2024, 2311.16038).
The autoencoder is that of VQGAN (Esser et al., CVPR 2021), shared with `world_model.models.tokenizer`.
"""

from __future__ import annotations

from torch import Tensor, nn

from world_model.core.grid import NUM_CLASSES
from world_model.models.tokenizer.autoencoder import Decoder2D, Encoder2D
from world_model.models.tokenizer.codec import LabelCodec
from world_model.models.tokenizer.config import TokenizerConfig
from world_model.models.tokenizer.quantizer import Codebook


class OccWorldTokenizer(LabelCodec):
    """Labels (B, X, Y, Z) <-> codes (B, Xl, Yl)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.class_embeds = nn.Embedding(NUM_CLASSES, config.class_embed)
        self.encoder = Encoder2D(config)
        self.vqvae = Codebook(config.codes, config.latent)
        self.decoder = Decoder2D(config)
        self.vqvae.spread()

    def encode(self, labels: Tensor) -> Tensor:
        """Labels (B, X, Y, Z) uint8 -> the nearest codes (B, Xl, Yl) long.

        Raises:
            DataError: labels of another shape than the configured grid.
        """
        z: Tensor = self.vqvae.quant_conv(self.latents(labels))
        return self.vqvae.nearest(z.permute(0, 2, 3, 1))

    def encode_clip(self, labels: Tensor) -> Tensor:
        """Codes (B, P, Xl, Yl) long of labels (B, P, X, Y, Z), a few grids at a time."""
        return self.in_chunks(self.encode, labels)

    def token(self, codes: Tensor) -> Tensor:
        """Codes (B, Xl, Yl) -> (B, C, Xl, Yl), what `decode`, `decode_rows` and `decode_logits` take."""
        out: Tensor = self.vqvae.post_quant_conv(self.vqvae.vectors(codes))
        return out

    def reconstruct(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For training: labels -> the token with straight-through gradient, the codebook loss, and the codes."""
        through, loss, codes = self.vqvae.quantize(self.vqvae.quant_conv(self.latents(labels)))
        return self.vqvae.post_quant_conv(through), loss, codes
