"""The published model's numbers: every array of every golden file, in float64 and in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from world_model.core.geometry import quat_multiply, quat_to_matrix, warp_bev, yaw_from_matrix
from world_model.evaluation.parity import Report, verify_folder
from world_model.evaluation.parity.comparison import Comparison
from world_model.evaluation.parity.folder import TOKENIZER_WEIGHTS, WORLD_WEIGHTS
from world_model.evaluation.parity.golden import GoldenFile
from world_model.evaluation.parity.world import WorldComparison, verify_calls
from world_model.models.forecaster import ego as ego_module
from world_model.models.forecaster.ego import EgoState, unobserved
from world_model.models.tokenizer import memory as memory_module

GOLDEN = Path(__file__).parents[3] / "golden"
SMALL = ("losses.npz", "metrics.npz", "pose_ops.npz", "tok_mini.npz", "tok_rect.npz", "world_mini.npz")
WIDE = ("tok_tiny.npz", "world_tiny.npz")
QUANTIZER = {f"quantizer {i}: codes" for i in range(7)}
FRAMES = {"encoder output", "aligned memory", "token", "codebook loss", "logits", "labels", "reconstruction loss"}
MOTION = ("delta_translation", "relative_rotation", "next_rotation", "next_ego_to_global", "ego_lcf_feat")
STEPS = ("plan_query", "forecast tokens", "curr_ego_mode", "history_ego_lcf_feat", "pred_curr_to_futu_info")
ROLLOUTS = {
    f"{mode}: {name}"
    for mode in ("generate", "high-level-control")
    for name in (*STEPS, "given transforms", *(f"pred_{name}" for name in MOTION))
}
TRAINED = {"training: gradient norms (relative)", "training: gradients"}
STAGES = {
    "losses.npz": {
        "focal loss",
        "Lovász loss",
        "gradient of focal + Lovász",
        "token loss",
        "trajectory loss",
        "rotation loss",
    },
    "metrics.npz": {
        "histogram",
        "histogram, 255 as occupied",
        "IoU by class",
        "scores, both conventions",
        "inputs are left alone",
    },
    "pose_ops.npz": {"quaternions", "misread yaw"},
    "tok_mini.npz": QUANTIZER
    | FRAMES
    | TRAINED
    | {f"quantizer {i}: {what}" for i in range(7) for what in ("input (residual)", "code vectors", "margin")}
    | {"layer outputs", "memory after the frame", "training: reconstruction loss", "training: codebook loss"},
    "tok_rect.npz": QUANTIZER | FRAMES | {"memory after the frame"},
    "tok_tiny.npz": QUANTIZER | FRAMES,
    "world_mini.npz": ROLLOUTS
    | TRAINED
    | {f"{mode}: state after the call" for mode in ("generate", "high-level-control")}
    | {"generate, one sample at a time", "layer outputs", "training mode: batch statistics"}
    | {
        f"training {kind}: {name}"
        for kind in ("losses", "mode")
        for name in ("feat_sim", "trajs_loss", "rotation_loss")
    },
    "world_tiny.npz": ROLLOUTS | {"logits", "labels"},
}
"""What must have been compared, so that a key that is no longer recognised cannot pass for agreement."""


def agrees(name: str, dtype: torch.dtype) -> Report:
    report = verify_folder(GOLDEN, dtype, only={name})
    stages = {stage for _, stage in report.rows}
    assert STAGES[name] <= stages, f"not compared: {sorted(STAGES[name] - stages)}"
    assert not report.skipped
    assert report.ok, "\n".join(str(row) for row in report.rows.values() if not row.ok)
    return report


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", SMALL)
def test_every_stage_agrees(name: str, dtype: torch.dtype) -> None:
    report = agrees(name, dtype)
    assert not any(row.ties for row in report.rows.values())  # at these sizes no code is a tie


@pytest.mark.parametrize("name", WIDE)
def test_every_stage_agrees_on_the_full_map(name: str) -> None:
    report = agrees(name, torch.float32)
    assert sum(row.ties for row in report.rows.values()) <= 10


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDE)
def test_every_stage_agrees_on_the_full_map_in_double_precision(name: str) -> None:
    agrees(name, torch.float64)


# What follows breaks one deviation at a time, to show that the golden files hold each of them in place.


def _right_identity(batch: int, slots: int, device: torch.device | str = "cpu") -> torch.Tensor:
    slot = unobserved(batch, slots, device)
    slot[..., 3:6] = 0
    return slot


def _right_order(follow: Callable[..., tuple[EgoState, torch.Tensor]]) -> Callable[..., tuple[EgoState, torch.Tensor]]:
    def turned(self: EgoState, motion: torch.Tensor, **options: bool) -> tuple[EgoState, torch.Tensor]:
        state, slot = follow(self, motion, **options)
        return state, torch.cat((slot[:, :6], slot[:, 7:], slot[:, 6:7]), -1)

    return turned


def _right_speed(follow: Callable[..., tuple[EgoState, torch.Tensor]]) -> Callable[..., tuple[EgoState, torch.Tensor]]:
    return lambda self, motion, couple_batch=False: follow(self, motion)


def _right_memory(begin: Callable[..., EgoState]) -> Callable[..., EgoState]:
    return lambda self, position, rotation, start: begin(self, position, rotation, torch.ones_like(start))


BREAK: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "1 identity": lambda patch: patch.setattr(ego_module, "unobserved", _right_identity),
    "2 order": lambda patch: patch.setattr(EgoState, "follow", _right_order(EgoState.follow)),
    "3 yaw": lambda patch: patch.setattr(ego_module, "misread_yaw", lambda q: yaw_from_matrix(quat_to_matrix(q))),
    "4 surviving pose": lambda patch: patch.setattr(EgoState, "begin", _right_memory(EgoState.begin)),
    "5 speed": lambda patch: patch.setattr(EgoState, "follow", _right_speed(EgoState.follow)),
    "6 command": lambda patch: patch.setattr(EgoState, "obey", lambda self, command: (command, self)),
    "7 order of rotations": lambda patch: patch.setattr(ego_module, "quat_multiply", lambda a, b: quat_multiply(b, a)),
}


def _calls() -> Report:
    """The consecutive calls of one control mode on the small map."""
    report, file = Report(dtype=torch.float64), GoldenFile(GOLDEN / "world_mini.npz")
    weights = GoldenFile(GOLDEN / WORLD_WEIGHTS).weights()
    world = WorldComparison(Comparison(file, report), weights, file.tensor("latent"))
    verify_calls(world, "high-level-control")
    return report


def test_the_calls_agree_as_they_are() -> None:
    assert _calls().ok


@pytest.mark.parametrize("change", BREAK)
def test_each_deviation_of_the_forecaster_is_held_in_place(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BREAK[change](monkeypatch)
    assert not _calls().ok


def test_cell_corners_are_held_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deviation 8."""
    monkeypatch.setattr(
        memory_module, "warp_bev", lambda *place, offset: warp_bev(*place[:4], place[4] + 3.2, offset=0.5)
    )
    report = verify_folder(GOLDEN, torch.float64, only={"tok_rect.npz"})
    assert not report.rows["tok_rect.npz", "aligned memory"].ok
    assert report.rows["tok_rect.npz", "encoder output"].ok


def test_the_remembered_augmentation_is_held_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deviation 9."""
    remember = memory_module.remember
    monkeypatch.setattr("world_model.models.tokenizer.tokenizer.remember", lambda *given: remember(*given[:-1], False))
    report = verify_folder(GOLDEN, torch.float64, only={"tok_mini.npz"})
    assert not report.rows["tok_mini.npz", "aligned memory"].ok


def test_weights_are_there() -> None:
    assert (GOLDEN / TOKENIZER_WEIGHTS).exists() and (GOLDEN / WORLD_WEIGHTS).exists()
