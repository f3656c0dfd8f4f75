"""bfloat16 stays inside the heavy layers; distances, poses and losses are float32, and curves stay close."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_training as small
import torch

from world_model.core.errors import OptionError
from world_model.data.index import SceneIndex
from world_model.models.tokenizer.quantizer import Quantizer
from world_model.training.precision import resolve_precision

CLOSE = 0.03
"""Relative deviation of a bfloat16 curve of four steps from the float32 one."""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SceneIndex:
    return small.write_data(tmp_path_factory.mktemp("data"))


def test_tokenizer_in_bfloat16(index: SceneIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.dtype, bool]] = []
    whole = Quantizer.nearest

    def nearest(self: Quantizer, cells: torch.Tensor) -> torch.Tensor:
        seen.append((cells.dtype, torch.is_autocast_enabled("cpu")))
        return whole(self, cells)

    monkeypatch.setattr(Quantizer, "nearest", nearest)
    full = small.curve(small.train_tokenizer(index, tmp_path / "full", small.config_of()))
    trainer = small.train_tokenizer(index, tmp_path / "half", small.config_of(precision="bfloat16"))
    assert set(seen) == {(torch.float32, False)}
    half = small.curve(trainer)
    assert half != full  # something was rounded
    np.testing.assert_allclose(half, full, rtol=CLOSE)
    assert all(p.dtype == torch.float32 for p in trainer.task.model.parameters())
    assert trainer.card()["precision"] == "bfloat16"


def test_forecaster_in_bfloat16(index: SceneIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from world_model.models.forecaster import forecaster

    warps: list[tuple[torch.dtype, bool]] = []
    whole = forecaster.warp_bev

    def warp_bev(maps: torch.Tensor, target_to_source: torch.Tensor, *rest: Any) -> torch.Tensor:
        warps.append((target_to_source.dtype, torch.is_autocast_enabled("cpu")))
        return whole(maps, target_to_source, *rest)

    monkeypatch.setattr(forecaster, "warp_bev", warp_bev)
    cache = small.write_tokens(tmp_path / "tokens", index)
    full = small.curve(small.train_forecaster(index, cache, tmp_path / "full", small.config_of()))
    half = small.curve(small.train_forecaster(index, cache, tmp_path / "half", small.config_of(precision="bfloat16")))
    assert set(warps) == {(torch.float32, False)}
    assert half != full
    np.testing.assert_allclose(half, full, rtol=CLOSE)


def test_auto_is_float32_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_precision("auto", torch.device("cpu")) == torch.float32
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    assert resolve_precision("auto", torch.device("cuda")) == torch.float32
    with pytest.raises(OptionError, match="Old GPU"):
        resolve_precision("bfloat16", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert resolve_precision("auto", torch.device("cuda")) == torch.bfloat16
