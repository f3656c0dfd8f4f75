"""The intra-inter vector quantizer: residual quantization over scales, then over remembered frames.

One codebook serves every stage (I2-World, ICCV 2025; residual stages over scales after VAR, Tian et al., NeurIPS 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.models.tokenizer.config import TokenizerConfig


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What the quantizer returns.

    Attributes:
        token: (B, C, Xl, Yl) the continuous map that the forecaster reads.
        codes: per stage (B, x, y) long code numbers; spatial stages coarse to fine, then the temporal stages.
        vq_loss: scalar, codebook plus commitment loss over the spatial stages.
        inputs: per stage (B, x, y, C), what was quantized, without gradient.
    """

    token: Tensor
    codes: list[Tensor]
    vq_loss: Tensor
    inputs: list[Tensor]


class Codebook(nn.Module):
    """Code vectors, and the 1x1 convolutions before and after them (VQ-VAE, van den Oord et al., NeurIPS 2017).

    Args:
        codes: number of code vectors.
        width: their length C.
        beta: weight of the codebook term of the loss.
        conv: kind of the convolutions: of maps, or of volumes.
    """

    def __init__(
        self, codes: int, width: int, beta: float = 1.0, conv: type[nn.Conv2d] | type[nn.Conv3d] = nn.Conv2d
    ) -> None:
        super().__init__()
        self.beta = beta
        self.embedding = nn.Embedding(codes, width)
        self.quant_conv = conv(width, width, 1)
        self.post_quant_conv = conv(width, width, 1)

    def spread(self) -> None:
        """Draw the code vectors from +-1 / codes."""
        codes = len(self.embedding.weight)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)

    def nearest(self, cells: Tensor) -> Tensor:
        """Code numbers (...) nearest to vectors (..., C), by squared distance in float32."""
        flat = cells.detach().reshape(-1, cells.shape[-1])
        if flat.dtype in (torch.bfloat16, torch.float16):
            flat = flat.float()
        book = self.embedding.weight.detach().to(flat.dtype)
        # |z|^2 is the same for every code, so it never decides.
        distance = torch.addmm(book.square().sum(1), flat, book.t(), alpha=-2)
        return distance.argmin(1).view(cells.shape[:-1])

    def vectors(self, code: Tensor) -> Tensor:
        """Code numbers (B, ...) -> their vectors (B, C, ...)."""
        out: Tensor = self.embedding(code).movedim(-1, 1)
        return out

    def quantize(self, z: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize (B, C, ...): straight-through codes, the loss of codebook and commitment, and the code numbers."""
        code = self.nearest(z.movedim(1, -1)) if given is None else given
        plain = self.vectors(code).to(z.dtype)
        loss = F.mse_loss(plain.detach(), z) + self.beta * F.mse_loss(plain, z.detach())
        return z + (plain - z).detach(), loss, code


class Quantizer(Codebook):
    """Spatial stages at rising resolution, then one stage per remembered frame."""

    def __init__(self, config: TokenizerConfig, beta: float = 1.0) -> None:
        width = config.latent
        super().__init__(config.codes, width, beta)
        self.spatial_divisors = config.spatial_divisors
        self.recover_scale_conv = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in config.spatial_divisors)
        self.recover_time_conv = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(config.memory))
        self.spread()

    def forward(self, latent: Tensor, history: Tensor, codes: Sequence[Tensor] | None = None) -> Quantized:
        """Quantize encoder outputs.

        The memory is encoder output, is not passed through quant_conv, and adds no loss (deviation 10).

        Args:
            latent: (B, C, Xl, Yl) encoder output.
            history: (B, M, C, Xl, Yl) aligned memory, newest first.
            codes: per stage (B, x, y) long, to be taken instead of the nearest ones.
        """
        size = latent.shape[-2:]
        residual = self.quant_conv(latent)
        total = torch.zeros_like(residual)
        given = iter(codes if codes is not None else ())
        chosen, inputs, losses = [], [], []
        for divisor, recover in zip(self.spatial_divisors, self.recover_scale_conv, strict=True):
            scaled = (size[0] // divisor, size[1] // divisor)
            z = residual if divisor == 1 else _resize(residual, scaled)
            through, loss, code = self.quantize(z, next(given, None))
            losses.append(loss)
            quantized = through if divisor == 1 else _resize(through, size)
            total = total + recover(quantized)
            residual = residual - quantized
            chosen.append(code)
            inputs.append(z.detach().permute(0, 2, 3, 1))
        for i, recover in enumerate(self.recover_time_conv):
            z = residual + history[:, i].to(residual.dtype)
            through, _, code = self.quantize(z, next(given, None))
            total = total + recover(through)
            residual = residual - through
            chosen.append(code)
            inputs.append(z.detach().permute(0, 2, 3, 1))
        return Quantized(
            token=self.post_quant_conv(total), codes=chosen, vq_loss=torch.stack(losses).mean(), inputs=inputs
        )


def _resize(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
