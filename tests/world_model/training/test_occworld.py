"""OccWorld's three stages on a tiny data set: they learn, resume to the same weights, and refuse what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_checkpoints import write_tokens
from tiny_scenes import write_scenes

from world_model import train_occworld
from world_model.checkpoints.checkpoint import load_tokenizer, read_card
from world_model.checkpoints.occworld import load_occworld, load_occworld_tokenizer
from world_model.core.errors import CheckpointError, OptionError
from world_model.core.grid import OCC3D
from world_model.data.index import SceneIndex
from world_model.evaluate import Evaluate, evaluate
from world_model.models.occworld import OccWorldTokenizer, nano, tiny
from world_model.models.occworld.inherit import inherit
from world_model.prepare import Prepare, prepare
from world_model.training.loop import Trainer
from world_model.worlds import build_world


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_scenes(tmp_path_factory.mktemp("data"), frames=(11, 11), shape=(200, 200, 16))
    prepare(Prepare(data_root=root))
    return root


def args(data: Path, out: Path, stage: str, **changes: object) -> train_occworld.Args:
    options = {"index": data, "out": out, "stage": stage, "preset": "tiny", "iterations": 3, "batch": 1}
    return train_occworld.Args(**{**options, "log_every": 1, "voxels": 2000, "width": 4, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    looks = {"held_out_every": 3, "held_out": 1}
    train_occworld.main(args(data, out / "tokenizer", "tokenizer", **looks))
    train_occworld.main(args(data, out / "faithful", "forecaster", init=out / "tokenizer", **looks))
    train_occworld.main(args(data, out / "whole", "adapter", init=out / "faithful", half=True))
    return out


def test_the_stages_hand_on_what_they_learned(trained: Path) -> None:
    vae, card = load_occworld_tokenizer(trained / "tokenizer")
    faithful, first = load_occworld(trained / "faithful")
    whole, second = load_occworld(trained / "whole")
    assert card["tokens"] == first["tokens"] and (first["mode"], second["mode"]) == ("faithful", "conditioned")
    for name, value in vae.state_dict().items():
        assert torch.equal(value, faithful.state_dict()[f"vae.{name}"])
    for name, value in faithful.state_dict().items():  # beside the adapter everything is frozen
        assert torch.equal(value.half(), whole.state_dict()[name].half())
    assert whole.adapter is not None and whole.adapter.out.weight.abs().max() > 0
    again, _ = load_occworld_tokenizer(trained / "faithful")
    assert torch.equal(again.vqvae.embedding.weight, vae.vqvae.embedding.weight)
    for folder in ("tokenizer", "faithful"):
        assert (trained / folder / "held_out.csv").exists()
    assert read_card(trained / "whole", "occworld.safetensors")["stage"] == "adapter"


def test_a_run_that_was_cut_ends_with_the_same_weights(
    data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def cut(trainer: Trainer, batches: object) -> object:
        if trainer.iteration == 2 and not (tmp_path / "cut").exists():
            (tmp_path / "cut").touch()
            trainer._stop = True
        return step(trainer, batches)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "step", cut)
    again = args(data, tmp_path / "again", "forecaster", init=trained / "tokenizer")
    with pytest.raises(SystemExit):
        train_occworld.main(args(data, tmp_path / "again", "forecaster", init=trained / "tokenizer", iterations=3))
    train_occworld.main(again)
    one, other = (load_occworld(folder)[0].state_dict() for folder in (trained / "faithful", tmp_path / "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_trained_world_is_scored_in_every_mode(data: Path, trained: Path, tmp_path: Path) -> None:
    report = evaluate(
        Evaluate(
            index=data, checkpoint=trained / "whole", out=tmp_path, max_windows=1, what=("forecasting",),
            world=("occworld", "occworld-faithful", "transport"), horizons_s=(1.0,), workers=1,
        )
    )  # fmt: skip
    assert report is not None and report.forecasting is not None
    rows = ("occworld-conditioned", "occworld-faithful")
    wanted = [f"{name} {regime}" for name in rows for regime in ("gt-ego", "pred-ego")]
    assert [row for row in report.forecasting.rows if "occworld" in row] == wanted
    text = report.to_markdown()
    assert "OccWorld's convention" in text and "| occworld-faithful pred-ego" in text and "UniAD" in text
    assert "trained on" in text


def test_what_does_not_fit_is_refused(data: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="without --init"):
        train_occworld.main(args(data, tmp_path, "forecaster"))
    with pytest.raises(OptionError, match="--preset nano"):
        train_occworld.main(args(data, tmp_path, "forecaster", init=trained / "tokenizer", preset="nano"))
    with pytest.raises(CheckpointError, match="tokenizer without a forecaster"):
        train_occworld.main(args(data, tmp_path, "adapter", init=trained / "tokenizer"))
    with pytest.raises(CheckpointError, match="tokenizer without a forecaster"):
        build_world("occworld", checkpoint=trained / "tokenizer")


def test_a_tokenizer_can_start_from_another(data: Path, tmp_path: Path) -> None:
    write_tokens(tmp_path, grid=OCC3D)
    source, _ = load_tokenizer(tmp_path)
    index = SceneIndex.load(data)
    labels = torch.stack([torch.from_numpy(index.read_labels(f, OCC3D.shape)) for f in range(3)])
    model = OccWorldTokenizer(tiny(OCC3D).codec)
    before = model.vqvae.embedding.weight.clone()
    inherit(model, source, labels)
    assert not torch.equal(before, model.vqvae.embedding.weight)
    with torch.no_grad():
        rebuilt = model.decode(model.token(model.encode(labels)))
    assert rebuilt.shape == labels.shape
    with pytest.raises(CheckpointError, match="fitting"):
        inherit(OccWorldTokenizer(nano().codec), source, labels)
