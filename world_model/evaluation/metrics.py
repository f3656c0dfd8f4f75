"""Occupancy scores from one integer histogram: IoU, both mIoU conventions, per class, and class subsets.

All sums are integers, so any batch size, order or split into parts gives identical scores.

    IoU             binary, occupied against free
    mIoU            mean over the classes that occur in the ground truth or the prediction
    mIoU_published  mean over the classes whose IoU is above 0 (the convention of the II-World release: a class that is
                    never hit drops out instead of pulling the mean down)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from world_model.errors import DataError
from world_model.grid import FREE, IGNORE, NUM_CLASSES

SEMANTIC: tuple[int, ...] = tuple(range(FREE))
"""The classes of the mean: all but free."""


class Confusion:
    """Histogram of (ground truth, prediction) label pairs.

    Args:
        counts: (18, 18) int64 to start from, rows ground truth, columns prediction; zeros if not given.

    Attributes:
        counts: the histogram so far.
    """

    def __init__(self, counts: np.ndarray | None = None) -> None:
        shape = (NUM_CLASSES, NUM_CLASSES)
        self.counts = np.zeros(shape, np.int64) if counts is None else np.array(counts, np.int64).reshape(shape)

    def add(self, prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> None:
        """Count labels of any shape; ground truth of 255 is left out. The arguments are not modified.

        Args:
            prediction: class ids 0..17.
            truth: class ids 0..17 or 255, same shape.
            mask: bool, same shape: count only where True.

        Raises:
            DataError: the shapes differ, or a label is out of range.
        """
        if prediction.shape != truth.shape or (mask is not None and mask.shape != truth.shape):
            shapes = [tuple(t.shape) for t in (prediction, truth) if t is not None]
            raise DataError(
                f"prediction and ground truth of shapes {shapes}, mask {None if mask is None else tuple(mask.shape)}",
                "equal shapes",
                "compare labels on one grid",
            )
        if mask is not None:
            prediction, truth = prediction[mask], truth[mask]
        # One bin per pair of bytes: range errors show up as occupied bins, without a pass of their own. 32 bits are
        # three times as fast as 64.
        pair = truth.to(torch.int32).mul_(256).add_(prediction)
        if pair.numel() and (int(pair.min()) < 0 or int(pair.max()) >= 65536):
            raise DataError("labels below 0 or above 255", "class ids", "check where these labels come from")
        table = torch.bincount(pair.flatten(), minlength=65536).cpu().numpy().reshape(256, 256)
        part = table[:NUM_CLASSES, :NUM_CLASSES]
        if part.sum() + table[IGNORE].sum() != table.sum():
            found = [np.flatnonzero(table.any(axis)).tolist() for axis in (1, 0)]
            raise DataError(
                f"ground truth labels {found[0]}, predicted {found[1]}",
                f"0..{FREE} (and {IGNORE} in the ground truth)",
                "check where these labels come from",
            )
        self.counts += part

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.counts + other.counts)

    @property
    def total(self) -> int:
        """Number of voxels counted."""
        return int(self.counts.sum())

    def per_class(self) -> np.ndarray:
        """(18,) float64 IoU as a fraction, NaN for classes that occur on neither side."""
        hit = np.diag(self.counts)
        union = self.counts.sum(0) + self.counts.sum(1) - hit
        return np.where(union > 0, hit / np.maximum(union, 1), np.nan)

    def miou(self, classes: Sequence[int] = SEMANTIC) -> float:
        """Mean IoU over those of ``classes`` that occur in the ground truth or the prediction; NaN if none does."""
        scores = self.per_class()[list(classes)]
        present = scores[~np.isnan(scores)]
        return float(present.mean()) if len(present) else float("nan")

    def miou_published(self, classes: Sequence[int] = SEMANTIC) -> float:
        """Mean IoU over those of ``classes`` with IoU above 0; NaN if there is none."""
        scores = self.per_class()[list(classes)]
        present = scores[~np.isnan(scores) & (scores > 0)]
        return float(present.mean()) if len(present) else float("nan")

    def iou(self, classes: Sequence[int] = SEMANTIC) -> float:
        """Binary IoU of "is one of ``classes``" (all but free: occupied); NaN if neither side has any."""
        chosen = np.isin(np.arange(NUM_CLASSES), list(classes))
        hit = int(self.counts[np.ix_(chosen, chosen)].sum())
        union = hit + int(self.counts[np.ix_(chosen, ~chosen)].sum()) + int(self.counts[np.ix_(~chosen, chosen)].sum())
        return hit / union if union else float("nan")
