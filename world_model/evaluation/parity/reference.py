"""Losses, metrics and pose arithmetic against golden files."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.geometry import quat_conjugate, quat_multiply, quat_to_matrix
from world_model.core.grid import CLASS_NAMES
from world_model.evaluation.metrics import SEMANTIC, Confusion
from world_model.evaluation.parity.comparison import Comparison
from world_model.models.forecaster.ego import misread_yaw
from world_model.models.forecaster.losses import rotation_loss, token_loss, trajectory_loss
from world_model.models.forecaster.training import ForecasterLossConfig
from world_model.models.losses import CLASS_WEIGHTS, focal_loss, lovasz_softmax, radial_weight


def verify_losses(check: Comparison) -> None:
    """Compare every array of ``losses.npz``."""
    _reconstruction(check)
    predicted, target, valid = check.read("fs_pred"), check.read("fs_targ"), check.file.tensor("fs_valid")
    masks = {"fs": valid, "fs_none_valid": torch.zeros_like(valid), "fs_all_valid": torch.ones_like(valid)}
    losses = {key: token_loss(predicted, target, mask) for key, mask in masks.items()}
    check.close("token loss", "single", losses)
    predicted, target = check.read("tr_pred"), check.read("tr_targ")
    weights = torch.tensor(ForecasterLossConfig().step_weights, dtype=check.dtype)[: predicted.shape[1]]
    path = trajectory_loss(predicted, target, check.file.tensor("tr_valid"), weights, faithful=True)
    check.close("trajectory loss", "single", {"tr": path})
    rotation = rotation_loss(check.read("ro_pred"), check.read("ro_targ"))
    check.close("rotation loss", "single", {"ro": rotation, "ro_ignores_valid": rotation})


def _reconstruction(check: Comparison) -> None:
    labels, logits = check.file.tensor("cls_targ"), check.read("cls_pred").requires_grad_()
    size_x, size_y, size_z = labels.shape[-3:]
    radial = radial_weight(size_x, size_y).to(check.dtype)
    corners = [(0, 0), (0, 199), (199, 0), (199, 199), (100, 100), (99, 99)]
    at_corners = torch.stack([radial_weight(200, 200)[c] for c in corners])
    check.close("radial weight", "single", {"focal_c_map": radial, "focal_c_map_200_corners": at_corners})
    check.close("class weights", "single", {"class_weights": torch.tensor(CLASS_WEIGHTS)})
    weight = radial[:, :, None].expand(*labels.shape[:-3], size_x, size_y, size_z).reshape(-1)
    flat, target = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    focal = 10 * focal_loss(flat, target, weight)
    weighted = 10 * focal_loss(flat, target, weight, torch.tensor(CLASS_WEIGHTS, dtype=check.dtype))
    lovasz = lovasz_softmax(flat.softmax(1), target)
    check.close("focal loss", "single", {"focal": focal, "focal_class_weights": weighted})
    check.close("Lovász loss", "single", {"lovasz": lovasz})
    (gradient,) = torch.autograd.grad(focal + lovasz, logits)
    check.close("gradient of focal + Lovász", "single", {"focal_plus_lovasz_grad": gradient})


def verify_metrics(check: Comparison) -> None:
    """Compare every array of ``metrics.npz``: counts exactly, scores in both conventions."""
    total, file = Confusion(), check.file
    predicted, truth = file.tensor("pred"), file.tensor("gt")
    for a, b in zip(predicted, truth, strict=True):
        total.add(a, b)
    check.equal("histogram", "hist", torch.from_numpy(total.counts))
    check.equal("histogram, 255 as occupied", "iou_hist", torch.from_numpy(_occupied(total)))
    check.equal("number of pairs", "cnt", torch.tensor(len(predicted)))
    # NaN is a class that does not occur.
    check.close("IoU by class", "single", {"per_class_iou": total.per_class()}, nan=-1.0)
    _scores(check, total, "")
    if "pred_b" in file:
        _scores(check, Confusion.of(file.tensor("pred_b"), file.tensor("gt_b")), "_b")
    _text(check, total)
    # The published metric overwrites its inputs by occupancy; ours must not, and its occupancy is the same.
    for mine, name in ((predicted, "pred"), (truth, "gt")):
        check.equal("inputs are left alone", name, mine)
        check.equal("occupancy of the first pair", f"mutated_{name}0", (mine[0] != len(SEMANTIC)).long())


def _occupied(total: Confusion) -> NDArray[np.int64]:
    """(2, 2) histogram of free and occupied, ground truth of 255 occupied."""
    free = np.arange(len(CLASS_NAMES)) == len(SEMANTIC)
    table = total.counts.copy()
    table[0] += total.ignored
    return np.array([[table[np.ix_(a, b)].sum() for b in (free, ~free)] for a in (free, ~free)])


def _scores(check: Comparison, total: Confusion, suffix: str) -> None:
    scores = {
        "count_miou": round(100 * total.miou_published(), 2),
        "count_iou": round(100 * total.iou_published(), 2),
        "miou_zero_iou_counted": round(100 * total.miou(), 2),
        "iou_255_ignored": round(100 * total.iou(), 2),
        "iou_unrounded": total.iou_published(),
    }
    check.close("scores, both conventions", "single", {key + suffix: value for key, value in scores.items()})


def _text(check: Comparison, total: Confusion) -> None:
    """Class names, and the printed scores by class (a class with IoU 0 reads "nan")."""
    if "class_names" in check.file:
        wrong = [a != b for a, b in zip(check.file.strings("class_names"), CLASS_NAMES, strict=True)]
        check.add("class names", float(sum(wrong)), len(wrong))
    if "ret_dict_values" in check.file:
        given = check.file.strings("ret_dict_values")
        mine = [str(round(100 * v, 2)) if v > 0 else "nan" for v in np.nan_to_num(total.per_class())]
        wrong = [float(a) != float(b) for a, b in zip(given, mine, strict=True) if (a, b) != ("nan", "nan")]
        check.add("printed scores by class", float(sum(wrong)), len(given))


def verify_pose_ops(check: Comparison) -> None:
    """Compare every array of ``pose_ops.npz``."""
    steps = check.read("seq")
    relative = quat_multiply(quat_conjugate(steps[:, :-1]), steps[:, 1:])
    found = {
        "mul": quat_multiply(check.read("q1"), check.read("q2")),
        "rotmat": quat_to_matrix(check.read("q1")),
        "relative": relative,
        "compose_as_original_rel_x_prev": quat_multiply(relative[:, 0], steps[:, 0]),
        "compose_correct_prev_x_rel": quat_multiply(steps[:, 0], relative[:, 0]),
        "compose_target": steps[:, 1],
    }
    check.close("quaternions", "single", found)
    check.close("misread yaw", "single", {"rpy": misread_angles(check.read("small_tilt_quats"))})


def misread_angles(rotation: Tensor) -> Tensor:
    """Roll, pitch and (the only one in use) yaw of (w, x, y, z) quaternions taken for (x, y, z, w); (..., 3) rad."""
    x, y, z, w = rotation.unbind(-1)
    roll = torch.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    pitch = torch.asin((2 * (w * y - z * x)).clamp(-1, 1))
    return torch.stack((roll, pitch, misread_yaw(rotation)), -1)
