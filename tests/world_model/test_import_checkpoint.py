"""Checkpoints of the original at full size: every way of wrapping them, all that can be off, nothing executed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from world_model import import_checkpoint as command
from world_model.checkpoints.checkpoint import FORECASTER_FILE, TOKENIZER_FILE, load_tokenizer
from world_model.checkpoints.shared import load_world
from world_model.core.errors import CheckpointError, OptionError
from world_model.core.geometry import se2_matrix
from world_model.import_checkpoint import ImportCheckpoint, import_checkpoint

KEYS = Path(__file__).parents[1] / "golden"


def official(name: str, seed: int = 0) -> dict[str, Tensor]:
    """Random weights with exactly the names and shapes of the original."""
    generator = torch.Generator().manual_seed(seed)
    listed = json.loads((KEYS / f"official_keys_{name}.json").read_text())["state_dict"]
    out: dict[str, Tensor] = {}
    for key, what in listed.items():
        if what["dtype"] == "int64":
            out[key] = torch.zeros(what["shape"], dtype=torch.int64)
            continue
        value = 0.02 * torch.randn(what["shape"], generator=generator)
        # Norms and variances of about one keep the random network's numbers in range.
        out[key] = value + 1 if "running_var" in key or (value.dim() == 1 and key.endswith("weight")) else value
    return out


@pytest.fixture(scope="module")
def tokenizer() -> dict[str, Tensor]:
    return official("tokenizer")


@pytest.fixture(scope="module")
def world() -> dict[str, Tensor]:
    return official("world")


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def mmcv(weights: dict[str, Tensor]) -> dict[str, Any]:
    """As mmcv's runner saves."""
    meta = {"mmcv_version": "1.6.0", "time": "Mon Jan  1 00:00:00 2024", "epoch": 24, "iter": 10_000, "hook_msgs": {}}
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    return {"meta": meta, "state_dict": weights, "optimizer": optimizer}


def prefixed(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in weights.items()}


def test_the_lists_are_the_published_sizes(tokenizer: dict[str, Tensor], world: dict[str, Tensor]) -> None:
    assert sum(v.numel() for v in tokenizer.values()) == 20_211_040
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert sum(v.numel() for k, v in world.items() if not k.endswith(statistics)) == 2_463_634


def test_two_files_become_a_world_that_runs(
    tmp_path: Path, tokenizer: dict[str, Tensor], world: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    first = save(tmp_path / "tokenizer.pth", mmcv(tokenizer))
    second = save(tmp_path / "world.pth", mmcv(prefixed(world, "module.")))
    written = import_checkpoint(ImportCheckpoint(file=first, world=second, out=tmp_path / "out"))
    assert [path.name for path in written] == [TOKENIZER_FILE, FORECASTER_FILE]
    said = capsys.readouterr().out
    assert "tokenizer: 308 parameters matched" in said
    assert f"forecaster (after the prefix 'module.'): {len(world)} parameters matched" in said
    assert "0 missing" in said and "0 unexpected" in said and "0 of another shape" in said

    model = load_world(tmp_path / "out")
    assert model.tokenizer.config.faithful and model.forecaster.config.faithful
    assert model.card["imported"]["meta"]["epoch"] == 24 and "original" in model.card["data_source"]
    for own, given in ((model.tokenizer, tokenizer), (model.forecaster, world)):
        assert all(torch.equal(value, given[key]) for key, value in own.state_dict().items())
    _run(model.tokenizer, model.forecaster)


def _run(tokenizer: Any, forecaster: Any) -> None:
    """One frame encoded, one step forecast, at full size."""
    labels = torch.full((1, 200, 200, 16), 17, dtype=torch.uint8)
    labels[:, 60:140, :, 2] = 11
    still, start = torch.eye(4)[None], torch.ones(1, dtype=torch.bool)
    with torch.inference_mode():
        token = tokenizer.encode(labels, tokenizer.empty_memory(1), still, start).token
        pose = se2_matrix(torch.tensor([1000.0]), torch.tensor([-500.0]), torch.tensor([0.3])).double()
        state = forecaster.start(token[:, None], pose[:, None])
        state, forecast = forecaster.step(state, torch.tensor([2]))
    assert token.shape == forecast.token.shape == (1, 128, 50, 50)
    assert torch.isfinite(forecast.token).all() and torch.isfinite(forecast.curr_to_next).all()
    assert state.ego is not None and (state.ego.position - pose[:, :3, 3]).norm() < 100


WRAPPED: dict[str, Callable[[dict[str, Tensor], dict[str, Tensor]], Any]] = {
    "plain": lambda t, w: prefixed(t, "scene_tokenizer.") | w,
    "mmcv, module": lambda t, w: mmcv(prefixed(prefixed(t, "vqvae.") | w, "module.")),
    "averaged, own file": lambda t, w: {
        "epoch": 48,
        "updates": 9,
        "state_dict": prefixed(prefixed(t, "tok.") | w, "module."),
    },
    "averaged, beside the raw ones": lambda t, w: {
        "state_dict": prefixed(t, "tok.") | w | {f"ema_{k}".replace(".", "_"): v + 1 for k, v in w.items()}
    },
    "half precision": lambda t, w: {
        k: v.half() if v.is_floating_point() else v for k, v in (prefixed(t, "tok.") | w).items()
    },
}


@pytest.mark.parametrize("how", WRAPPED)
def test_the_tokenizer_inside_the_world_file(
    how: str, tmp_path: Path, tokenizer: dict[str, Tensor], world: dict[str, Tensor]
) -> None:
    file = save(tmp_path / "world.pth", WRAPPED[how](tokenizer, world))
    import_checkpoint(ImportCheckpoint(file=file, out=tmp_path / "out"))
    model = load_world(tmp_path / "out")
    slack = 2e-3 if how == "half precision" else 0
    for own, given in ((model.tokenizer, tokenizer), (model.forecaster, world)):
        assert all((value - given[key]).abs().max() <= slack for key, value in own.state_dict().items())
        assert all(p.dtype == torch.float32 for p in own.parameters())


def test_a_tokenizer_alone(tmp_path: Path, tokenizer: dict[str, Tensor], capsys: pytest.CaptureFixture[str]) -> None:
    import_checkpoint(ImportCheckpoint(file=save(tmp_path / "t.pth", tokenizer), out=tmp_path / "out"))
    assert load_tokenizer(tmp_path / "out")[0].config.faithful
    assert "--world" in capsys.readouterr().out and not (tmp_path / "out" / FORECASTER_FILE).exists()


def _without(weights: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    return {k: v for k, v in weights.items() if k != key}


OFF: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Any]], str]] = {
    "missing": (lambda t: _without(t, "encoder.mid.block_1.conv1.bias"), "1 missing.*encoder.mid.block_1.conv1.bias"),
    "unexpected": (lambda t: t | {"encoder.extra": torch.zeros(3)}, "1 unexpected.*encoder.extra"),
    "shape": (
        lambda t: t | {"vq.quant_conv.bias": torch.zeros(64)},
        r"1 of another shape or value.*\(64,\) instead of \(128,\)",
    ),
    "number": (lambda t: t | {"vq.quant_conv.bias": torch.full((128,), torch.nan)}, "not finite"),
    "text": (lambda t: t | {"vq.quant_conv.bias": "no tensor"}, "a str instead of a tensor"),
    "foreign": (lambda t: {"backbone.weight": torch.zeros(3)}, "none of the original's models"),
    "twice": (lambda t: prefixed(t, "a.") | prefixed(t, "b."), "2 models of the kind tokenizer"),
    "empty": (lambda t: {"state_dict": {}}, "no tensors"),
}


