"""Deformable attention: what it reads beside the border, in which precision."""

from __future__ import annotations

import torch

from world_model.models.forecaster.attention import DeformableSelfAttention


def test_bfloat16_reads_the_same_places() -> None:
    """Points beyond the border count as zero, and a part of a cell stays what it is, whatever the number format."""
    torch.manual_seed(0)
    layer, query = DeformableSelfAttention(64, 8, 4), torch.randn(1, 50 * 50, 64)
    with torch.no_grad():
        layer.sampling_offsets.bias.add_(0.3)
        for projection in (layer.value_proj, layer.output_proj):
            torch.nn.init.eye_(projection.weight)
        exact = layer(query, (50, 50)) - query
        rounded = layer.to(torch.bfloat16)(query.to(torch.bfloat16), (50, 50)).float() - query
    error = (rounded - exact).abs()
    assert torch.isfinite(rounded).all() and exact.abs().mean() > 0.2
    assert error.max() < 0.05 and error.mean() < 0.006
