"""Do no harm: how far the network's corrections of the evidence are believed, found on the observed past.

At every reset a known step is forecast once more: frames up to one second ago are the evidence, the current frame is
the truth. Where the network is worse than the evidence that it was given (it erases what stays, draws what is not
there, renames what was right), the evidence wins from then on. Groups are classes and bands of height above the ground,
so a network that knows roads but no terrain keeps its say on roads.

Legend: B grids, (Xc, Yc, S) cells of S voxels, N voxels, L levels, K groups.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from world_model.core.grid import FREE, NUM_CLASSES
from world_model.core.ground import BANDS, band_of
from world_model.core.sparse import nonzero_indices, occupied_indices
from world_model.core.tensor_state import TensorState
from world_model.models.geometric.expectation import expected_ious

LEVELS = (0.0, 1.0, 2.0, 4.0, 1e4)
"""Logits that are added to evidence, or asked of what is drawn; with the last the evidence decides alone."""
CHANGE_COST = 0.15
"""What the change of one voxel has to gain, in right voxels: what one frame says is uncertain."""
ENOUGH = 0.9
"""Share of the best level's gain with which a stronger one is taken."""
LEAST_GAIN = 0.02
"""Share of the voxels of a group that have to be gained before its evidence is held against the network: one frame
also shows gaps that close again."""
DRAWN_PRICE = 0.25
"""Highest price of a wrong voxel among those that are drawn, in right ones. Within the second of the self-check little
comes into view, so only a network that draws nearly nothing right is restrained..."""
INVENTED = 0.05
"""... and only where it draws that many voxels of a class, as a share of what was observed. A vehicle that stands sees
nothing come into view: the few voxels that are drawn then are wrong, and say nothing of the drive ahead."""
POOLED = 40.0
"""Voxels' worth of what all groups together say, for groups with few voxels."""


@dataclass(frozen=True, kw_only=True)
class Belief(TensorState):
    """Corrections of B forecasts' scores, and what they were found on.

    Attributes:
        kept: (B, 18 * BANDS) float32 added to the logits of voxels with evidence, by its class and height band.
        drawn: (B, 18) float32 logit that a voxel without evidence needs, by the class it would get; infinite for
            classes that the data do not have.
        named: (B, 18) float32 added to the score of the class that the evidence has.
        network_iou, evidence_iou: (B,) float32 IoU of both with the known frame; 1 where nothing was checked.
        optimism: (B,) float32 by how much the network overrated its lead over the evidence there.
    """

    kept: Tensor
    drawn: Tensor
    named: Tensor
    network_iou: Tensor
    evidence_iou: Tensor
    optimism: Tensor = field(metadata={"absent": lambda like, rows: like.network_iou.new_zeros(rows)})

    @classmethod
    def blank(cls, batch: int, device: torch.device) -> Belief:
        """The network's word as it is."""
        one = torch.ones(batch, dtype=torch.float32, device=device)
        zero = one.new_zeros(batch, NUM_CLASSES)
        bands = zero.repeat(1, BANDS)
        return cls(kept=bands, drawn=zero, named=zero, network_iou=one, evidence_iou=one, optimism=0 * one)

    def without(self, absent: Tensor) -> Belief:
        """Classes (B, 18) bool that are never drawn: the likeliest other one is drawn instead."""
        return replace(self, drawn=self.drawn.masked_fill(absent, torch.inf))


