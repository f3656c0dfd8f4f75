"""Attention and fusion blocks of the II-Former. N = X*Y cells in x-major order.

Deformable attention: Zhu et al., ICLR 2021. Parameter names follow the published checkpoints.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DeformableSelfAttention(nn.Module):
    """Each cell reads a few learned points of its own map, plus itself. (B, N, C) -> (B, N, C)."""

    def __init__(self, width: int, heads: int, points: int) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.sampling_offsets = nn.Linear(width, heads * points * 2)
        self.attention_weights = nn.Linear(width, heads * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self._spread_points()

    def _spread_points(self) -> None:
        """Start with one direction per head, further out with every point (Zhu et al.)."""
        angle = torch.arange(self.heads) * (2 * torch.pi / self.heads)
        direction = torch.stack((angle.cos(), angle.sin()), -1)
        direction = direction / direction.abs().max(-1, keepdim=True).values
        distance = torch.arange(1, self.points + 1).view(1, -1, 1)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((direction[:, None] * distance).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)

    def forward(self, query: Tensor, size: tuple[int, int]) -> Tensor:
        batch, cells, width = query.shape
        heads, points, (size_x, size_y) = self.heads, self.points, size
        # Places and sampling in float32 at least: eight bits of bfloat16 would be a tenth of a cell off, and CPUs
        # sample garbage in it beside the border (torch 2.13).
        exact = torch.promote_types(query.dtype, torch.float32)
        offsets = self.sampling_offsets(query).view(batch, cells, heads, points, 2).to(exact)
        weights = self.attention_weights(query).view(batch, cells, heads, points).softmax(-1)
        cell_x = torch.arange(size_x, dtype=torch.float32, device=query.device).repeat_interleave(size_y) + 0.5
        cell_y = torch.arange(size_y, dtype=torch.float32, device=query.device).repeat(size_x) + 0.5
        centre = torch.stack((cell_y, cell_x), -1).to(exact)
        scale = torch.tensor((size_y, size_x), dtype=exact, device=query.device)
        # grid_sample's first coordinate is the fast axis, Y, as is the first offset component.
        grid = 2 * (centre[:, None, None] + offsets) / scale - 1
        grid = grid.transpose(1, 2).reshape(batch * heads, cells, points, 2)
        value = self.value_proj(query).view(batch, size_x, size_y, heads, -1).permute(0, 3, 4, 1, 2)
        value = value.reshape(batch * heads, -1, size_x, size_y).to(exact)
        sampled = F.grid_sample(value, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        mixed = (sampled * weights.transpose(1, 2).reshape(batch * heads, 1, cells, points)).sum(-1)
        out: Tensor = query + self.output_proj(mixed.view(batch, width, cells).transpose(1, 2).to(query.dtype))
        return out


class PlanAttention(nn.Module):
    """The plan query (B, 1, C) reads the whole map (B, N, C); the map never sees the plan."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.plan_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.plan_out = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, plan: Tensor, cells: Tensor) -> Tensor:
        attended, _ = self.plan_attn(plan, cells, cells, need_weights=False)
        out: Tensor = plan + self.plan_out(attended)
        return out


class TemporalFusion(nn.Module):
    """Mix each cell (B, N, C) with its history (B, N, H*C)."""

    def __init__(self, width: int, history: int) -> None:
        super().__init__()
        self.history_fusion = nn.Sequential(nn.Linear(width * (history + 1), width), nn.ReLU(), nn.Linear(width, width))
        self.output_proj = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, cells: Tensor, history: Tensor) -> Tensor:
        out: Tensor = cells + self.output_proj(self.history_fusion(torch.cat((cells, history), -1)))
        return out


class FeedForward(nn.Module):
    """Linear, ReLU, linear, plus the input."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(width, hidden), nn.ReLU()), nn.Linear(hidden, width))

    def forward(self, cells: Tensor) -> Tensor:
        out: Tensor = cells + self.layers(cells)
        return out


class BasicBlock(nn.Module):
    """ResNet block (He et al., CVPR 2016) that may halve the map. (B, C, X, Y) -> (B, C, X/s, Y/s)."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = nn.Conv2d(width, width, 1, stride=stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(h + self.downsample(x))
