"""Losses, metrics and pose arithmetic against golden files."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.geometry import quat_conjugate, quat_multiply, quat_to_matrix
from world_model.core.grid import CLASS_NAMES
from world_model.evaluation.metrics import SEMANTIC, Confusion
from world_model.evaluation.parity.golden import GoldenFile
from world_model.evaluation.parity.measure import Report
from world_model.models.forecaster.ego import misread_yaw
from world_model.models.forecaster.training import ForecasterLossConfig
from world_model.models.losses import (
    CLASS_WEIGHTS,
    focal_loss,
    lovasz_softmax,
    radial_weight,
    rotation_loss,
    token_loss,
    trajectory_loss,
)


def verify_losses(file: GoldenFile, report: Report) -> None:
    """Compare every array of ``losses.npz``."""
    _reconstruction(file, report)
    predicted, target = (file.tensor(f"fs_{name}").to(report.dtype) for name in ("pred", "targ"))
    valid = file.tensor("fs_valid")
    for key, mask in (
        ("fs", valid),
        ("fs_none_valid", torch.zeros_like(valid)),
        ("fs_all_valid", torch.ones_like(valid)),
    ):
        report.close(file, key, token_loss(predicted, target, mask), "single", "token loss")
    predicted, target = (file.tensor(f"tr_{name}").to(report.dtype) for name in ("pred", "targ"))
    weights = torch.tensor(ForecasterLossConfig().step_weights, dtype=report.dtype)[: predicted.shape[1]]
    path = trajectory_loss(predicted, target, file.tensor("tr_valid"), weights, faithful=True)
    report.close(file, "tr", path, "single", "trajectory loss")
    turn = rotation_loss(file.tensor("ro_pred").to(report.dtype), file.tensor("ro_targ").to(report.dtype))
    report.close(file, "ro", turn, "single", "rotation loss")
    report.close(file, "ro_ignores_valid", turn, "single", "rotation loss")


def _reconstruction(file: GoldenFile, report: Report) -> None:
    labels = file.tensor("cls_targ")
    logits = file.tensor("cls_pred").to(report.dtype).requires_grad_()
    size_x, size_y, size_z = labels.shape[-3:]
    radial = radial_weight(size_x, size_y).to(report.dtype)
    report.close(file, "focal_c_map", radial, "single", "radial weight")
    corners = [(0, 0), (0, 199), (199, 0), (199, 199), (100, 100), (99, 99)]
    report.close(
        file,
        "focal_c_map_200_corners",
        torch.stack([radial_weight(200, 200)[c] for c in corners]),
        "single",
        "radial weight",
    )
    report.close(file, "class_weights", torch.tensor(CLASS_WEIGHTS), "single", "class weights")
    weight = radial[:, :, None].expand(*labels.shape[:-3], size_x, size_y, size_z).reshape(-1)
    flat, target = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    focal = 10 * focal_loss(flat, target, weight)
    weighted = 10 * focal_loss(flat, target, weight, torch.tensor(CLASS_WEIGHTS, dtype=report.dtype))
    lovasz = lovasz_softmax(flat.softmax(1), target)
    report.close(file, "focal", focal, "single", "focal loss")
    report.close(file, "focal_class_weights", weighted, "single", "focal loss")
    report.close(file, "lovasz", lovasz, "single", "Lovász loss")
    (focal + lovasz).backward()
    assert logits.grad is not None
    report.close(file, "focal_plus_lovasz_grad", logits.grad, "single", "gradient of focal + Lovász")


def verify_metrics(file: GoldenFile, report: Report) -> None:
    """Compare every array of ``metrics.npz``: counts exactly, scores in both conventions."""
    total = Confusion()
    predicted, truth = file.tensor("pred"), file.tensor("gt")
    for a, b in zip(predicted, truth, strict=True):
        total.add(a, b)
    report.equal(file, "hist", torch.from_numpy(total.counts), "histogram")
    report.equal(file, "iou_hist", torch.from_numpy(_occupied(total)), "histogram, 255 as occupied")
    report.equal(file, "cnt", torch.tensor(len(predicted)), "number of pairs")
    scores = torch.from_numpy(np.nan_to_num(total.per_class(), nan=-1.0))
    report.close(_without_nan(file, "per_class_iou"), "per_class_iou", scores, "single", "IoU by class")
    _scores(file, total, "", report)
    if "pred_b" in file:
        second = Confusion()
        second.add(file.tensor("pred_b"), file.tensor("gt_b"))
        _scores(file, second, "_b", report)
    _names(file, total, report)
    # The published metric overwrites its inputs by occupancy; ours must not, and its occupancy is the same.
    for mine, name in ((predicted, "pred"), (truth, "gt")):
        report.equal(file, name, mine, "inputs are left alone")
        report.equal(file, f"mutated_{name}0", (mine[0] != len(SEMANTIC)).long(), "occupancy of the first pair")


def _without_nan(file: GoldenFile, key: str) -> GoldenFile:
    """The file with NaN (an absent class) as -1 in one array."""
    return file.changed(key, np.nan_to_num(file.array(key), nan=-1.0)) if key in file else file


def _occupied(total: Confusion) -> NDArray[Any]:
    """(2, 2) histogram of free and occupied, ground truth of 255 occupied."""
    free = np.arange(len(CLASS_NAMES)) == len(SEMANTIC)
    table = total.counts.copy()
    table[0] += total.ignored
    return np.array([[table[np.ix_(a, b)].sum() for b in (free, ~free)] for a in (free, ~free)])


def _scores(file: GoldenFile, total: Confusion, suffix: str, report: Report) -> None:
    percent = {
        "count_miou": round(100 * total.miou_published(), 2),
        "count_iou": round(100 * total.iou_published(), 2),
        "miou_zero_iou_counted": round(100 * total.miou(), 2),
        "iou_255_ignored": round(100 * total.iou(), 2),
        "iou_unrounded": total.iou_published(),
    }
    for name, value in percent.items():
        report.close(file, name + suffix, value, "single", "scores, both conventions")


def _names(file: GoldenFile, total: Confusion, report: Report) -> None:
    """Class names, and the printed scores by class (a class with IoU 0 reads "nan")."""
    if "class_names" in file:
        same = [str(a) == b for a, b in zip(file.array("class_names"), CLASS_NAMES, strict=True)]
        report.add(file, "class names", float(len(same) - sum(same)), 0.0, len(same))
    if "ret_dict_values" in file:
        given = [str(value) for value in file.array("ret_dict_values")]
        mine = [str(round(100 * v, 2)) if v > 0 else "nan" for v in np.nan_to_num(total.per_class())]
        wrong = sum(float(a) != float(b) for a, b in zip(given, mine, strict=True) if (a, b) != ("nan", "nan"))
        report.add(file, "printed scores by class", float(wrong), 0.0, len(given))


def verify_pose_ops(file: GoldenFile, report: Report) -> None:
    """Compare every array of ``pose_ops.npz``."""

    def read(name: str) -> Tensor:
        return file.tensor(name).to(report.dtype)

    steps = read("seq")
    relative = quat_multiply(quat_conjugate(steps[:, :-1]), steps[:, 1:])
    found = {
        "mul": quat_multiply(read("q1"), read("q2")),
        "rotmat": quat_to_matrix(read("q1")),
        "relative": relative,
        "compose_as_original_rel_x_prev": quat_multiply(relative[:, 0], steps[:, 0]),
        "compose_correct_prev_x_rel": quat_multiply(steps[:, 0], relative[:, 0]),
        "compose_target": steps[:, 1],
    }
    for key, value in found.items():
        report.close(file, key, value, "single", "quaternions")
    report.close(file, "rpy", misread_angles(read("small_tilt_quats")), "single", "misread yaw")


def misread_angles(rotation: Tensor) -> Tensor:
    """Roll, pitch and (the only one in use) yaw of (w, x, y, z) quaternions taken for (x, y, z, w); (..., 3) rad."""
    x, y, z, w = rotation.unbind(-1)
    roll = torch.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    pitch = torch.asin((2 * (w * y - z * x)).clamp(-1, 1))
    return torch.stack((roll, pitch, misread_yaw(rotation)), -1)
