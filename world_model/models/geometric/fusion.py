"""What geometry can't know: which of the moved voxels to believe, and what comes into view.

For every voxel the network weighs the moved label (a gate) against its own expectation (a generated logit), so a voxel
of the past stays as crisp as it was seen and what was never seen is drawn. Occupied or free is decided first, for all
voxels; the class only for the occupied ones, one voxel in twenty.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.core.grid import FREE, NUM_CLASSES
from world_model.core.ground import BANDS, GroundShift, band_of, ground_shift
from world_model.core.sparse import nonzero_indices, occupied_indices, positive_indices, quotient
from world_model.core.tensor_state import TensorState
from world_model.models.geometric.belief import LEVELS, Belief, find_belief
from world_model.models.geometric.config import GeometricConfig
from world_model.models.geometric.evidence import FORECAST, OBSERVED, Evidence
from world_model.models.geometric.expectation import expected_ious
from world_model.models.layers import LabelStem, UNet, best_class, from_cells, group_norm, to_cells

TIME_SCALE_S = 3.0
SHIFT_SCALE_M = 5.0
BELIEVED = 5.0
"""Logit of gates and class trust with which training starts: what was seen is believed."""
GRIDS_AT_ONCE = {"cpu": 8}
"""Grids that pass through the network together; more only take more memory."""


@dataclass(frozen=True, kw_only=True)
class Fused:
    """What the read-outs work on, in cells of ``slots`` voxels.

    Attributes:
        features: (B, Xc, Yc, C).
        labels, memory: (B, Xc, Yc, slots) uint8 evidence.
        visibility: (B, Xc, Yc, columns of a cell) uint8, as in `Evidence`.
    """

    features: Tensor
    labels: Tensor
    memory: Tensor
    visibility: Tensor


@dataclass(frozen=True, kw_only=True)
class Certainty(TensorState):
    """How sure B forecasts are, as raw figures that cost a few passes over the logits.

    What they say about the true error is fitted on held-out drives (`world_model.trust`).

    Attributes:
        unseen: (B,) float32 share of the columns that no observed frame covered.
        expected_iou: (B,) float32 IoU with the truth if every voxel were occupied with the probability that its own
            logit says: E[intersection] / E[union].
        expected_lead: (B,) float32 the same, less that of the evidence of observed columns as it is: what the network
            expects to be better than moving what was observed.
    """

    unseen: Tensor
    expected_iou: Tensor
    expected_lead: Tensor = field(metadata={"absent": lambda like, rows: like.unseen.new_zeros(rows)})

    @classmethod
    def of_observation(cls, batch: int, device: torch.device) -> Certainty:
        """Of B moments at which nothing has been forecast yet."""
        one = torch.ones(batch, dtype=torch.float32, device=device)
        return cls(unseen=torch.zeros_like(one), expected_iou=one, expected_lead=torch.zeros_like(one))


class FusionNet(nn.Module):
    """Evidence -> scores -> labels."""

    place: Tensor

    def __init__(self, config: GeometricConfig) -> None:
        super().__init__()
        self.config, self.slots, self.cells = config, config.slots, config.cells
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
        self.trust_class = nn.Parameter(torch.full((NUM_CLASSES,), BELIEVED))
        self.trust_memory = nn.Parameter(torch.full((NUM_CLASSES,), 2.0))
        self._expect_what_was_seen()
        x, y = (torch.linspace(-1 + 1 / n, 1 - 1 / n, n) for n in config.cells)
        place = torch.stack((x[:, None].expand(*config.cells), y[None].expand(*config.cells)))
        self.register_buffer("place", torch.cat((place, place.norm(dim=0, keepdim=True))), persistent=False)

    @torch.no_grad()
    def _expect_what_was_seen(self) -> None:
        """Start from the ego warp: moved voxels are occupied, all else is free."""
        slots = self.slots
        assert self.scores.bias is not None
        self.scores.weight.mul_(0.1)
        self.scores.bias[:slots], self.scores.bias[slots : 2 * slots], self.scores.bias[2 * slots :] = (
            -4.0,
            BELIEVED,
            2.0,
        )

    def forward(self, evidence: Evidence) -> Fused:
        patch = self.config.patch
        labels, memory = to_cells(evidence.labels, patch), to_cells(evidence.memory, patch)
        batch, rows, columns, _ = labels.shape
        visibility = torch.stack([(evidence.visibility == kind).float() for kind in (OBSERVED, FORECAST)], 1)
        shift = evidence.displacement_m.permute(0, 3, 1, 2) / SHIFT_SCALE_M
        maps = F.avg_pool2d(torch.cat((visibility, shift), 1), patch)
        time = evidence.elapsed_s / TIME_SCALE_S
        clock = torch.stack((time, time.clamp(max=1), 1 / (1 + time)), 1)[..., None, None].expand(-1, 3, rows, columns)
        # A smaller grid is the middle of the whole one.
        top, left = ((whole - part) // 2 for whole, part in zip(self.cells, (rows, columns), strict=True))
        place = self.place[:, top : top + rows, left : left + columns].expand(batch, -1, -1, -1)
        seen = (self.stem(labels) + self.memory_stem(memory)).permute(0, 3, 1, 2)
        x = self.enter(torch.cat((maps, place, clock), 1)) + seen
        features = F.silu(self.norm(self.body(x))).permute(0, 2, 3, 1).contiguous()
        return Fused(
            features=features, labels=labels, memory=memory, visibility=to_cells(evidence.visibility[..., None], patch)
        )

    def forecast(self, evidence: Evidence, belief: Belief | None = None) -> tuple[Tensor, Certainty]:
        """The most probable labels (B, X, Y, Z) uint8, and how sure they are: both read the same logits.

        Args:
            evidence: what geometry expects.
            belief: how far the network is believed; None: entirely.
        """
        batch, limit = len(evidence.labels), _at_once(evidence)
        if batch > limit:
            beliefs = [None] * -(-batch // limit) if belief is None else belief.chunks(limit)
            parts, certainties = zip(*map(self.forecast, evidence.chunks(limit), beliefs), strict=True)
            return torch.cat(parts), Certainty.cat(certainties)
        lowered, shift = self.canonical(evidence)
        fused = self(lowered)
        logits = self.sparse_logits(fused)
        unseen = (evidence.visibility != OBSERVED).flatten(1).float().mean(1)
        forecast, moved = expected_ious(logits, observed_voxels(fused))
        certainty = Certainty(unseen=unseen, expected_iou=forecast, expected_lead=forecast - moved)
        return shift.raised(self.labels(fused, logits, belief), evidence.labels), certainty

    def canonical(self, evidence: Evidence) -> tuple[Evidence, GroundShift]:
        """Evidence with heights as the network reads them."""
        return ground_relative(evidence) if self.config.ground_relative else (evidence, GroundShift(voxels=None))

    def check(self, evidence: Evidence, truth: Tensor) -> Belief:
        """How far to believe the network, from a forecast of a known frame (B, X, Y, Z); see `find_belief`."""
        limit = _at_once(evidence)
        if len(truth) > limit:
            parts = zip(evidence.chunks(limit), torch.split(truth, limit), strict=True)
            return Belief.cat([self.check(*part) for part in parts])
        lowered, shift = self.canonical(evidence)
        fused, target = self(lowered), to_cells(shift.lowered(truth), self.config.patch)
        logits = self.sparse_logits(fused)
        names = torch.full((logits.numel(),), FREE, dtype=torch.uint8, device=logits.device)
        voxel = nonzero_indices((logits > 0) | (fused.labels != FREE))
        names[voxel] = best_class(self._class_logits(fused, voxel)[:FREE])
        return find_belief(logits, names.view(logits.shape), fused.labels, target, self.config.grid.shape[2])

    def doubt(self, fused: Fused) -> Tensor:
        """How far gates and class trust are below belief in what was seen: the mean square of what is missing to the
        values that they start from, as a share of these."""
        part, bias = slice(self.slots, 2 * self.slots), self.scores.bias
        assert bias is not None
        gate = F.linear(fused.features, self.scores.weight[part, :, 0, 0], bias[part])
        seen = (fused.labels != FREE).float()
        missing = F.relu(1 - gate.float() / BELIEVED) ** 2
        trust = F.relu(1 - self.trust_class[:FREE] / BELIEVED) ** 2
        return (missing * seen).sum() / seen.sum().clamp(min=1) + trust.mean()

    def occupied_logits(self, fused: Fused) -> Tensor:
        """Logits (B, Xc, Yc, slots) that the voxels are occupied."""
        weight, slots = self.scores.weight[:, :, 0, 0], self.slots
        drawn, gate, memory_gate = torch.split(F.linear(fused.features, weight, self.scores.bias), slots, -1)
        seen, remembered = fused.labels != FREE, fused.memory != FREE
        return drawn + gate * seen + memory_gate * (remembered & ~seen)

    def class_logits(self, fused: Fused, voxel: Tensor) -> Tensor:
        """Class logits (N, 17) of some voxels (N,), positions in the flattened cells, given that they are occupied."""
        return self._class_logits(fused, voxel)[:FREE].t()

    def log_probabilities(self, fused: Fused, voxel: Tensor) -> Tensor:
        """Log-probabilities (N, 18) of some voxels (N,), positions in the flattened cells."""
        occupied = self.occupied_logits(fused).reshape(-1)[voxel].float()
        classes = F.log_softmax(self.class_logits(fused, voxel).float(), 1)
        return torch.cat((F.logsigmoid(occupied)[:, None] + classes, F.logsigmoid(-occupied)[:, None]), 1)

    def labels(self, fused: Fused, logits: Tensor | None = None, belief: Belief | None = None) -> Tensor:
        """The most probable labels (B, X, Y, Z) uint8: occupied where that is likelier than free, then the class.

        Args:
            fused: what the read-outs work on.
            logits: `sparse_logits` of it, where they are known already.
            belief: corrections; None: the network's word as it is.
        """
        logits = self.sparse_logits(fused) if logits is None else logits
        flat = (logits if belief is None else self._believed(fused, logits, belief)).view(-1)
        voxel = positive_indices(flat)
        out = torch.full((fused.labels.numel(),), FREE, dtype=torch.uint8, device=fused.labels.device)
        scores = self._class_logits(fused, voxel)
        if belief is None:
            out[voxel] = best_class(scores[:FREE])
        else:
            evidence = fused.labels.view(-1).index_select(0, voxel).long()
            row = _row(voxel, logits) * NUM_CLASSES
            scores.scatter_add_(0, evidence[None], belief.named.view(-1).index_select(0, row + evidence)[None])
            absent = belief.drawn.isinf()
            if bool(absent.any()):
                barred = absent.float() * -LEVELS[-1]
                scores += barred.t() if len(barred) == 1 else barred.index_select(0, voxel // logits[0].numel()).t()
            name = best_class(scores[:FREE])
            asked = belief.drawn.view(-1).index_select(0, row + name.long())
            # The self-check says nothing of columns that were not seen: there everything is drawn.
            column = quotient(voxel, self.config.grid.shape[2])[0]
            asked = asked * (fused.visibility.reshape(-1).index_select(0, column) == OBSERVED)
            kept = (evidence != FREE) | (flat[voxel] > asked)
            out[voxel[kept]] = name[kept]
        return from_cells(out.view(fused.labels.shape), self.config.patch, self.config.grid)

    def _believed(self, fused: Fused, logits: Tensor, belief: Belief) -> Tensor:
        """Logits (B, Xc, Yc, slots) with the corrections of voxels with evidence."""
        seen = occupied_indices(fused.labels)
        label, z = fused.labels.view(-1).index_select(0, seen), quotient(seen, self.config.grid.shape[2])[1]
        group = label.long() * BANDS + band_of(z) + _row(seen, logits) * belief.kept.shape[1]
        return logits.flatten().index_add(0, seen, belief.kept.view(-1).index_select(0, group)).view(logits.shape)

    def sparse_logits(self, fused: Fused) -> Tensor:
        """`occupied_logits` (B, Xc, Yc, slots) up to rounding: gates are read where there is evidence only."""
        slots, weight, bias = self.slots, self.scores.weight[:, :, 0, 0], self.scores.bias
        assert bias is not None
        logits = F.linear(fused.features, weight[:slots], bias[:slots]).view(-1)
        seen, remembered = occupied_indices(fused.labels), occupied_indices(fused.memory)
        gate, memory_gate = (slice(part * slots, (part + 1) * slots) for part in (1, 2))
        here = logits.index_select(0, seen) + self._at(fused, seen, weight[gate], bias[gate], 1)[:, 0]
        memory = self._at(fused, remembered, weight[memory_gate], bias[memory_gate], 1)[:, 0]
        logits.index_add_(0, remembered, memory)
        # Where there is evidence of both kinds, only what was seen counts.
        logits.index_copy_(0, seen, here)
        return logits.view(fused.labels.shape)

    def _class_logits(self, fused: Fused, voxel: Tensor) -> Tensor:
        """Class logits (18, N) of voxels (N,); the last row takes what free evidence adds, and means nothing."""
        rows = self._at(fused, voxel, self.classes.weight, self.classes.bias, self.config.class_embed)
        drawn = F.pad(self.table, (0, 0, 0, 1)) @ rows.t()
        for cells, trust in ((fused.labels, self.trust_class), (fused.memory, self.trust_memory)):
            label = cells.reshape(-1).index_select(0, voxel).long()
            drawn = drawn.scatter_add(0, label[None], trust.index_select(0, label)[None])
        return drawn

    def _at(self, fused: Fused, voxel: Tensor, weight: Tensor, bias: Tensor, width: int) -> Tensor:
        """A linear read-out of the cells' features at some voxels only.

        Args:
            fused: features.
            voxel: (N,) positions in the flattened cells, ascending or not.
            weight, bias: to ``width`` numbers for each row of a cell: a row is a voxel, or the voxels of one height.

        Returns:
            (N, width).
        """
        features = fused.features.view(-1, fused.features.shape[-1])
        cell, slot = quotient(voxel, self.slots)
        some, place = torch.unique_consecutive(cell, return_inverse=True)
        rows = weight.shape[0] // width
        table = F.linear(features.index_select(0, some), weight, bias).view(-1, width)
        return table.index_select(0, place * rows + quotient(slot, rows)[1])


def _row(voxel: Tensor, logits: Tensor) -> Tensor | int:
    """The grid (N,) of the batch in which voxels (N,) of flattened logits (B, ...) lie."""
    return 0 if len(logits) == 1 else voxel // logits[0].numel()


def _at_once(evidence: Evidence) -> int:
    """Grids that pass through the network together."""
    return GRIDS_AT_ONCE.get(evidence.labels.device.type, len(evidence.labels))


def observed_voxels(fused: Fused) -> Tensor:
    """(B, Xc, Yc, slots) bool, the voxels that an observed frame shows occupied, moved: what the ego warp forecasts."""
    seen = (fused.labels != FREE).view(*fused.visibility.shape, -1)
    return (seen & (fused.visibility == OBSERVED)[..., None]).view(fused.labels.shape)


def ground_relative(evidence: Evidence) -> tuple[Evidence, GroundShift]:
    """Evidence with the ground of its labels at `CANONICAL_Z`, and how to get back."""
    shift = ground_shift(evidence.labels)
    if shift.voxels is None:
        return evidence, shift
    return replace(evidence, labels=shift.lowered(evidence.labels), memory=shift.lowered(evidence.memory)), shift
