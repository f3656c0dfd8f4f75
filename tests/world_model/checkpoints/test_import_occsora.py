"""Released files of OccSora: averaged weights, options that execute nothing, everything that can be off.

Small models stand for the published ones, whose names and shapes are tested on their own.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from world_model.checkpoints import import_i2world
from world_model.checkpoints.checkpoint import SORA_TOKENIZER_FILE, SORA_TRANSFORMER_FILE
from world_model.checkpoints.i2world import SORA_TOKENIZER, SORA_TRANSFORMER, published_model
from world_model.checkpoints.occsora import load_sora_tokenizer, load_sora_transformer
from world_model.core.errors import CheckpointError
from world_model.import_checkpoint import ImportCheckpoint, import_checkpoint
from world_model.models.occsora import SoraTokenizer, SoraTransformer, tiny


def small(kind: str) -> Any:
    tokenizer, transformer = tiny()
    models = {SORA_TOKENIZER: lambda: SoraTokenizer(tokenizer), SORA_TRANSFORMER: lambda: SoraTransformer(transformer)}
    return models[kind]() if kind in models else published_model(kind)


@pytest.fixture(autouse=True)
def small_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_i2world, "published_model", small)


def weights(kind: str, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model: nn.Module = small(kind)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.state_dict()


def files(folder: Path, **more: Any) -> tuple[Path, Path]:
    """A tokenizer as its trainer saves it, and a transformer as its own does."""
    first, second = folder / "epoch_125.pth", folder / "1200000.pt"
    torch.save({"state_dict": weights(SORA_TOKENIZER), "optimizer": {"state": {}}, "epoch": 125}, first)
    args = argparse.Namespace(global_batch_size=16, model="DiT-XL/2", results_dir="r", image_size=None)
    content = {"model": weights(SORA_TRANSFORMER, 1), "ema": weights(SORA_TRANSFORMER, 2), "opt": {}, "args": args}
    torch.save(content | more, second)
    return first, second


def test_the_averaged_weights_come_in(tmp_path: Path) -> None:
    first, second = files(tmp_path)
    out = tmp_path / "out"
    written = import_checkpoint(ImportCheckpoint(file=first, world=second, out=out, trajectory="step_metres"))
    assert [path.name for path in written] == [SORA_TOKENIZER_FILE, SORA_TRANSFORMER_FILE]
    tokenizer, own = load_sora_tokenizer(out)
    transformer, card = load_sora_transformer(out)
    for model, expected in ((tokenizer, weights(SORA_TOKENIZER)), (transformer, weights(SORA_TRANSFORMER, 2))):
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert card["tokens"] == own["weights"] and transformer.config.trajectory == "step_metres"
    assert card["imported"]["meta"] == {"global_batch_size": 16, "model": "DiT-XL/2"}


def test_the_published_models_are_matched_by_name_alone() -> None:
    for kind, count in ((SORA_TOKENIZER, 290), (SORA_TRANSFORMER, 299)):
        state = published_model(kind).state_dict()
        assert len(state) == count and sum(not value.is_meta for value in state.values()) <= 1


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = files(tmp_path, args=argparse.Namespace(model="x", trap=Hostile()))
    with pytest.raises(CheckpointError, match="nothing was executed"):
        import_checkpoint(ImportCheckpoint(file=first, world=second, out=tmp_path / "out"))
    assert not (tmp_path / "executed").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("pos_embed"), "1 missing"),
        (lambda w: w.update(surplus=torch.zeros(2)), "1 unexpected"),
        (lambda w: w.update(pos_embed=torch.zeros(1, 9, 16)), "another size"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    ema = weights(SORA_TRANSFORMER)
    change(ema)
    first, second = files(tmp_path, ema=ema)
    with pytest.raises(CheckpointError, match=said):
        import_checkpoint(ImportCheckpoint(file=first, world=second, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_each_half_says_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = files(tmp_path)
    with pytest.raises(CheckpointError, match="without its tokenizer"):
        import_checkpoint(ImportCheckpoint(file=second, out=tmp_path / "out"))
    import_checkpoint(ImportCheckpoint(file=first, out=tmp_path / "alone"))
    assert "no world model yet" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match=SORA_TRANSFORMER_FILE):
        load_sora_transformer(tmp_path / "alone")


def test_systems_do_not_mix(tmp_path: Path) -> None:
    first, _ = files(tmp_path)
    other = tmp_path / "world.pth"
    torch.save({"state_dict": published_model("forecaster").state_dict()}, other)
    with pytest.raises(CheckpointError, match=r"I2-World and OccSora"):
        import_checkpoint(ImportCheckpoint(file=first, world=other, out=tmp_path / "out"))
