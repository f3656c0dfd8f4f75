from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import world_model.evaluate as command
from world_model.checkpoint import FORECASTER_FILE, TOKENIZER_FILE, load_tokenizer, save_model
from world_model.errors import CheckpointError, DataError, OptionError, OutputError
from world_model.evaluate import Evaluate, evaluate
from world_model.evaluation.forecasting import ROWS
from world_model.evaluation.partial import PartialResults
from world_model.forecaster import Forecaster
from world_model.forecaster import tiny as tiny_forecaster
from world_model.prepare import Prepare, prepare
from world_model.tokenizer import Tokenizer
from world_model.tokenizer import tiny as tiny_tokenizer


@pytest.fixture
def data(make_scenes) -> Path:  # type: ignore[no-untyped-def]
    """Three scenes, the last two of them held out."""
    root: Path = make_scenes(frames=(11, 12, 12))
    prepare(Prepare(data_root=root))
    return root


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    folder = tmp_path / "checkpoint"
    tokenizer = Tokenizer(tiny_tokenizer())
    save_model(folder / TOKENIZER_FILE, tokenizer, tokenizer.state_dict(), {"data_source": "synthetic"})
    tokens = load_tokenizer(folder)[1]["tokens"]
    forecaster = Forecaster(tiny_forecaster(tokenizer.config))
    card = {"data_source": "synthetic", "tokens": tokens}
    save_model(folder / FORECASTER_FILE, forecaster, forecaster.state_dict(), card)
    return folder


def test_report_names_everything(
    data: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    evaluate(Evaluate(index=data, checkpoint=checkpoint, out=out))
    text = (out / "results.md").read_text()
    printed = capsys.readouterr().out
    assert text in printed and str(out / "results.md") in printed
    assert text.startswith("# Evaluation: synthetic, held-out")
    for said in (*ROWS, "mIoU_published", "gt-ego", "pred-ego", "oracle", "4 of 4", "static", "moving", "Ego position"):
        assert said in text
    results = json.loads((out / "results.json").read_text())
    assert results["forecasting"]["windows"] == 4 and results["reconstruction"]["frames"] == 24
    rows = results["forecasting"]["rows"]
    assert set(rows) == set(ROWS) and set(rows["model gt-ego"]["horizons"]) == {"1s", "2s", "3s"}
    assert 0 < rows["copy-paste"]["horizons"]["1s"]["all"]["miou"] < 1
    for plot in ("forecast_by_horizon.png", "forecast_by_class.png"):
        assert (out / plot).read_bytes().startswith(b"\x89PNG")


def test_killed_run_resumes_to_identical_results(
    data: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def options(out: str) -> Evaluate:
        return Evaluate(index=data, checkpoint=checkpoint, out=tmp_path / out)

    whole = evaluate(options("whole")).to_dict()
    real, calls = command.forecast_scene, []

    def killed(index, scene, *rest, **named):  # type: ignore[no-untyped-def]
        calls.append(scene)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(index, scene, *rest, **named)

    monkeypatch.setattr(command, "forecast_scene", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(options("killed"))
    assert not (tmp_path / "killed" / "results.json").exists()
    monkeypatch.setattr(command, "reconstruct_scene", None)  # what is done must not be computed again
    resumed = evaluate(options("killed")).to_dict()
    assert resumed == whole and calls == [1, 2, 2]


def test_partial_results_belong_to_their_settings(tmp_path: Path) -> None:
    import numpy as np

    one = PartialResults(tmp_path, {"index": "a"})
    one.save("scene", counts=np.arange(3))
    assert (PartialResults(tmp_path, {"index": "a"}).load("scene") or {})["counts"].tolist() == [0, 1, 2]
    assert PartialResults(tmp_path, {"index": "b"}).load("scene") is None
    assert PartialResults(tmp_path, {"index": "a"}, resume=False).load("scene") is None
    file = next(one.folder.glob("*.npz"))
    file.write_bytes(file.read_bytes()[:50])
    assert one.load("scene") is None


def test_subsets_of_the_work(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    few = evaluate(Evaluate(index=data, checkpoint=checkpoint, out=tmp_path / "a", max_windows=1, models="tokenizer"))
    assert few.forecasting is not None and few.forecasting.windows == 1 and few.forecasting.rows == ROWS[:4]
    half = evaluate(
        Evaluate(index=data, checkpoint=checkpoint, out=tmp_path / "b", what=("reconstruction",), max_scenes=1)
    )
    assert half.forecasting is None and half.reconstruction is not None and half.reconstruction.frames == 12
    assert "1 of 2 scenes" in half.to_markdown()
    with pytest.raises(DataError, match="long enough"):
        evaluate(Evaluate(index=data, checkpoint=checkpoint, out=tmp_path / "c", horizons_s=(6.0,)))


def test_damaged_labels_stop_with_their_name_and_keep_what_is_done(
    data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    path = data / "gts" / "scene-9003" / "scene-9003-4" / "labels.npz"
    good = path.read_bytes()
    path.write_bytes(good[:200])
    options = Evaluate(index=data, checkpoint=checkpoint, out=tmp_path / "out", what=("reconstruction",))
    with pytest.raises(DataError, match="scene-9003-4"):
        evaluate(options)
    assert len(list((tmp_path / "out" / "partial").rglob("*.npz"))) == 1
    path.write_bytes(good)
    result = evaluate(options).reconstruction
    assert result is not None and result.frames == 24


def test_bad_options_are_explained(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    for wrong in ({"stride": 0}, {"batch": -1}, {"max_windows": 0}, {"horizons_s": (1.3,)}, {"what": ()}):
        with pytest.raises(OptionError):
            Evaluate(**wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="models=none"):
        Evaluate(models="none", what=("reconstruction",))
    with pytest.raises(DataError, match="prepare"):
        evaluate(Evaluate(index=tmp_path, checkpoint=checkpoint, out=tmp_path / "out"))
    with pytest.raises(CheckpointError):
        evaluate(Evaluate(index=data, checkpoint=tmp_path / "nowhere", out=tmp_path / "out"))
    with pytest.raises(DataError, match="test"):
        evaluate(Evaluate(index=data, checkpoint=checkpoint, out=tmp_path / "out", split="test"))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        evaluate(Evaluate(index=data, checkpoint=checkpoint, out=tmp_path / "file" / "out"))
