from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from real_files import REAL
from torch import Tensor

from world_model.core.errors import DataError
from world_model.core.grid import MOVABLE, STATIC
from world_model.data.labels import read_labels, read_mask
from world_model.evaluation.metrics import Confusion, rounded


def labels(seed: int, shape: tuple[int, ...] = (4, 10, 9, 8), highest: int = 18) -> Tensor:
    return torch.randint(0, highest, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def counted(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> Confusion:
    confusion = Confusion()
    confusion.add(prediction, truth, mask)
    return confusion


def slow_per_class(prediction: np.ndarray, truth: np.ndarray) -> list[float]:
    keep = truth != 255
    prediction, truth = prediction[keep], truth[keep]
    scores = []
    for c in range(18):
        union = ((prediction == c) | (truth == c)).sum()
        scores.append(((prediction == c) & (truth == c)).sum() / union if union else float("nan"))
    return scores


def test_agrees_with_a_slow_twin_and_leaves_its_inputs_alone() -> None:
    prediction, truth = labels(0, highest=12), labels(1)
    truth[truth == 14] = 17
    truth[0, :2] = 255
    before = prediction.clone(), truth.clone()
    confusion = counted(prediction, truth)
    assert torch.equal(prediction, before[0]) and torch.equal(truth, before[1])
    slow = slow_per_class(prediction.numpy(), truth.numpy())
    np.testing.assert_allclose(confusion.per_class(), slow)
    assert confusion.miou() == pytest.approx(np.nanmean(slow[:17]))
    published = [s for s in slow[:17] if not math.isnan(s) and s > 0]
    assert confusion.miou_published() == pytest.approx(np.mean(published))
    assert len(published) < 17 and confusion.miou_published() > confusion.miou()
    keep = truth != 255
    occupied, hit = truth[keep] != 17, prediction[keep] != 17
    assert confusion.iou() == pytest.approx(float((occupied & hit).sum() / (occupied | hit).sum()))
    assert confusion.total == int(keep.sum())


def test_any_order_and_batch_gives_identical_sums() -> None:
    prediction, truth = labels(2), labels(3)
    whole = counted(prediction, truth)
    parts = Confusion()
    for i in (2, 0, 3, 1):
        parts.add(prediction[i], truth[i])
    assert (parts.counts == whole.counts).all()
    assert (counted(prediction[:1], truth[:1]).counts + counted(prediction[1:], truth[1:]).counts == whole.counts).all()


def test_perfect_and_empty() -> None:
    truth = labels(4)
    assert counted(truth, truth).miou() == counted(truth, truth).iou() == 1.0
    free = torch.full_like(truth, 17)
    assert counted(free, truth).iou() == 0.0
    assert math.isnan(counted(free, free).iou()) and math.isnan(counted(free, free).miou())
    assert math.isnan(Confusion().miou_published())


def test_absent_class_neither_helps_nor_hurts() -> None:
    truth = torch.tensor([4, 4, 11, 17], dtype=torch.uint8)
    prediction = torch.tensor([4, 17, 11, 17], dtype=torch.uint8)
    assert counted(prediction, truth).miou() == pytest.approx((0.5 + 1.0) / 2)


def test_mask_counts_only_inside() -> None:
    prediction, truth = labels(5), labels(6)
    mask = labels(7, highest=2).bool()
    inside, outside = counted(prediction, truth, mask), counted(prediction, truth, ~mask)
    assert (inside.counts + outside.counts == counted(prediction, truth).counts).all()
    assert inside.total == int(mask.sum())


def test_published_iou_counts_unknown_ground_truth_as_occupied() -> None:
    prediction, truth = labels(9), labels(10)
    truth[1] = 255
    confusion = counted(prediction, truth)
    occupied, hit = truth != 17, prediction != 17  # 255 is not free
    assert confusion.iou_published() == pytest.approx(float((occupied & hit).sum() / (occupied | hit).sum()))
    known = counted(prediction[truth != 255], truth[truth != 255])
    assert confusion.iou() == known.iou() != confusion.iou_published()
    assert known.iou_published() == known.iou()
    assert confusion.miou_published() == known.miou_published()
    assert confusion.iou_published(MOVABLE) == confusion.iou(MOVABLE)
    assert int(confusion.ignored.sum()) == truth[1].numel() and confusion.total == truth.numel() - truth[1].numel()
    assert (Confusion(confusion.table).table == confusion.table).all()


def test_rounding_is_to_two_decimals_of_a_percent() -> None:
    assert rounded(0.123456) == pytest.approx(0.1235, abs=1e-12)
    assert math.isnan(rounded(float("nan")))


def test_other_integer_types_count_alike() -> None:
    prediction, truth = labels(11), labels(12)
    assert (counted(prediction.long(), truth.int()).table == counted(prediction, truth).table).all()
    with pytest.raises(DataError, match="above 255"):
        counted(prediction, truth.long() - 300)


def test_class_subsets() -> None:
    truth = torch.tensor([4, 4, 11, 11, 17], dtype=torch.uint8)
    prediction = torch.tensor([4, 11, 11, 17, 10], dtype=torch.uint8)
    confusion = counted(prediction, truth)
    assert confusion.iou(MOVABLE) == pytest.approx(1 / 3)
    assert confusion.miou(MOVABLE) == pytest.approx((0.5 + 0.0) / 2)
    assert confusion.miou(STATIC) == pytest.approx(1 / 3)


def test_bad_labels_are_named() -> None:
    good = labels(8)
    with pytest.raises(DataError, match="equal shapes"):
        counted(good, good[:1])
    with pytest.raises(DataError, match="18"):
        counted(good, torch.full_like(good, 18))
    with pytest.raises(DataError, match="255"):
        counted(torch.full_like(good, 255), good)


@pytest.mark.skipif(not (REAL / "occ3d/frame_a.npz").exists(), reason="no real frame here")
@pytest.mark.parametrize(("mask", "miou", "iou"), [("camera", 44.6, 79.6), ("none", 21.4, 12.0)])
def test_published_prediction_of_a_real_frame(mask: str, miou: float, iou: float) -> None:
    """Published figures of perception networks are inside the camera mask: outside it they were never trained."""
    frame, prediction = (REAL / "occ3d" / name for name in ("frame_a.npz", "frame_a_prediction.npz"))
    inside = None if mask == "none" else torch.from_numpy(read_mask(frame, mask))
    labels = (torch.from_numpy(read_labels(path)) for path in (prediction, frame))
    found = Confusion.of(*labels, inside)
    assert (round(100 * found.miou(), 1), round(100 * found.iou(), 1)) == (miou, iou)
