"""A folder of the golden layout with other sizes: random weights, and what this package itself computes with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.core.geometry import quat_from_yaw, se2_matrix
from world_model.evaluation.parity.sizes import centred_grid
from world_model.models.forecaster import Forecaster, ForecasterConfig
from world_model.models.forecaster.ego import EgoState
from world_model.models.tokenizer import Tokenizer, TokenizerConfig

SHAPE = (32, 48, 8)
FRAMES, BATCH, STEPS = 2, 2, 3


def tokenizer() -> Tokenizer:
    """Two levels, no attention, three remembered frames, sixty codes."""
    torch.manual_seed(0)
    config = TokenizerConfig(
        grid=centred_grid(SHAPE),
        class_embed=3,
        channels=8,
        channel_mult=(1, 3),
        res_blocks=(1, 2),
        level_attention=False,
        middle_attention=False,
        latent=8,
        codes=60,
        memory=3,
        spatial_divisors=(2, 1),
        faithful=True,
    )
    return Tokenizer(config).double().eval()


def forecaster(latent_shape: tuple[int, int]) -> Forecaster:
    """Two layers each, four remembered steps, a position embedding for a larger map."""
    torch.manual_seed(1)
    config = ForecasterConfig(
        width=8,
        latent_shape=latent_shape,
        points=2,
        strides=(1, 2),
        decoder_layers=2,
        ffn=24,
        pose_width=6,
        history=4,
        faithful=True,
    )
    return Forecaster(config).double().eval()


def _save(path: Path, arrays: dict[str, Tensor]) -> None:
    plain = {key: value.detach().numpy() for key, value in arrays.items()}
    np.savez(path, **{k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in plain.items()})


def _single(model: torch.nn.Module) -> None:
    """Weights as they come back from the file."""
    model.load_state_dict({k: v.float().to(v.dtype) for k, v in model.state_dict().items()})


def write_folder(folder: Path) -> Path:
    """Write both state dicts, ``tok_other.npz`` and ``world_other.npz``."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(2)
    model = tokenizer()
    _single(model)
    labels = torch.randint(0, 18, (FRAMES, BATCH, *SHAPE), generator=generator, dtype=torch.uint8)
    still = torch.eye(4).expand(BATCH, 4, 4)
    moved = se2_matrix(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0]), torch.tensor([0.1, -0.2]))
    motion = torch.stack((still, moved))
    arrays: dict[str, Tensor] = {"occ": labels, "curr_to_prev": motion}
    memory = model.empty_memory(BATCH)
    with torch.no_grad():
        for t in range(FRAMES):
            latent = model.encoder(labels[t], model.class_embeds.weight)
            out = model.encode(labels[t], memory, motion[t].double(), torch.full((BATCH,), t == 0))
            memory = out.memory
            arrays |= {f"f{t}.latent": latent, f"f{t}.z_q": out.token, f"f{t}.vq_loss": out.vq_loss}
            arrays |= {f"f{t}.idx{i}": code.flatten().to(torch.uint8) for i, code in enumerate(out.codes)}
    _save(folder / "tok_sd.npz", model.state_dict())
    _save(folder / "tok_other.npz", arrays)
    _world(folder, arrays["f1.z_q"].float().double())
    return folder


def _world(folder: Path, token: Tensor) -> None:
    size = (int(token.shape[-2]), int(token.shape[-1]))
    larger, model = forecaster((30, 30)), forecaster(size)
    _single(larger)
    weights = larger.state_dict()
    cut = {f"transformer.positional_encoding.{n}_embed.weight": s for n, s in zip(("row", "col"), size, strict=True)}
    model.load_state_dict({k: v[: cut[k]] if k in cut else v for k, v in weights.items()})
    steps = torch.arange(STEPS + 1.0)
    position = torch.stack((3 * steps, steps, torch.zeros_like(steps)), -1).expand(BATCH, -1, -1)
    rotation = quat_from_yaw(0.1 * steps).expand(BATCH, -1, -1)
    meta = {
        "ego_to_global_translation": position,
        "ego_to_global_rotation": rotation,
        "gt_ego_lcf_feat": torch.ones(BATCH, STEPS, 3),
        "gt_ego_fut_cmd": F.one_hot(torch.tensor([[0, 1, 2], [2, 1, 0]]), 3).float(),
        "curr_to_future_ego_rt": torch.eye(4).expand(BATCH, STEPS, 4, 4),
        "valid_frame": torch.ones(BATCH, STEPS, dtype=torch.bool),
        "start_of_sequence": torch.ones(BATCH, dtype=torch.bool),
    }
    arrays = {f"s0.meta.{k}": v for k, v in meta.items()} | {"latent": token[:, None]}
    ego = EgoState.initial(BATCH, 4)
    state = model.resume(token, ego, position[:, 0], rotation[:, 0], meta["start_of_sequence"])
    tokens, command = [], meta["gt_ego_fut_cmd"].argmax(-1)
    with torch.no_grad():
        for k in range(STEPS):
            forecast = model.predict(state, command[:, k], torch.eye(4).double().expand(BATCH, 4, 4), couple_batch=True)
            assert forecast.predicted_ego is not None
            state = model.advance_published(state, forecast.token, *forecast.predicted_ego)
            tokens.append(forecast.token)
    _save(folder / "world_sd.npz", weights)
    _save(folder / "world_other.npz", arrays | {"s0.generate.pred_latent": torch.stack(tokens, 1)})


def alter(path: Path, key: str, change: float) -> None:
    """Add something to the first number of one array."""
    arrays = dict(np.load(path))
    arrays[key] = arrays[key].copy()
    arrays[key].flat[0] += change
    np.savez(path, **arrays)
