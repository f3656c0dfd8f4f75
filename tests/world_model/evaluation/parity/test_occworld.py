"""OccWorld against the original's numbers where they are there; a file of our own making everywhere."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_folder import alter

from world_model.evaluation.parity import verify_folder
from world_model.evaluation.parity.sizes import centred_grid
from world_model.models.occworld import OccWorld, OccWorldConfig

ORIGINAL = Path(os.environ.get("IIWORLD_GOLDEN_FILES", Path(__file__).parents[5] / "shared/golden"))
STAGES = {
    *(f"tokenizer: {name}" for name in ("layer outputs", "encoder output", "codes", "code margin", "class logits")),
    *(f"tokenizer: {name}" for name in ("after quant_conv", "after post_quant_conv", "labels", "losses")),
    *(f"teacher forcing: {name}" for name in ("layer outputs", "pose tokens", "poses", "code logits", "codes")),
    *(f"teacher forcing: {name}" for name in ("labels", "losses")),
    *(f"forecast: {name}" for name in ("code logits", "codes", "poses", "labels", "class logits", "losses")),
    *("scores", "training: gradients", "training: gradient norms (relative)"),
}


@pytest.mark.skipif(not (ORIGINAL / "occworld_odd.npz").exists(), reason="the original's numbers are not here")
@pytest.mark.parametrize("name", ["occworld_small.npz", "occworld_odd.npz"])
def test_every_stage_of_the_original(name: str) -> None:
    report = verify_folder(ORIGINAL, torch.float64, only={name})
    found = {stage for _, stage in report.rows}
    assert report.ok and not report.skipped
    assert found == STAGES | ({"crop: codebook loss"} if "odd" in name else set())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Inputs, weights and what this package itself makes of them, in float64."""
    torch.manual_seed(0)
    config = OccWorldConfig(
        grid=centred_grid((16, 24, 4)), class_embed=2, channels=4, channel_mult=(1, 2), res_blocks=(1, 2),
        level_attention=False, latent=8, codes=12, window=3, temporal_layers=1, pose_layers=2,
    )  # fmt: skip
    model = OccWorld(config).eval()
    for parameter in model.parameters():
        parameter.data = (parameter + 0.2 * torch.randn_like(parameter)).half().float()
    model = model.double().requires_grad_(False)
    labels = torch.randint(0, 18, (2, 4, 16, 24, 4), dtype=torch.uint8)
    moved, modes = torch.randn(2, 4, 2), torch.eye(3, dtype=torch.uint8)[torch.randint(0, 3, (2, 4))]
    codes = model.vae.encode_clip(labels)
    poses = torch.cat((moved, modes), -1).double()
    logits, displacement = model(codes[:, :3], poses[:, :3])
    arrays = {f"sd.{name}": value.numpy().astype(np.float16) for name, value in model.state_dict().items()}
    numbers = {"cfg.window": 3, "cfg.mid": 3, "cfg.end": 4, "cfg.seed": 7}
    arrays |= {name: np.array(value, np.int32) for name, value in numbers.items()}
    arrays |= {"labels": labels.numpy(), "rel_poses": moved.numpy(), "modes": modes.numpy()}
    arrays |= {"tok.codes": codes.numpy().astype(np.int16)}
    arrays |= {"tf.code_logits": logits.numpy().astype(np.float32), "tf.codes": logits.argmax(2).numpy()}
    arrays |= {"ar.codes": logits.argmax(2)[:, -1:].numpy(), "tf.pose_decoded": displacement.numpy()}
    np.savez(tmp_path / "occworld_own.npz", **arrays)
    return tmp_path


def test_a_file_of_other_sizes_agrees_with_itself(folder: Path) -> None:
    report = verify_folder(folder)
    rows = {stage: row for (_, stage), row in report.rows.items()}
    assert report.ok and {"tokenizer: codes", "teacher forcing: code logits", "forecast: codes"} <= set(rows)


@pytest.mark.parametrize(
    ("key", "change", "stage"),
    [
        ("tok.codes", 1, "tokenizer: codes"),
        ("tf.code_logits", 1e-4, "teacher forcing: code logits"),
        ("tf.pose_decoded", 1e-4, "teacher forcing: poses"),
        ("ar.codes", 1, "forecast: codes"),
        ("sd.transformer.pose_up.1.bias", 0.5, "teacher forcing: poses"),
    ],
)
def test_a_wrong_number_is_found(folder: Path, key: str, change: float, stage: str) -> None:
    alter(folder / "occworld_own.npz", key, change)
    assert not verify_folder(folder).rows["occworld_own.npz", stage].ok
