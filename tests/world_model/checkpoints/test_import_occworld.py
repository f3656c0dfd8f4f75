"""Released files of OccWorld: the whole model in one file, a bare tokenizer, everything that can be off.

Small models stand for the published ones, whose names and shapes are tested on their own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from world_model.checkpoints import import_i2world
from world_model.checkpoints.checkpoint import OCCWORLD_FILE, OCCWORLD_TOKENIZER_FILE
from world_model.checkpoints.i2world import OCCWORLD_FORECASTER, OCCWORLD_TOKENIZER, published_model
from world_model.checkpoints.occworld import load_occworld, load_occworld_tokenizer
from world_model.core.errors import CheckpointError
from world_model.import_checkpoint import ImportCheckpoint, import_checkpoint
from world_model.models.occworld import OccWorld, tiny
from world_model.worlds import resolve_world


def small(kind: str) -> Any:
    if kind not in (OCCWORLD_TOKENIZER, OCCWORLD_FORECASTER):
        return published_model(kind)
    whole = OccWorld(tiny())
    vae = whole.vae
    del whole.vae
    return vae if kind == OCCWORLD_TOKENIZER else whole


@pytest.fixture(autouse=True)
def small_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_i2world, "published_model", small)


def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    model: nn.Module = OccWorld(tiny())
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.state_dict()


def write(path: Path, state: dict[str, Tensor], **more: Any) -> Path:
    """A file as the original's trainer writes it."""
    rest = {"optimizer": {"state": {}}, "scheduler": {"last": 1}, "epoch": 200, "global_iter": 87400}
    torch.save({"state_dict": state, **rest, **more}, path)
    return path


def test_the_whole_model_comes_in(tmp_path: Path) -> None:
    for folder, prefix in (("plain", ""), ("wrapped", "module.")):
        state = {prefix + name: value for name, value in weights().items()}
        file = write(tmp_path / f"{folder}.pth", state)
        written = import_checkpoint(ImportCheckpoint(file=file, out=tmp_path / folder))
        assert [path.name for path in written] == [OCCWORLD_FILE]
        model, card = load_occworld(tmp_path / folder)
        assert all(torch.equal(value, weights()[name]) for name, value in model.state_dict().items())
        assert "Occ3D-nuScenes" in card["data_source"]
        assert resolve_world("occworld", tmp_path / folder) == "occworld-faithful"


def test_a_bare_tokenizer_comes_in_and_says_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vae = {name.removeprefix("vae."): value for name, value in weights().items() if name.startswith("vae.")}
    out = tmp_path / "out"
    import_checkpoint(ImportCheckpoint(file=write(tmp_path / "tokenizer.pth", vae), out=out))
    assert "no world model yet" in capsys.readouterr().out
    model, _ = load_occworld_tokenizer(out)
    assert all(torch.equal(value, vae[name]) for name, value in model.state_dict().items())
    with pytest.raises(CheckpointError, match="tokenizer without a forecaster"):
        load_occworld(out)
    assert (out / OCCWORLD_TOKENIZER_FILE).exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("transformer.mid.0.ln.weight"), "1 missing"),
        (lambda w: w.update(surplus=torch.zeros(2)), "1 unexpected"),
        (lambda w: w.update({"vae.decoder.conv_in.bias": torch.zeros(5)}), "another size"),
        (lambda w: w["pose_decoder.pose_decoder.2.bias"].fill_(float("nan")), "not finite"),
        (lambda w: [w.pop(name) for name in list(w) if name.startswith("vae.")], "without its tokenizer"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    state = weights()
    change(state)
    with pytest.raises(CheckpointError, match=said):
        import_checkpoint(ImportCheckpoint(file=write(tmp_path / "latest.pth", state), out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "latest.pth", weights(), scheduler=Hostile())
    with pytest.raises(CheckpointError, match="nothing was executed"):
        import_checkpoint(ImportCheckpoint(file=file, out=tmp_path / "out"))
    assert not (tmp_path / "executed").exists() and not (tmp_path / "out").exists()


def test_the_published_model_is_matched_by_name_alone() -> None:
    for kind, count in ((OCCWORLD_TOKENIZER, 222), (OCCWORLD_FORECASTER, 768 - 222)):
        state = published_model(kind).state_dict()
        assert len(state) == count and all(value.is_meta for value in state.values())
