from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_benchmark import save_models
from tiny_checkpoints import write_geometric

from world_model.core.errors import CheckpointError, DataError, OptionError, OutputError
from world_model.evaluate import Evaluate, evaluate
from world_model.evaluation.forecasting.evaluator import Evaluator
from world_model.evaluation.partial import PartialResults
from world_model.evaluation.report import Report
from world_model.evaluation.result import ForecastResult, ReconstructionResult
from world_model.models.tokenizer import TINY_GRID
from world_model.prepare import Prepare, prepare

ROWS = ("copy-paste", "ego warp", "ego warp + CV boxes", "tokenizer", "ii-world gt-ego", "ii-world pred-ego")


@pytest.fixture
def data(make_scenes) -> Path:  # type: ignore[no-untyped-def]
    """Three scenes, the last two of them held out."""
    root: Path = make_scenes(frames=(11, 12, 12))
    prepare(Prepare(data_root=root))
    return root


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_models(tmp_path / "checkpoint")


def measured(options: Evaluate) -> Report:
    """The report of the only process."""
    report = evaluate(options)
    assert report is not None
    return report


def test_other_labels_are_other_results(
    data: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two data sets of the same drives have the same fingerprint; they must not share scores or tokens."""
    shutil.copytree(data, tmp_path / "other")
    for path in (tmp_path / "other" / "gts").glob("*/*/labels.npz"):
        with np.load(path) as archive:
            labels = archive["semantics"]
        np.savez_compressed(path, semantics=np.where(labels == 15, 16, labels).astype(np.uint8))
    out = tmp_path / "out"
    first = measured(Evaluate(index=data, checkpoint=checkpoint, out=out))
    assert "computing anew" not in capsys.readouterr().out
    second = measured(Evaluate(index=tmp_path / "other", checkpoint=checkpoint, out=out))
    assert "computing anew" in capsys.readouterr().out
    assert first.reconstruction is not None and second.reconstruction is not None
    assert (first.reconstruction.counts != second.reconstruction.counts).any()
    assert second.reconstruction.confusion.counts[15].sum() == 0


def test_only_what_a_sensor_has_seen_is_scored(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for path in sorted((data / "gts").glob("*/*/labels.npz")):
        with np.load(path) as archive:
            arrays = dict(archive)
        seen_there = rng.random(arrays["semantics"].shape) < 0.3
        np.savez_compressed(path, **{**arrays, "mask_camera": seen_there.astype(np.uint8)})
    options = Evaluate(index=data, checkpoint=checkpoint, out=tmp_path / "out", models="tokenizer", max_windows=2)
    report, seen = measured(options), measured(replace(options, mask="camera"))
    whole = report.forecasting
    assert whole is not None and seen.forecasting is not None
    assert report.reconstruction is not None and seen.reconstruction is not None
    share = seen.reconstruction.counts.sum() / report.reconstruction.counts.sum()
    assert share == pytest.approx(0.3, abs=0.01)
    total = [int(f.counts[0, 0, 0].sum()) for f in (whole, seen.forecasting)]
    assert total[1] / total[0] == pytest.approx(0.3, abs=0.01)
    assert (seen.forecasting.counts <= whole.counts).all()
    assert "mask_camera" in seen.settings["mask"] and "inside the camera mask" in seen.to_markdown()


def test_labels_without_masks_are_named(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    for path in (data / "gts").glob("*/*/labels.npz"):
        with np.load(path) as archive:
            labels = archive["semantics"]
        np.savez_compressed(path, semantics=labels)
    options = Evaluate(index=data, checkpoint=checkpoint, out=tmp_path / "out", models="tokenizer", max_windows=1)
    with pytest.raises(DataError, match="'mask_lidar'") as caught:
        evaluate(replace(options, mask="lidar"))
    assert "--mask" in caught.value.remedy
    measured(options)


def test_report_names_everything(
    data: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    evaluate(Evaluate(index=data, checkpoint=checkpoint, out=out))
    text = (out / "results.md").read_text()
    printed = capsys.readouterr().out
    assert text in printed and str(out / "results.md") in printed
    assert text.startswith("# Evaluation: synthetic, held-out")
    for said in (
        *ROWS,
        "mIoU_published",
        "gt-ego",
        "pred-ego",
        "oracle",
        "4 of 4",
        "static",
        "moving",
        "ego pose at t",
    ):
        assert said in text
    results = json.loads((out / "results.json").read_text())
    assert results["forecasting"]["windows"] == 4 and results["reconstruction"]["frames"] == 24
    rows = results["forecasting"]["rows"]
    assert set(rows) == set(ROWS) and set(rows["ii-world gt-ego"]["horizons"]) == {"1s", "2s", "3s"}
    assert 0 < rows["copy-paste"]["horizons"]["1s"]["all"]["miou"] < 1
    assert len(rows["ii-world pred-ego"]["ego_position_error_m"]) == 3
    for plot in ("forecast_by_horizon.png", "forecast_by_class.png"):
        assert (out / plot).read_bytes().startswith(b"\x89PNG")


def test_killed_run_resumes_to_identical_results(
    data: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def options(out: str) -> Evaluate:
        return Evaluate(index=data, checkpoint=checkpoint, out=tmp_path / out, batch=1)

    whole = measured(options("whole")).to_dict()
    real, calls = Evaluator.score, []

    def killed(self, scene, work):  # type: ignore[no-untyped-def]
        calls.append(work.scene)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, scene, work)

    monkeypatch.setattr(Evaluator, "score", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(options("killed"))
    assert not (tmp_path / "killed" / "results.json").exists()
    assert measured(options("killed")).to_dict() == whole
    assert calls == [1, 2, 2]  # what was done is not computed again
    assert measured(options("killed")).to_dict() == whole and len(calls) == 3


def test_the_long_table(make_scenes, checkpoint: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = make_scenes(frames=(11, 18))
    prepare(Prepare(data_root=data))
    horizons = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    common = {"index": data, "checkpoint": checkpoint, "what": ("forecasting",)}
    long = measured(Evaluate(out=tmp_path / "long", horizons_s=horizons, **common)).forecasting  # type: ignore[arg-type]
    short = measured(Evaluate(out=tmp_path / "short", **common)).forecasting  # type: ignore[arg-type]
    assert long is not None and short is not None and long.horizons_s == horizons
    assert (long.windows, short.windows) == (2, 8)
    text = (tmp_path / "long" / "results.md").read_text()
    assert "mIoU 6s" in text and "per class at 5 s" in text


def test_worlds_by_name_and_regimes(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    common = {"index": data, "checkpoint": checkpoint, "max_windows": 2, "what": ("forecasting",)}
    worlds = ("learned", "replay", "transport", "tiny_benchmark:Mine")
    report = measured(Evaluate(out=tmp_path, world=worlds, regimes=("gt-ego", "action"), **common))  # type: ignore[arg-type]
    found = report.forecasting
    assert found is not None
    names = ("ii-world", "replay", "transport", "Mine")
    assert found.rows == (*ROWS[:4], *(f"{n} {r}" for n in names for r in ("gt-ego", "action")))
    row = {name: found.counts[found.rows.index(name)] for name in found.rows}
    assert (row["Mine gt-ego"] == row["transport gt-ego"]).all()
    assert (row["Mine gt-ego"] != row["Mine action"]).any()
    assert 0 < found.ego_error("Mine action")[2, 0] == found.ego_error("ii-world action")[2, 0]
    assert "following the logged drive" in report.to_markdown()


def test_the_learned_world_of_the_checkpoint_is_scored(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Of a checkpoint that holds both kinds the geometric one, beside the tokenizer; weights decide what is reused."""
    both = shutil.copytree(checkpoint, tmp_path / "both")
    common = {"index": data, "checkpoint": both, "max_windows": 1, "what": ("forecasting",), "regimes": ("gt-ego",)}
    scores, models = [], []
    for seed in (0, 1):
        write_geometric(both, seed, TINY_GRID)
        report = measured(Evaluate(out=tmp_path / "out", **common))  # type: ignore[arg-type]
        assert report.forecasting is not None
        assert report.forecasting.rows == (*ROWS[:4], "geometric gt-ego")
        scores.append(report.forecasting.counts[-1])
        models.append(report.settings["models"])
    assert (scores[0] != scores[1]).any() and models[0] != models[1]
    assert all("geometric, trained on test data" in name and "tokenizer" in name for name in models)
    (both / "tokenizer.safetensors").unlink()
    rows = measured(Evaluate(out=tmp_path / "alone", **common)).forecasting.rows  # type: ignore[arg-type, union-attr]
    assert rows == (*ROWS[:3], "geometric gt-ego")
    for models in ("tokenizer", "none"):  # then only what is named
        assert Evaluate(models=models, world=("learned", "replay"), **common).worlds == ("replay",)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="without 'learned'"):
        evaluate(Evaluate(out=tmp_path, world=("learned", "geometric"), **common))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="no motion of their own"):
        evaluate(Evaluate(out=tmp_path, **{**common, "regimes": ("pred-ego",)}))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="both of its models"):
        Evaluate(world=("ii-world",), models="tokenizer")


