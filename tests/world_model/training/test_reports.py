"""CSV, TensorBoard, callbacks and looks at held-out windows: what a run tells, whole, cut and resumed."""

from __future__ import annotations

import csv
import importlib.util
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_training as small
import torch
from numpy.typing import NDArray
from tiny_scenes import write_scenes

from world_model import (
    encode_tokens,
    refine_decoder,
    train_forecaster,
    train_geometric,
    train_occsora,
    train_tokenizer,
)
from world_model.core.errors import DataError, OptionError
from world_model.data.index import SceneIndex
from world_model.prepare import Prepare, prepare
from world_model.training.loop import Trainer
from world_model.training.report import Callback, Look, Report, Reports
from world_model.training.report_options import ReportOptions

CLOCKS = {"seconds", "data_wait"}
"""Columns that no two runs share."""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SceneIndex:
    return small.write_data(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short scenes on the full grid, prepared."""
    root = write_scenes(tmp_path_factory.mktemp("data"), frames=(13, 12), shape=(200, 200, 16))
    prepare(Prepare(data_root=root))
    return root


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return [{k: v for k, v in row.items() if k not in CLOCKS} for row in csv.DictReader(stream)]


def look(weights: dict[str, torch.Tensor]) -> Look:
    torch.rand(3)  # a look may draw numbers: training goes on as without it
    mean = float(torch.cat([w.flatten().float() for w in weights.values()]).mean())
    return Look(values={"mean": mean}, pictures={"held_out/forecast": np.zeros((4, 6, 3), np.uint8)})


def run(
    index: SceneIndex, out: Path, callbacks: Sequence[Callback] = (), dies_at: int | None = None, **config: Any
) -> Trainer:
    """A tokenizer of seven steps, a line for every two, a look after every three."""
    trainers: list[Trainer] = []
    start, step = Trainer.__init__, Trainer.step

    def made(self: Trainer, *args: Any, **kwargs: Any) -> None:
        reports = Reports(out, {}, callbacks)
        start(self, *args, **kwargs, reports=reports, look=look, look_every=3)
        trainers.append(self)

    def dying(self: Trainer, batches: Any) -> Any:
        if self.iteration == dies_at:
            raise MemoryError
        return step(self, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "__init__", made)
        patch.setattr(Trainer, "step", dying)
        small.train_tokenizer(index, out, small.config_of(7, batch=2, **{"log_every": 2, "save_every": 5, **config}))
    return trainers[0]


HEARD: list[Report] = []


@pytest.fixture(scope="module")
def whole(index: SceneIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uncut run, of which `HEARD` has heard."""
    out = tmp_path_factory.mktemp("whole")
    run(index, out, [HEARD.append])
    return out


@pytest.fixture(scope="module")
def cut(index: SceneIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, killed in step 7, after the checkpoint of step 5, and resumed; with TensorBoard, where it is."""
    out = tmp_path_factory.mktemp("cut")
    board = ReportOptions(tensorboard=importlib.util.find_spec("tensorboard") is not None)
    with pytest.raises(MemoryError):
        run(index, out, board.reports(out, {}).callbacks, dies_at=6)
    assert [row["iteration"] for row in table(out / "log.csv")] == ["2", "4"]
    run(index, out, board.reports(out, {}).callbacks)
    return out


def test_a_run_cut_in_two_has_the_tables_of_the_uncut_one(whole: Path, cut: Path) -> None:
    """Also the mean over a line of progress during which it was cut."""
    for name, steps in (("log.csv", ["2", "4", "6", "7"]), ("held_out.csv", ["3", "6", "7"])):
        assert [row["iteration"] for row in table(whole / name)] == steps
        assert table(cut / name) == table(whole / name)


def test_looks_change_nothing(index: SceneIndex, whole: Path, tmp_path: Path) -> None:
    small.train_tokenizer(index, tmp_path, small.config_of(7, batch=2, log_every=2))
    assert table(tmp_path / "log.csv") == table(whole / "log.csv")


def test_a_callback_hears_everything_once(whole: Path) -> None:
    looks = [r for r in HEARD if "held_out/mean" in r.values]
    assert [(r.step, sorted(r.pictures)) for r in looks] == [(step, ["held_out/forecast"]) for step in (3, 6, 7)]
    lines = [r for r in HEARD if "loss" in r.values]
    assert [r.step for r in lines] == [2, 4, 6, 7] and [r.last for r in HEARD] == [False] * 7 + [True]
    for report, row in zip(lines, table(whole / "log.csv"), strict=True):
        assert report.values["loss"] == float(row["loss"])


def test_a_callback_that_fails_does_not_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[Report] = []

    def broken(report: Report) -> None:
        raise ConnectionError("the service is away")

    reports = Reports(tmp_path, {}, [broken, heard.append])
    reports(1, {"loss": 1.0})
    reports(2, {"loss": 0.5})
    assert [r.step for r in heard] == [1, 2]
    assert capsys.readouterr().out.count("the run goes on without it") == 1


def test_tensorboard_appends_without_duplicates(whole: Path, cut: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(cut / "tensorboard")).Reload()
    for name, file in (("train/loss", "log.csv"), ("held_out/mean", "held_out.csv")):
        column, rows = name.partition("/")[2], table(whole / file)
        assert [e.step for e in events.Scalars(name)] == [int(row["iteration"]) for row in rows]
        found = [e.value for e in events.Scalars(name)]
        np.testing.assert_allclose(found, [float(row[column]) for row in rows], rtol=1e-6)
    assert [e.step for e in events.Images("held_out/forecast")] == [3, 6, 7]


def test_missing_tensorboard_and_foreign_callbacks_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    for options, words in (
        ({"tensorboard": True}, r"iiworld\[tensorboard\]"),
        ({"callback": "small_training:absent"}, "cannot be imported"),
        ({"held_out": 0}, "--held-out 0"),
    ):
        with pytest.raises(OptionError, match=words):
            ReportOptions(**options).reports(tmp_path, {})  # type: ignore[arg-type]


def test_the_example_for_wandb_keeps_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a recorder with wandb's interface."""
    from examples.callback_wandb import WandB

    opened: list[dict[str, Any]] = []
    logged: list[tuple[int, list[str]]] = []
    fake: Any = types.ModuleType("wandb")
    fake.Image, fake.util = (lambda picture: picture), types.SimpleNamespace(generate_id=lambda: "id1")
    line = types.SimpleNamespace(log=lambda v, step: logged.append((step, sorted(v))), finish=lambda: None)
    fake.init = lambda **options: (opened.append(options), line)[1]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for begin in (0, 4):
        reports = Reports(tmp_path, {"seed": 0}, [WandB()], begin)
        reports(begin + 2, {"loss": 1.0}, {"held_out/forecast": np.zeros((2, 2, 3), np.uint8)})
        reports(begin + 3, last=True)
    assert logged == [(2, ["held_out/forecast", "loss"]), (6, ["held_out/forecast", "loss"])]
    assert [o["id"] for o in opened] == ["id1", "id1"] and opened[0]["config"] == {"seed": 0}


PICTURES: list[NDArray[Any]] = []


def keep_pictures(report: Report) -> None:
    """A callback for the commands."""
    PICTURES.extend(report.pictures.values())


def test_every_training_command_looks_at_held_out_windows(data: Path, tmp_path: Path) -> None:
    """mIoU and IoU of reconstruction or forecast, and a picture, by each of the four commands."""
    shared: dict[str, Any] = {
        **{"index": data, "iterations": 1, "batch": 1, "held_out_every": 1, "held_out": 1},
        **{"held_out_split": "train", "callback": f"{__name__}:keep_pictures", "device": "cpu"},
    }
    rebuilt, ahead = ["miou_0s", "iou_0s"], [f"{m}_{s}s" for s in (1, 2, 3) for m in ("miou", "iou")]
    first, tokens, world = tmp_path / "tokenizer", tmp_path / "tokens", tmp_path / "world"

    def encode() -> None:
        encode_tokens.main(encode_tokens.Args(index=data, tokenizer=first, out=tokens))

    commands: list[tuple[Path, list[str], Callable[[], object]]] = [
        (first, rebuilt, lambda: train_tokenizer.main(
            train_tokenizer.Args(out=first, preset="tiny", voxels=3000, **shared))),
        (world, ahead, lambda: (encode(), train_forecaster.main(
            train_forecaster.Args(out=world, preset="tiny", tokens=tokens, tokenizer=first, **shared)))),
        (tmp_path / "r", ahead, lambda: refine_decoder.main(
            refine_decoder.Args(out=tmp_path / "r", tokens=tokens, checkpoint=world, **{**shared, "batch": 2}))),
        (tmp_path / "g", ahead, lambda: train_geometric.main(
            train_geometric.Args(out=tmp_path / "g", preset="tiny", **shared))),
    ]  # fmt: skip
    for out, columns, command in commands:
        PICTURES.clear()
        command()
        rows = table(out / "held_out.csv")
        assert list(rows[0]) == ["iteration", *columns] and [row["iteration"] for row in rows] == ["1"]
        assert len(PICTURES) == 1 and PICTURES[0].dtype == np.uint8 and PICTURES[0].shape[2] == 3
        assert all(0 <= float(row[name]) <= 100 for row in rows for name in columns)


def test_occsora_looks_where_it_forecasts(data: Path, tmp_path: Path) -> None:
    """Its transformer does; its tokenizer says that it does not."""
    shared: dict[str, Any] = {"index": data, "preset": "tiny", "iterations": 1, "batch": 1, "device": "cpu"}
    looks: dict[str, Any] = {"held_out_every": 1, "held_out": 1, "held_out_split": "train"}
    first, small = tmp_path / "tokenizer", train_occsora.SoraLossConfig(frames=2, voxels=1000)
    with pytest.raises(OptionError, match="forecasts of its own"):
        train_occsora.main(train_occsora.Args(out=first, loss=small, **shared, **looks))
    train_occsora.main(train_occsora.Args(out=first, loss=small, **shared))
    train_occsora.main(
        train_occsora.Args(out=tmp_path / "s", stage="transformer", tokenizer=first, split="all", **shared, **looks)
    )
    (row,) = table(tmp_path / "s" / "held_out.csv")
    assert set(row) == {"iteration", *(f"{m}_{s}s" for s in (1, 2, 3) for m in ("miou", "iou"))}


def test_a_split_without_windows_is_named_before_training(data: Path, tmp_path: Path) -> None:
    args = train_geometric.Args(index=data, out=tmp_path, preset="tiny", held_out_every=1, held_out_split="test")
    with pytest.raises(DataError):
        train_geometric.main(args)
    assert not (tmp_path / "last.pt").exists()
