"""Checkpoints: exact round trips, and an error with a remedy for everything that can be wrong with one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from world_model.checkpoints.checkpoint import (
    FORECASTER_FILE,
    TOKENIZER_FILE,
    load_forecaster,
    load_tokenizer,
    save_model,
    tokens_hash,
)
from world_model.checkpoints.shared import load_world, with_faithful
from world_model.core.errors import CheckpointError, OptionError, OutputError
from world_model.models.forecaster import Forecaster
from world_model.models.forecaster import tiny as tiny_forecaster
from world_model.models.tokenizer import Tokenizer
from world_model.models.tokenizer import tiny as tiny_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tokenizer, forecaster = Tokenizer(tiny_tokenizer()), Forecaster(tiny_forecaster())
    save_model(tmp_path / TOKENIZER_FILE, tokenizer, tokenizer.state_dict(), {"data_source": "synthetic"})
    card = {"data_source": "synthetic", "tokens": tokens_hash(tokenizer.state_dict())}
    save_model(tmp_path / FORECASTER_FILE, forecaster, forecaster.state_dict(), card)
    return tmp_path


def rewrite(path: Path, change: object) -> None:
    """Pass a file's tensors and metadata through a function and write them back."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as archive:
        meta = json.loads(archive.metadata()["iiworld"])
    tensors = load_file(path)
    change(tensors, meta)  # type: ignore[operator]
    save_file(tensors, path, metadata={"iiworld": json.dumps(meta)})


def test_round_trip(folder: Path) -> None:
    torch.manual_seed(0)
    original = Tokenizer(tiny_tokenizer())
    loaded, card = load_tokenizer(folder)
    assert loaded.config == original.config and card["data_source"] == "synthetic" and not loaded.training
    for name, value in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    world = load_world(folder)
    assert world.forecaster.config == tiny_forecaster() and world.card["data_source"] == "synthetic"
    assert load_world(folder) is world  # one copy a process


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*\n.*Expected"):
        load_tokenizer(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0, 7, 500, -10])
def test_truncated(folder: Path, keep: int) -> None:
    path = folder / TOKENIZER_FILE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="Remedy"):
        load_tokenizer(folder)


def test_not_ours(folder: Path) -> None:
    save_file({"x": torch.zeros(3)}, folder / TOKENIZER_FILE)
    with pytest.raises(CheckpointError, match="no iiworld metadata"):
        load_tokenizer(folder)


def test_swapped_kinds(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a Tokenizer"):
        load_forecaster(folder / TOKENIZER_FILE)


def test_other_version(folder: Path) -> None:
    rewrite(folder / TOKENIZER_FILE, lambda tensors, meta: meta.update(version=99))
    with pytest.raises(CheckpointError, match="format version 99"):
        load_tokenizer(folder)


def test_weights_of_another_config(folder: Path) -> None:
    rewrite(folder / TOKENIZER_FILE, lambda tensors, meta: meta["config"].update(codes=64))
    with pytest.raises(CheckpointError, match=r"vq\.embedding\.weight"):
        load_tokenizer(folder)


def test_unknown_config_field(folder: Path) -> None:
    rewrite(folder / TOKENIZER_FILE, lambda tensors, meta: meta["config"].update(turbo=True))
    with pytest.raises(CheckpointError, match="turbo"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("old", "faithful"), [({"align_corner": True}, True), ({"align_corner": False}, False), ({}, False)]
)
def test_checkpoints_from_before_the_switch_had_its_name(folder: Path, old: dict[str, bool], faithful: bool) -> None:
    def age(tensors: object, meta: dict[str, dict[str, object]]) -> None:
        del meta["config"]["faithful"]
        meta["config"].update(old)

    rewrite(folder / TOKENIZER_FILE, age)
    rewrite(folder / FORECASTER_FILE, lambda tensors, meta: meta["config"].pop("faithful"))
    assert load_tokenizer(folder)[0].config.faithful is faithful
    assert not load_forecaster(folder)[0].config.faithful


def test_the_bundled_checkpoint_is_right() -> None:
    world = load_world()
    assert not world.tokenizer.config.faithful and not world.forecaster.config.faithful


def test_not_finite(folder: Path) -> None:
    rewrite(folder / TOKENIZER_FILE, lambda tensors, meta: tensors["class_embeds.weight"].fill_(float("nan")))
    with pytest.raises(CheckpointError, match="not finite"):
        load_tokenizer(folder)


def test_forecaster_of_another_tokenizer(folder: Path) -> None:
    torch.manual_seed(1)
    other = Tokenizer(tiny_tokenizer())
    save_model(folder / TOKENIZER_FILE, other, other.state_dict(), {})
    with pytest.raises(CheckpointError, match="trained on tokens"):
        load_world(folder)


def test_a_failed_write_keeps_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / TOKENIZER_FILE).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("world_model.core.files.os.fsync", full)
    model = Tokenizer(tiny_tokenizer())
    with pytest.raises(OutputError, match="No space left"):
        save_model(folder / TOKENIZER_FILE, model, model.state_dict(), {})
    assert (folder / TOKENIZER_FILE).read_bytes() == before
    assert not list(folder.glob(".*tmp"))


def plain(folder: Path, faithful: bool) -> Path:
    """The checkpoint with a forecaster that can be read both ways, since it does not move its history."""
    tokenizer, _ = load_tokenizer(folder)
    forecaster = Forecaster(replace(tiny_forecaster(), transport=False, faithful=faithful))
    own = Tokenizer(replace(tokenizer.config, faithful=faithful))
    save_model(folder / TOKENIZER_FILE, own, tokenizer.state_dict(), {"data_source": "synthetic"})
    card = {"data_source": "synthetic", "tokens": tokens_hash(tokenizer.state_dict())}
    save_model(folder / FORECASTER_FILE, forecaster, forecaster.state_dict(), card)
    return folder


@pytest.mark.parametrize("own", [True, False])
def test_the_faithful_switch_can_be_set_without_a_copy_of_the_weights(folder: Path, own: bool) -> None:
    model = load_world(plain(folder, own))
    assert with_faithful(model, None) is model
    same, other = with_faithful(model, own), with_faithful(model, not own)
    assert same.tokenizer is model.tokenizer and same.forecaster is model.forecaster
    for a, b in ((model.tokenizer, other.tokenizer), (model.forecaster, other.forecaster)):
        assert b.config == replace(a.config, faithful=not own) and not b.training
        assert [p.data_ptr() for p in a.parameters()] == [p.data_ptr() for p in b.parameters()]
        assert not any(p.requires_grad for p in b.parameters())
    assert other.card == model.card and model.forecaster.config.faithful is own


def test_a_model_that_moves_its_history_cannot_be_read_as_published(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"faithful=True(.|\n)*transport(.|\n)*leave faithful="):
        with_faithful(load_world(folder), True)
