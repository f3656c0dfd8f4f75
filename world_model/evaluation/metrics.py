"""Occupancy scores from one integer histogram: IoU, both mIoU conventions, per class, and class subsets.

All sums are integers, so any batch size, order or split into parts gives identical scores.

    IoU             binary, occupied against free; ground truth of 255 (not annotated) is left out
    mIoU            mean over the classes that occur in the ground truth or the prediction
    IoU_published   binary, with ground truth of 255 counted as occupied (the II-World release)
    mIoU_published  mean over the classes whose IoU is above 0 (the II-World release: a class that is never hit drops
                    out instead of pulling the mean down)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.errors import DataError
from world_model.core.grid import FREE, IGNORE, NUM_CLASSES

SEMANTIC: tuple[int, ...] = tuple(range(FREE))
"""The classes of the mean: all but free."""
TABLE = (NUM_CLASSES + 1, NUM_CLASSES)
"""Shape of a histogram with its last row for ground truth of 255."""


class Confusion:
    """Histogram of (ground truth, prediction) label pairs.

    Args:
        counts: integers to start from: (18, 18), rows ground truth, columns prediction, or (19, 18) with a last row for
            ground truth of 255; zeros if not given.

    Attributes:
        counts: (18, 18) int64, the pairs with a known ground truth.
        ignored: (18,) int64, what was predicted where the ground truth is 255.
    """

    def __init__(self, counts: NDArray[Any] | None = None) -> None:
        table = np.zeros(TABLE, np.int64)
        if counts is not None:
            given = np.asarray(counts, np.int64).reshape(-1, NUM_CLASSES)
            table[: len(given)] = given
        self.counts, self.ignored = table[:NUM_CLASSES], table[NUM_CLASSES]

    @classmethod
    def of(cls, prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> Confusion:
        """The histogram of one pair of labels, see `add`."""
        confusion = cls()
        confusion.add(prediction, truth, mask)
        return confusion

    @property
    def table(self) -> NDArray[Any]:
        """(19, 18) int64: ``counts``, and ``ignored`` as the last row."""
        return np.concatenate((self.counts, self.ignored[None]))

    def add(self, prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> None:
        """Count labels of any shape. The arguments are not modified.

        Args:
            prediction: class ids 0..17.
            truth: class ids 0..17 or 255, same shape.
            mask: bool, same shape: count only where True.

        Raises:
            DataError: the shapes differ, or a label is out of range.
        """
        if prediction.shape != truth.shape or (mask is not None and mask.shape != truth.shape):
            shapes = [tuple(prediction.shape), tuple(truth.shape)]
            found = (
                f"prediction and ground truth of shapes {shapes}, mask {None if mask is None else tuple(mask.shape)}"
            )
            raise DataError(found, "equal shapes", "compare labels on one grid")
        if mask is not None:
            prediction, truth = prediction[mask], truth[mask]
        pairs = _pairs(_bytes(prediction), _bytes(truth))
        part = pairs[:NUM_CLASSES, :NUM_CLASSES]
        unknown = pairs[IGNORE, :NUM_CLASSES]
        if part.sum() + unknown.sum() != pairs.sum():
            labels = [np.flatnonzero(pairs.any(axis)).tolist() for axis in (1, 0)]
            raise DataError(
                f"ground truth labels {labels[0]}, predicted {labels[1]}",
                f"0..{FREE} (and {IGNORE} in the ground truth)",
                "check where these labels come from",
            )
        self.counts += part
        self.ignored += unknown

    @property
    def total(self) -> int:
        """Number of voxels counted, those of unknown ground truth apart."""
        return int(self.counts.sum())

    def per_class(self) -> NDArray[Any]:
        """(18,) float64 IoU as a fraction, NaN for classes that occur on neither side."""
        return class_iou(self.counts)

    def miou(self, classes: Sequence[int] = SEMANTIC) -> float:
        """Mean IoU over those of ``classes`` that occur in the ground truth or the prediction; NaN if none does."""
        return _mean_above(self.per_class()[list(classes)], -1.0)

    def miou_published(self, classes: Sequence[int] = SEMANTIC) -> float:
        """Mean IoU over those of ``classes`` with IoU above 0; NaN if there is none."""
        return _mean_above(self.per_class()[list(classes)], 0.0)

    def miou_occworld(self) -> float:
        """OccWorld's mean over all classes but free: one that the ground truth does not hold counts as IoU 1."""
        absent = self.counts.sum(1) == 0
        return float(np.where(absent, 1.0, self.per_class())[list(SEMANTIC)].mean())

    def iou(self, classes: Sequence[int] = SEMANTIC) -> float:
        """Binary IoU of "is one of ``classes``" (all but free: occupied); NaN if neither side has any."""
        return _binary(self.counts, np.isin(np.arange(NUM_CLASSES), list(classes)))

    def iou_published(self, classes: Sequence[int] = SEMANTIC) -> float:
        """As `iou`; where ``classes`` are all but free, ground truth of 255 counts as occupied."""
        if set(classes) != set(SEMANTIC):
            return self.iou(classes)
        # 255 is "not free" in the release's test of occupancy: the same as one more occupied class.
        counts = self.counts.copy()
        counts[0] += self.ignored
        return _binary(counts, np.arange(NUM_CLASSES) != FREE)


def class_iou(counts: NDArray[Any]) -> NDArray[np.float64]:
    """(..., 18) IoU by class of histograms (..., 18, 18), as a fraction; NaN for classes that occur on neither side."""
    hit = np.diagonal(counts, axis1=-2, axis2=-1)
    union = counts.sum(-2) + counts.sum(-1) - hit
    return np.where(union > 0, hit / np.maximum(union, 1), np.nan)


def rounded(fraction: float) -> float:
    """A fraction rounded as the II-World release rounds its scores: to two decimals of a percent."""
    return round(100 * fraction, 2) / 100


def _mean_above(scores: NDArray[np.float64], least: float) -> float:
    """Mean of the scores above ``least``, which NaN is not; NaN if there is none."""
    present = scores[scores > least]
    return float(present.mean()) if len(present) else float("nan")


def _binary(counts: NDArray[Any], chosen: NDArray[Any]) -> float:
    hit = int(counts[np.ix_(chosen, chosen)].sum())
    union = hit + int(counts[np.ix_(chosen, ~chosen)].sum()) + int(counts[np.ix_(~chosen, chosen)].sum())
    return hit / union if union else float("nan")


def _bytes(labels: Tensor) -> Tensor:
    """Flat uint8."""
    if labels.dtype != torch.uint8 and labels.numel() and (int(labels.min()) < 0 or int(labels.max()) > 255):
        raise DataError("labels below 0 or above 255", "class ids", "check where these labels come from")
    return labels.to(torch.uint8).flatten()


def _pairs(prediction: Tensor, truth: Tensor) -> NDArray[Any]:
    """(256, 256) int64 counts of (truth, prediction); range errors show up as occupied bins, without a pass of their
    own."""
    if prediction.device.type != "cpu" or truth.device.type != "cpu":
        pair = truth.to(prediction.device, torch.int32).mul_(256).add_(prediction)
        return torch.bincount(pair, minlength=65536).cpu().numpy().reshape(256, 256)
    # Free space that was forecast free is nine tenths of a scene: counted by subtraction, which is six times as fast.
    said, true = prediction.numpy(), truth.numpy()
    other = np.flatnonzero((said != FREE) | (true != FREE))
    table = np.bincount(true[other].astype(np.int64) * 256 + said[other], minlength=65536).reshape(256, 256)
    table[FREE, FREE] = len(true) - len(other)
    return table
