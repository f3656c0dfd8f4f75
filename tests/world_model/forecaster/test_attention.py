"""Deformable attention: what it reads beside the border, in which precision."""

from __future__ import annotations

import pytest
import torch

from world_model.forecaster.attention import DeformableSelfAttention


@pytest.mark.parametrize("reach", [1.0, 8.0])
def test_bfloat16_reads_the_same_places(reach: float) -> None:
    """Points that lie beyond the border count as zero, and half a cell is half a cell, whatever the number format."""
    torch.manual_seed(0)
    layer, query = DeformableSelfAttention(16, 4, 4), torch.randn(2, 20 * 20, 16)
    with torch.no_grad():
        layer.sampling_offsets.bias.mul_(reach)
        exact = layer(query, (20, 20))
        rounded = layer.to(torch.bfloat16)(query.to(torch.bfloat16), (20, 20)).float()
    assert torch.isfinite(rounded).all()
    assert (rounded - exact).abs().max() < 0.1 and (rounded - exact).abs().mean() < 0.01