def test_partial_results_of_code_that_changed_are_not_used(tmp_path: Path, data: Path, checkpoint: Path) -> None:
    def decided(world: str, **options: object) -> str:
        asked = Evaluate(index=data, checkpoint=checkpoint, out=tmp_path, world=(world,), **options)  # type: ignore[arg-type]
        return Evaluator(asked).forecasts.folder.name

    plain = decided("tiny_benchmark:Mine")
    assert plain == decided("tiny_benchmark:Mine", batch=3, stride=2, workers=2, faithful=True)
    others = [decided("transport"), decided("tiny_benchmark:Mine", horizons_s=(1.0,))]
    others += [
        decided("tiny_benchmark:Mine", regimes=("gt-ego", "action"), action_mode=m) for m in ("kinematic", "delta")
    ]
    assert len({plain, *others}) == 5


def test_faithful_rounds_and_says_so(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    common = {"index": data, "checkpoint": checkpoint, "what": ("forecasting",), "models": "none"}
    with pytest.raises(DataError, match="200"):  # without a tokenizer the grid is that of Occ3D
        evaluate(Evaluate(out=tmp_path / "none", **common))  # type: ignore[arg-type]
    common["models"] = "tokenizer"
    plain = measured(Evaluate(out=tmp_path, **common)).to_dict()  # type: ignore[arg-type]
    rounded = measured(Evaluate(out=tmp_path, faithful=True, **common)).to_dict()  # type: ignore[arg-type]
    assert "as the release rounds" in rounded["conventions"] and "as the release rounds" not in plain["conventions"]
    for name, row in rounded["forecasting"]["rows"].items():
        assert row["horizons"] == plain["forecasting"]["rows"][name]["horizons"]
        percent = 100 * row["mean"]["all"]["iou"]
        assert percent == pytest.approx(round(percent, 2), abs=1e-9)


def test_ground_truth_of_255_shows_the_published_iou() -> None:
    counts = np.zeros((19, 18), np.int64)
    counts[4, 4], counts[17, 17], counts[18, 4] = 30, 50, 20
    rebuilt = Report(title="t", settings={}, reconstruction=ReconstructionResult(counts=counts, frames=1))
    assert "IoU_published " in rebuilt.to_markdown()
    assert rebuilt.to_dict()["reconstruction"]["voxels_ignored"] == 20
    counts[18] = 0
    known = Report(title="t", settings={}, reconstruction=ReconstructionResult(counts=counts, frames=1))
    assert "| IoU_published" not in known.to_markdown() and known.to_dict()["reconstruction"]["iou_published"] == 1.0
    nothing = Report(title="t", settings={}, forecasting=ForecastResult.zero(ROWS, (1.0,)))
    assert "| -" in nothing.to_markdown()
    json.dumps(nothing.to_dict(), allow_nan=False)


def test_partial_results_belong_to_their_settings(tmp_path: Path) -> None:
    one = PartialResults.of(tmp_path, {"index": "a"})
    one.save("scene", counts=np.arange(3))
    assert (PartialResults.of(tmp_path, {"index": "a"}).load("scene") or {})["counts"].tolist() == [0, 1, 2]
    assert PartialResults.of(tmp_path, {"index": "b"}).load("scene") is None
    assert PartialResults.of(tmp_path, {"index": "a"}, resume=False).load("scene") is None
    file = next(one.folder.glob("*.npz"))
    file.write_bytes(file.read_bytes()[:50])
    assert one.load("scene") is None


def test_subsets_of_the_work(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    few = measured(Evaluate(index=data, checkpoint=checkpoint, out=tmp_path / "a", max_windows=1, models="tokenizer"))
    assert few.forecasting is not None and few.forecasting.windows == 1 and few.forecasting.rows == ROWS[:4]
    half = measured(
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
    options = Evaluate(index=data, checkpoint=checkpoint, out=tmp_path / "out", what=("reconstruction",), batch=1)
    with pytest.raises(DataError, match="scene-9003-4"):
        evaluate(options)
    assert len(list((tmp_path / "out" / "partial").rglob("*.npz"))) == 1
    path.write_bytes(good)
    result = measured(options).reconstruction
    assert result is not None and result.frames == 24


def test_bad_options_are_explained(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    for wrong in ({"stride": 0}, {"batch": -1}, {"max_windows": 0}, {"horizons_s": (1.3,)}, {"what": ()}):
        with pytest.raises(OptionError):
            Evaluate(**wrong)  # type: ignore[arg-type]
    for wrong in ({"workers": 0}, {"world": ("replay", "replay")}, {"world": ("replay",), "regimes": ("pred-ego",)}):
        with pytest.raises(OptionError):
            Evaluate(**wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="no_such_module"):
        evaluate(Evaluate(index=data, checkpoint=checkpoint, out=tmp_path / "w", world=("no_such_module:World",)))
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