def find_belief(logits: Tensor, classes: Tensor, labels: Tensor, truth: Tensor, heights: int) -> Belief:
    """Corrections out of one forecast of a known frame.

    Args:
        logits: (B, Xc, Yc, S) that voxels are occupied.
        classes: (B, Xc, Yc, S) uint8 the class that the network would give where it or the evidence has something,
            else `FREE`.
        labels: (B, Xc, Yc, S) uint8 the evidence.
        truth: (B, Xc, Yc, S) uint8.
        heights: Z; heights come last in the numbering of a cell's voxels.
    """
    batch, per_grid = len(logits), logits[0].numel()
    logit, name, evidence, true = (part.reshape(-1) for part in (logits, classes, labels, truth))
    seen = occupied_indices(labels)
    price = class_iou(labels, truth, seen)

    def levels(voxel: Tensor, group: Tensor, groups: int, right: Tensor, *, asked: bool) -> Tensor:
        number = voxel // per_grid * groups + group
        good, bad = _by_level(number, logit[voxel], right, batch * groups, asked)
        cost = price.repeat_interleave(groups // NUM_CLASSES, 1)[..., None]
        cost, least = (cost.clamp(max=DRAWN_PRICE), 0.0) if asked else (cost, LEAST_GAIN)
        return best_level(good.view(batch, groups, -1), bad.view(batch, groups, -1), cost, least)

    here = evidence[seen].long()
    right = evidence[seen] == true[seen]
    kept = levels(seen, here * BANDS + band_of(seen % heights), NUM_CLASSES * BANDS, right, asked=False)
    blank = nonzero_indices((evidence == FREE) & (name != FREE))
    drawn = levels(blank, name[blank].long(), NUM_CLASSES, name[blank] == true[blank], asked=True)
    invented = torch.bincount(blank // per_grid * NUM_CLASSES + name[blank], minlength=drawn.numel()).view(drawn.shape)
    drawn = drawn * (invented > INVENTED * (labels != FREE).flatten(1).sum(1, keepdim=True))
    gain = logit.new_zeros(batch * NUM_CLASSES)
    better = ((name[seen] == true[seen]).float() - right.float()) * (true[seen] != FREE)
    gain.index_add_(0, seen // per_grid * NUM_CLASSES + here, better)
    expected, moved = expected_ious(logits, labels != FREE)
    network, warped = (_occupied_iou(part, truth != FREE) for part in (logits > 0, labels != FREE))
    return Belief(
        kept=kept,
        drawn=drawn,
        named=(gain.view(batch, NUM_CLASSES) < 0).float() * LEVELS[-1],
        network_iou=network,
        evidence_iou=warped,
        optimism=(expected - moved) - (network - warped),
    )


def best_level(right: Tensor, wrong: Tensor, price: Tensor, least: float) -> Tensor:
    """The levels at which most is gained.

    Args:
        right, wrong: (B, K, L) voxels that are occupied at each level, and truly so or not.
        price: (B, K, 1) IoU of the evidence: a wrong voxel costs as much as so many right ones.
        least: share of the voxels at the last level that another level than the first has to gain.

    Returns:
        (B, K) values of `LEVELS`.
    """
    voxels = right + wrong
    gain = right - price * wrong - CHANGE_COST * (voxels - voxels[:, :, :1]).abs()
    most = voxels.amax(2, keepdim=True).sum(1, keepdim=True).clamp(min=1)
    gain = gain + POOLED * gain.sum(1, keepdim=True) / most
    # Of the levels that gain about as much, the one that believes the evidence most.
    best, start = gain.amax(2, keepdim=True), gain[:, :, :1]
    enough = (gain >= start + ENOUGH * (best - start)) & (best > start + least * (voxels[:, :, -1:] + POOLED))
    return gain.new_tensor(LEVELS)[(enough * torch.arange(len(LEVELS), device=gain.device)).amax(2)]


def absent_classes(labels: Tensor) -> Tensor:
    """(B, 18) which classes do not occur in labels (B, ...)."""
    return _count(labels, occupied_indices(labels)) == 0


def class_iou(labels: Tensor, truth: Tensor, seen: Tensor) -> Tensor:
    """(B, 18) IoU of each class between two labellings (B, ...), drawn towards the mean of all; 0 for free.

    Args:
        labels, truth: uint8.
        seen: positions of the occupied voxels of ``labels``.
    """
    right = seen[labels.reshape(-1)[seen] == truth.reshape(-1)[seen]]
    hit = _count(labels, right)
    union = _count(labels, seen) + _count(truth, occupied_indices(truth)) - hit
    mean = hit.sum(1, keepdim=True) / union.sum(1, keepdim=True).clamp(min=1)
    return (hit + POOLED * mean) / (union + POOLED)


def _count(labels: Tensor, voxel: Tensor) -> Tensor:
    """(B, 18) float32 how many of some voxels (N,) have each class."""
    number = voxel // labels[0].numel() * NUM_CLASSES + labels.reshape(-1)[voxel]
    return torch.bincount(number, minlength=len(labels) * NUM_CLASSES).view(-1, NUM_CLASSES).float()


def _by_level(group: Tensor, logit: Tensor, right: Tensor, groups: int, asked: bool) -> tuple[Tensor, Tensor]:
    """Right and wrong voxels (groups, L) of N voxels that are occupied at each level.

    Args:
        group: (N,) numbers.
        logit: (N,).
        right: (N,) bool.
        groups: how many there are.
        asked: levels are asked of the logits; else they are added to them.
    """
    levels = logit.new_tensor(LEVELS)
    occupied = logit[:, None] > levels if asked else logit[:, None] + levels > 0
    true, false = (
        logit.new_zeros(groups, len(LEVELS)).index_add_(0, group, (occupied & which[:, None]).float())
        for which in (right, ~right)
    )
    return true, false


def _occupied_iou(one: Tensor, other: Tensor) -> Tensor:
    """(B,) IoU of two bool maps (B, ...); 1 where both are empty."""
    both, any_ = (one & other).flatten(1).sum(1), (one | other).flatten(1).sum(1)
    return torch.where(any_ > 0, both / any_.clamp(min=1), torch.ones_like(both / 1))
