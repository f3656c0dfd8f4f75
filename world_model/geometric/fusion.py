"""What geometry can't know: which of the moved voxels to believe, and what comes into view.

For every voxel the network weighs the moved label (a gate) against its own expectation (a generated logit), so a voxel
of the past stays as crisp as it was seen and what was never seen is drawn. Occupied or free is decided first, for all
voxels; the class only for the occupied ones, one voxel in twenty.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.geometric.config import GeometricConfig
from world_model.geometric.evidence import OBSERVED, RECALLED, Evidence
from world_model.geometric.unet import LabelStem, UNet, from_cells, to_cells
from world_model.grid import FREE, NUM_CLASSES
from world_model.tokenizer.blocks import group_norm

TIME_SCALE_S = 3.0
SHIFT_SCALE_M = 5.0


@dataclass(frozen=True, kw_only=True)
class Fused:
    """Scores of every voxel, in cells of ``slots`` voxels.

    Attributes:
        occupied: (B, Xc, Yc, slots) logit that the voxel is occupied.
        features: (B, Xc, Yc, C) what the read-out of classes works on.
        labels, memory: (B, Xc, Yc, slots) the evidence.
    """

    occupied: Tensor
    features: Tensor
    labels: Tensor
    memory: Tensor


class FusionNet(nn.Module):
    """Evidence -> scores -> labels."""

    place: Tensor

    def __init__(self, config: GeometricConfig) -> None:
        super().__init__()
        self.config = config
        width, slots = config.width, config.slots
        self.stem = LabelStem(slots, width)
        self.memory_stem = LabelStem(slots, width)
        self.enter = nn.Conv2d(10, width, 1)
        self.body = UNet(width)
        self.norm = group_norm(width)
        self.scores = nn.Conv2d(width, 3 * slots, 1)
        heights = config.grid.shape[2]
        self.classes = nn.Linear(width, heights * config.class_embed)
        self.table = nn.Parameter(torch.randn(NUM_CLASSES - 1, config.class_embed) * 0.3)
        self.trust_class = nn.Parameter(torch.full((NUM_CLASSES,), 5.0))
        self.trust_memory = nn.Parameter(torch.full((NUM_CLASSES,), 2.0))
        self._expect_what_was_seen()
        x, y = (torch.linspace(-1 + 1 / n, 1 - 1 / n, n) for n in config.cells)
        place = torch.stack((x[:, None].expand(*config.cells), y[None].expand(*config.cells)))
        self.register_buffer("place", torch.cat((place, place.norm(dim=0, keepdim=True))), persistent=False)

    @torch.no_grad()
    def _expect_what_was_seen(self) -> None:
        """Start from the ego warp: moved voxels are there, all others free."""
        slots = self.config.slots
        assert self.scores.bias is not None
        self.scores.weight.mul_(0.1)
        self.scores.bias[:slots], self.scores.bias[slots : 2 * slots], self.scores.bias[2 * slots :] = -4.0, 5.0, 2.0

    def forward(self, evidence: Evidence) -> Fused:
        patch, slots = self.config.patch, self.config.slots
        labels, memory = to_cells(evidence.labels, patch), to_cells(evidence.memory, patch)
        batch, (rows, columns) = labels.shape[0], self.config.cells
        reach = torch.stack([(evidence.reach == kind).float() for kind in (OBSERVED, RECALLED)], 1)
        shift = evidence.displacement_m.permute(0, 3, 1, 2) / SHIFT_SCALE_M
        maps = F.avg_pool2d(torch.cat((reach, shift), 1), patch)
        time = evidence.elapsed_s / TIME_SCALE_S
        clock = torch.stack((time, time.clamp(max=1), 1 / (1 + time)), 1)[..., None, None].expand(-1, 3, rows, columns)
        place = self.place.expand(batch, -1, -1, -1)
        x = self.enter(torch.cat((maps, place, clock), 1)) + self.stem(labels) + self.memory_stem(memory)
        features = F.silu(self.norm(self.body(x))).permute(0, 2, 3, 1)
        drawn, gate, memory_gate = F.linear(features, self.scores.weight[:, :, 0, 0], self.scores.bias).split(slots, -1)
        seen, remembered = labels != FREE, memory != FREE
        occupied = drawn + gate * seen + memory_gate * (remembered & ~seen)
        return Fused(occupied=occupied, features=features, labels=labels, memory=memory)

    def class_logits(self, fused: Fused, voxel: Tensor) -> Tensor:
        """Class logits (N, 17) of some voxels (N,), positions in the flattened cells, given that they are occupied."""
        heights = self.config.grid.shape[2]
        rows = self.classes(fused.features).view(-1, self.config.class_embed)
        cell, z = voxel // self.config.slots, voxel % heights
        drawn = rows.index_select(0, cell * heights + z) @ self.table.t()
        label, memory = fused.labels.reshape(-1)[voxel].long(), fused.memory.reshape(-1)[voxel].long()
        # One extra column takes what free evidence adds, and is dropped.
        drawn = F.pad(drawn, (0, 1))
        drawn = drawn.scatter_add(1, label[:, None], self.trust_class[label][:, None])
        drawn = drawn.scatter_add(1, memory[:, None], self.trust_memory[memory][:, None])
        return drawn[:, :FREE]

    def log_probabilities(self, fused: Fused, voxel: Tensor) -> Tensor:
        """Log-probabilities (N, 18) of some voxels (N,), positions in the flattened cells."""
        occupied = fused.occupied.reshape(-1)[voxel].float()
        classes = F.log_softmax(self.class_logits(fused, voxel).float(), 1)
        return torch.cat((F.logsigmoid(occupied)[:, None] + classes, F.logsigmoid(-occupied)[:, None]), 1)

    def labels(self, fused: Fused) -> Tensor:
        """The most probable labels (B, X, Y, Z) uint8: occupied where that is likelier than free, then the class."""
        voxel = (fused.occupied.reshape(-1) > 0).nonzero()[:, 0]
        out = torch.full((fused.labels.numel(),), FREE, dtype=torch.uint8, device=fused.labels.device)
        out[voxel] = self.class_logits(fused, voxel).argmax(1).to(torch.uint8)
        return from_cells(out.view(fused.labels.shape), self.config.patch, self.config.grid)
