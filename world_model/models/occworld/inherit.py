"""A start for OccWorld's tokenizer: the encoder and decoder of a trained II-Tokenizer, narrowed to its code width.

The token of the II-Tokenizer is nearly a linear function of its latent. The best one through C numbers a cell (least
squares, then principal components) is folded into the layers beside the codebook, whose vectors are the centres of
these numbers (Lloyd, 1982). It spares most of the training, and changes nothing in how the tokenizer works.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from world_model.core.errors import CheckpointError
from world_model.models.occworld.tokenizer import OccWorldTokenizer
from world_model.models.tokenizer import Tokenizer

ROUNDS = 12
"""Of Lloyd's algorithm."""


@torch.no_grad()
def inherit(model: OccWorldTokenizer, source: Tokenizer, labels: Tensor) -> None:
    """Fill a tokenizer from a trained one.

    Args:
        model: changed in place; all its sizes but the latent's width are those of ``source``.
        source: on the CPU.
        labels: (N, X, Y, Z) uint8 frames to fit on.

    Raises:
        CheckpointError: the sizes differ.
    """
    own, given = model.state_dict(), source.state_dict()
    beside = ("encoder.conv_out.", "decoder.conv_in.", "vqvae.")
    wanted = {name: value.shape for name, value in own.items() if not name.startswith(beside)}
    if wrong := [name for name, shape in wanted.items() if name not in given or given[name].shape != shape]:
        raise CheckpointError(
            f"a tokenizer without a fitting {wrong[0]}", f"the sizes of {model.config}", "give the same --preset"
        )
    model.load_state_dict({**own, **{name: given[name] for name in wanted}})
    latent, token = (
        _rows(torch.cat(parts)) for parts in zip(*(_both(source, one[None]) for one in labels), strict=True)
    )
    mean, token_mean = latent.mean(0), token.mean(0)
    linear = torch.linalg.lstsq(latent - mean, token - token_mean).solution
    predicted = (latent - mean) @ linear
    vectors = torch.linalg.eigh(predicted.T @ predicted).eigenvectors
    axes = vectors[:, -model.config.latent :] * _signs(vectors[:, -model.config.latent :])
    _fold_before(source.encoder.conv_out, model.encoder.conv_out, (linear @ axes).T, mean)
    _fold_after(source.decoder.conv_in, model.decoder.conv_in, axes, token_mean)
    for conv in (model.vqvae.quant_conv, model.vqvae.post_quant_conv):
        nn.init.dirac_(conv.weight)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # it has one
    model.vqvae.embedding.weight.copy_(_centres(predicted @ axes, model.config.codes))


def _both(source: Tokenizer, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Latent and token of one frame without memory."""
    still, start = torch.eye(4)[None], torch.ones(1, dtype=torch.bool)
    return source.latents(labels), source.encode(labels, source.empty_memory(1), still, start).token


def _rows(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1).flatten(0, 2).double()


def _signs(vectors: Tensor) -> Tensor:
    """Signs that make the largest entry of every column positive: eigenvectors come with either sign."""
    return vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()


def _fold_before(source: nn.Conv2d, conv: nn.Conv2d, change: Tensor, mean: Tensor) -> None:
    """A convolution whose output is ``change @ (output of source - mean)``."""
    assert source.bias is not None and conv.bias is not None
    conv.weight.copy_(torch.einsum("oc,cixy->oixy", change, source.weight.double()))
    conv.bias.copy_(change @ (source.bias.double() - mean))


def _fold_after(source: nn.Conv2d, conv: nn.Conv2d, axes: Tensor, mean: Tensor) -> None:
    """A convolution that gives for z what ``source`` gives for ``axes @ z + mean``, but for the border."""
    assert source.bias is not None and conv.bias is not None
    weight = source.weight.double()
    conv.weight.copy_(torch.einsum("ocxy,ck->okxy", weight, axes))
    conv.bias.copy_(source.bias.double() + weight.sum((2, 3)) @ mean)


def _centres(points: Tensor, count: int) -> Tensor:
    """(count, C) centres of points (N, C): chosen far apart among distinct points, then moved by Lloyd's rounds."""
    generator = torch.Generator().manual_seed(0)
    points = points.float()
    distinct = torch.unique(points.round(decimals=3), dim=0)
    pick = torch.randperm(len(distinct), generator=generator)[:count]
    centres: Tensor = distinct[pick].repeat(-(-count // max(len(pick), 1)), 1)[:count].clone()
    for _ in range(ROUNDS):
        nearest = torch.cdist(distinct, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, distinct)
        held = torch.bincount(nearest, minlength=count)
        centres = torch.where(held[:, None] > 0, sums / held.clamp(min=1)[:, None], centres)
    return centres
