"""Losses of the tokenizer and of the forecaster.

Sources: focal loss, Lin et al., ICCV 2017; Lovász-softmax, Berman et al., CVPR 2018; the combination, its weights and
the trajectory losses, I2-World, ICCV 2025.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.core.grid import FREE, IGNORE, MOVABLE, NUM_CLASSES

OBJECTS = (*MOVABLE, 1, 8)
"""Classes of things rather than surfaces: movable ones, barriers and cones."""


def radial_weight(size_x: int, size_y: int, device: torch.device | None = None) -> Tensor:
    """(X, Y) weight 1 + r / r_max, r the distance from the map's centre in cells."""
    x = torch.arange(size_x, device=device, dtype=torch.float32) - size_x / 2
    y = torch.arange(size_y, device=device, dtype=torch.float32) - size_y / 2
    r = torch.hypot(x[:, None], y[None, :])
    return 1 + r / r.max()


def focal_terms(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss of every voxel and class.

    Args:
        logits: (N, K).
        labels: (N,) class ids; `IGNORE` gives a row that must be dropped by the caller.

    Returns:
        (N, K) losses.
    """
    target = torch.zeros_like(logits).scatter_(1, labels.clamp(max=logits.shape[1] - 1)[:, None].long(), 1.0)
    # p_t and the cross entropy are both functions of the logit signed towards the target.
    signed = logits * (1 - 2 * target)
    miss = torch.sigmoid(signed)
    weight = alpha * target + (1 - alpha) * (1 - target)
    return weight * miss.pow(gamma) * F.softplus(signed)


def focal_loss(
    logits: Tensor, labels: Tensor, weight: Tensor | None = None, class_weight: Tensor | None = None
) -> Tensor:
    """Sigmoid focal loss, summed over classes, mean over valid voxels.

    Args:
        logits: (N, K).
        labels: (N,), `IGNORE` left out.
        weight: (N,) factor per voxel.
        class_weight: (K,) factor per logit column.
    """
    valid = labels != IGNORE
    terms = focal_terms(logits[valid], labels[valid])
    if class_weight is not None:
        terms = terms * class_weight
    per_voxel = terms.sum(1)
    if weight is not None:
        per_voxel = per_voxel * weight[valid]
    return per_voxel.sum() / valid.sum().clamp(min=1)


def lovasz_softmax(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Exact Lovász-softmax: the mean over the present classes of the Lovász extension of 1 - IoU.

    Args:
        probabilities: (N, K).
        labels: (N,), `IGNORE` left out.
    """
    valid = labels != IGNORE
    probabilities, labels = probabilities[valid], labels[valid].long()
    losses = []
    for k in torch.unique(labels).tolist():
        truth = (labels == k).to(probabilities.dtype)
        errors, order = (truth - probabilities[:, k]).abs().sort(descending=True)
        truth = truth[order]
        union_loss = 1 - (truth.sum() - truth.cumsum(0)) / (truth.sum() + (1 - truth).cumsum(0))
        gradient = torch.cat((union_loss[:1], union_loss[1:] - union_loss[:-1]))
        losses.append(errors @ gradient)
    return torch.stack(losses).mean() if losses else probabilities.sum() * 0


def lovasz_softmax_binned(probabilities: Tensor, labels: Tensor, weight: Tensor, bins: int = 1024) -> Tensor:
    """Lovász-softmax of a weighted sample of voxels, with errors sorted into bins instead of one by one.

    The gradient of the Lovász extension at an error e depends only on how much of the class (and of the rest) has a
    larger error, so histograms replace the sort: linear time, and exact as ``bins`` grows. Weights make a sample of
    voxels stand for all of them.

    Args:
        probabilities: (N, K).
        labels: (N,) class ids 0..K-1.
        weight: (N,) how many voxels each one stands for.
        bins: resolution of the errors.
    """
    count = probabilities.shape[1]
    truth = F.one_hot(labels.long(), count).bool()
    errors = torch.where(truth, 1 - probabilities, probabilities)
    with torch.no_grad():
        # Bin 0 holds the largest errors, as in a descending sort.
        slot = ((1 - errors) * bins).long().clamp_(0, bins - 1)
        slot += torch.arange(count, device=slot.device) * bins
        mass = weight[:, None].expand_as(errors)
        hits = torch.bincount(slot[truth], mass[truth], minlength=bins * count).view(count, bins)
        rest = torch.bincount(slot.flatten(), mass.flatten(), minlength=bins * count).view(count, bins) - hits
        total = hits.sum(1, keepdim=True)
        # Half of the own bin counts as passed: the midpoint rule over the bin.
        inter = total - hits.cumsum(1) + hits / 2
        union = (total + rest.cumsum(1) - rest / 2).clamp(min=1e-6)
        per_hit = (1 / union).float().flatten()[slot]
        per_rest = (inter / union.square()).float().flatten()[slot]
        present = total[:, 0] > 0
        gradient = torch.where(truth, per_hit, per_rest) * mass * present / present.sum().clamp(min=1)
    return (errors * gradient).sum()


@dataclass(frozen=True, kw_only=True)
class VoxelSample:
    """A sample of voxels that stands for whole label grids.

    Attributes:
        index: (N,) long positions in the flattened (B*X*Y*Z) labels.
        weight: (N,) float32, voxels that each sampled one stands for.
    """

    index: Tensor
    weight: Tensor


def sample_voxels(labels: Tensor, count: int, generator: torch.Generator) -> VoxelSample:
    """Stratified sample of the voxels of (B, X, Y, Z) labels: objects, other occupied, the free beside them, far free.

    Labels are 95 % empty space. Taking every voxel where there is something to learn, and few of the rest with a
    weight that makes up for it, gives the same expected loss at a tenth of the cost.

    Args:
        labels: (B, X, Y, Z) class ids.
        count: voxels to take per grid; all of movable objects, barriers and cones, half of the rest from other
            occupied voxels, a third from near free ones, the remainder from far free ones.
        generator: source of randomness (CPU).
    """
    occupied = labels != FREE
    near = _face_neighbours(occupied) & ~occupied
    # Objects are few and their classes weigh as much as the large ones: all of them are taken.
    objects = torch.isin(labels, torch.tensor(OBJECTS, dtype=labels.dtype, device=labels.device))
    others, far = occupied & ~objects, ~(occupied | near)
    strata = ((objects, labels.numel()), (others, count // 2), (near, count // 3), (far, count // 6))
    index, weight = [], []
    for mask, share in strata:
        members = mask.flatten().nonzero()[:, 0]
        wanted = min(len(members), share * labels.shape[0])
        if wanted == 0:
            continue
        if wanted < len(members):
            pick = torch.randint(len(members), (wanted,), generator=generator).to(members.device)
            members_taken = members[pick]
        else:
            members_taken = members
        index.append(members_taken)
        weight.append(torch.full((wanted,), len(members) / wanted, device=labels.device))
    return VoxelSample(index=torch.cat(index), weight=torch.cat(weight))


def _face_neighbours(mask: Tensor) -> Tensor:
    """Voxels of (B, X, Y, Z) that share a face with a marked one."""
    near = torch.zeros_like(mask)
    for dim in (1, 2, 3):
        size = mask.shape[dim] - 1
        near.narrow(dim, 1, size).logical_or_(mask.narrow(dim, 0, size))
        near.narrow(dim, 0, size).logical_or_(mask.narrow(dim, 1, size))
    return near


def radial_focal(logits: Tensor, labels: Tensor, class_weight: Tensor | None = None) -> Tensor:
    """10 x focal loss of whole label grids, each column weighted by its distance from the centre.

    Args:
        logits: (B, X, Y, Z, K).
        labels: (B, X, Y, Z).
        class_weight: (K,) factor per logit column, or None.
    """
    size_x, size_y, size_z = labels.shape[1:]
    radial = radial_weight(size_x, size_y, logits.device).to(logits.dtype)
    weight = radial[None, :, :, None].expand(labels.shape[0], -1, -1, size_z).reshape(-1)
    return 10 * focal_loss(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), weight, class_weight)


def reconstruction_loss(
    logits: Tensor, labels: Tensor, class_weight: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The published reconstruction loss over every voxel: 10 x focal + Lovász-softmax.

    Args:
        logits: (B, X, Y, Z, K).
        labels: (B, X, Y, Z).
        class_weight: (K,) factor per logit column of the focal part, or None.
    """
    focal = radial_focal(logits, labels, class_weight)
    lovasz = lovasz_softmax(logits.reshape(-1, logits.shape[-1]).softmax(1), labels.reshape(-1))
    return focal + lovasz, {"focal": focal.detach(), "lovasz": lovasz.detach()}


def rare_class_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy in which a class weighs with the square root of its voxels.

    Lovász-softmax weighs all classes alike, but its gradient vanishes with the probability of a class, and the focal
    loss sees ten voxels of a bicycle among 640,000 others: a class that is never predicted is never found. This term
    pushes it until Lovász takes over.

    Args:
        logits: (N, K).
        target: (N,) int64 class ids.
        weight: (N,) how many voxels each one stands for.
    """
    share = torch.bincount(target, weight, minlength=logits.shape[1]).clamp(min=1).rsqrt()
    each = weight * share[target]
    return (F.cross_entropy(logits, target, reduction="none") * each).sum() / each.sum()


def sampled_reconstruction_loss(
    rows: Tensor,
    table: Tensor,
    labels: Tensor,
    sample: VoxelSample,
    position: Tensor,
    rare_weight: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The reconstruction loss estimated from a sample of voxels; logits are formed only there.

    Args:
        rows: (B*X*Y*Z, e) per-voxel features, in any order.
        table: (K, e) class embeddings.
        labels: (B, X, Y, Z).
        sample: from `sample_voxels`.
        position: (N,) the row of each sampled voxel.
        rare_weight: weight of `rare_class_loss`, beside the published losses.
    """
    size_x, size_y, size_z = labels.shape[1:]
    logits = rows.index_select(0, position).float() @ table.float().t()
    target = labels.reshape(-1)[sample.index].long()
    cell = (sample.index // size_z) % (size_x * size_y)
    weight = radial_weight(size_x, size_y, logits.device).flatten()[cell] * sample.weight
    focal = 10 * (focal_terms(logits, target).sum(1) * weight).sum() / labels.numel()
    lovasz = lovasz_softmax_binned(logits.softmax(1), target, sample.weight)
    with torch.no_grad():
        found, truth = logits.argmax(1) != FREE, target != FREE
        iou = sample.weight[found & truth].sum() / sample.weight[found | truth].sum().clamp(min=1)
    logs = {"focal": focal.detach(), "lovasz": lovasz.detach(), "iou": iou}
    if not rare_weight:
        return focal + lovasz, logs
    rare = rare_class_loss(logits, target, sample.weight)
    return focal + lovasz + rare_weight * rare, {**logs, "rare": rare.detach()}


def token_loss(predicted: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error of one step's tokens: mean over (C, X, Y), then over the valid samples (0 if none).

    Args:
        predicted, target: (B, C, Xl, Yl).
        valid: (B,) bool.
    """
    wide = torch.promote_types(predicted.dtype, torch.float32)
    per_sample = (predicted.to(wide) - target.to(wide)).square().flatten(1).mean(1)
    return (per_sample * valid).sum() / valid.sum().clamp(min=1)


def trajectory_loss(
    predicted: Tensor, target: Tensor, valid: Tensor, step_weight: Tensor, *, faithful: bool = False
) -> Tensor:
    """Squared distance of the accumulated displacements, per sample; the loss is its mean.

    Args:
        predicted, target: (B, K, 2) displacement of each step, metres.
        valid: (B, K) bool; invalid steps still enter the sums of later ones.
        step_weight: (K,).
        faithful: divide by B too, so that the mean divides twice (deviation 14).

    Returns:
        (B,) losses, mean over the steps.
    """
    error = (predicted.cumsum(1) - target.cumsum(1)).square().sum(-1)
    total = 0.01 * (error * valid * step_weight).sum(1) / predicted.shape[1]
    return total / len(predicted) if faithful else total


def rotation_loss(
    predicted: Tensor,
    target: Tensor,
    valid: Tensor | None = None,
    step_weight: Tensor | None = None,
) -> Tensor:
    """1 - |<q, q'>|, summed over the steps, mean over the batch.

    Args:
        predicted, target: (B, K, 4) unit quaternions.
        valid: (B, K) bool, steps that count; None: all (as published, deviation 14).
        step_weight: (K,); None: all alike (as published).
    """
    error = 1 - (predicted * target).sum(-1).abs()
    if valid is not None:
        error = error * valid
    if step_weight is not None:
        error = error * step_weight
    return error.sum(1).mean()


CLASS_WEIGHTS: tuple[float, ...] = (
    *(0.0727, 0.0692, 0.0838, 0.0681, 0.0601, 0.0741, 0.0823, 0.0688, 0.0773),
    *(0.0681, 0.0641, 0.0527, 0.0655, 0.0563, 0.0558, 0.0541, 0.0538, 0.0468),
)
"""Optional factors per logit column of the focal loss; the published configuration leaves them off."""
assert len(CLASS_WEIGHTS) == NUM_CLASSES