@pytest.mark.parametrize("how", OFF)
def test_anything_that_is_off_is_refused(
    how: str, tmp_path: Path, tokenizer: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = OFF[how]
    file = save(tmp_path / "t.pth", change(tokenizer))
    with pytest.raises(CheckpointError, match=message) as refused:
        import_checkpoint(ImportCheckpoint(file=file, out=tmp_path / "out"))
    assert "Expected" in str(refused.value) and not (tmp_path / "out").exists()
    if how in ("missing", "unexpected", "shape"):
        assert refused.value.remedy
        name = message.rpartition(".*")[2] if how != "shape" else "vq.quant_conv.bias"
        assert f"    {name}" in capsys.readouterr().out  # the full list


def test_every_parameter_in_question_is_listed(
    tmp_path: Path, tokenizer: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    part = {k: v for k, v in tokenizer.items() if not k.startswith("decoder.")}
    with pytest.raises(CheckpointError):
        import_checkpoint(ImportCheckpoint(file=save(tmp_path / "t.pth", part), out=tmp_path / "out"))
    said = capsys.readouterr().out
    assert all(f"    {key}\n" in said for key in tokenizer if key.startswith("decoder."))


def test_a_world_model_needs_its_tokenizer(
    tmp_path: Path, tokenizer: dict[str, Tensor], world: dict[str, Tensor]
) -> None:
    alone = save(tmp_path / "w.pth", world)
    with pytest.raises(CheckpointError, match="without its tokenizer"):
        import_checkpoint(ImportCheckpoint(file=alone, out=tmp_path / "out"))
    other = prefixed(tokenizer, "tok.") | {"tok.vq.quant_conv.bias": torch.ones(128)} | world
    with pytest.raises(CheckpointError, match=r"another tokenizer.*vq\.quant_conv\.bias"):
        import_checkpoint(
            ImportCheckpoint(
                file=save(tmp_path / "t.pth", tokenizer), world=save(tmp_path / "w2.pth", other), out=tmp_path / "out"
            )
        )
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_unasked(tmp_path: Path, tokenizer: dict[str, Tensor]) -> None:
    file, out = save(tmp_path / "t.pth", tokenizer), tmp_path / "out"
    import_checkpoint(ImportCheckpoint(file=file, out=out))
    with pytest.raises(OptionError, match="exists"):
        import_checkpoint(ImportCheckpoint(file=file, out=out))
    import_checkpoint(ImportCheckpoint(file=file, out=out, overwrite=True))


class _Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_nothing_in_a_file_is_executed(legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark, file = tmp_path / "executed", tmp_path / "evil.pth"
    torch.save({"state_dict": {"x": _Hostile(mark)}}, file, _use_new_zipfile_serialization=not legacy)
    monkeypatch.setattr(sys, "argv", ["import_checkpoint", str(file), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        command.main()
    message = str(ended.value.code)
    assert all(words in message for words in ("it asks for ", "getattr", "nothing was executed", "Remedy"))
    assert not mark.exists() and not (tmp_path / "out").exists()
    torch.load(file, weights_only=False)
    assert mark.exists()  # the file really was hostile


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"not a checkpoint", bytes(1000)])
def test_damaged_files(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "t.pth"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"t\.pth"):
        import_checkpoint(ImportCheckpoint(file=file, out=tmp_path / "out"))


def test_truncated_and_missing_files(tmp_path: Path) -> None:
    whole = save(tmp_path / "t.pth", {"vq.embedding.weight": torch.zeros(512, 128)}).read_bytes()
    (tmp_path / "t.pth").write_bytes(whole[:-200])
    for name in ("t.pth", "nowhere.pth"):
        with pytest.raises(CheckpointError, match=name):
            import_checkpoint(ImportCheckpoint(file=tmp_path / name, out=tmp_path / "out"))
