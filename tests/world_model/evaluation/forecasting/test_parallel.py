"""Neither the batch, nor how scenes are packed, nor the number of processes changes a single count."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from tiny_benchmark import save_models

from world_model.core.errors import DataError, OptionError, OutputError
from world_model.evaluate import Evaluate, evaluate
from world_model.evaluation.forecasting import evaluate as forecasting
from world_model.evaluation.forecasting.benchmark import SceneWork
from world_model.evaluation.forecasting.parallel import divided
from world_model.prepare import Prepare, prepare
from world_model.training.distributed import DistributedContext

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four held-out scenes of different lengths: nine windows, which neither two nor four processes share evenly."""
    from tiny_scenes import write_scenes

    root = write_scenes(tmp_path_factory.mktemp("parallel"), frames=(11, 12, 13, 11, 13))
    prepare(Prepare(data_root=root))
    save_models(root / "checkpoint")
    return root


@pytest.fixture(scope="module")
def expected(data: Path) -> str:
    """The results of one process, one window at a time."""
    return run(data, "one", batch=1)


def run(data: Path, name: str, **options: object) -> str:
    """All numbers of an evaluation, as text."""
    settings = {"resume": False, "regimes": ("gt-ego", "pred-ego", "action"), **options}
    evaluate(Evaluate(index=data, checkpoint=data / "checkpoint", out=data / name, **settings))  # type: ignore[arg-type]
    return (data / name / "results.json").read_text()


def test_any_batch_gives_identical_sums(data: Path, expected: str) -> None:
    assert json.loads(expected)["forecasting"]["windows"] == 9
    for batch in (3, 8):
        assert run(data, f"batch{batch}", batch=batch) == expected


def test_any_number_of_processes_gives_identical_sums(data: Path, expected: str) -> None:
    # Two: under torchrun, and in the run below that continues another one.
    assert run(data, "workers", workers=3, batch=3) == expected


def test_torchrun_gives_identical_sums(data: Path, expected: str) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    options = ["--index", data, "--checkpoint", data / "checkpoint", "--out", data / "torchrun", "--batch", "3"]
    regimes = ["--regimes", "gt-ego", "pred-ego", "action"]
    command = [*torchrun, "-m", "world_model.evaluate", *options, *regimes]
    found = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert found.returncode == 0, found.stderr
    assert (data / "torchrun" / "results.json").read_text() == expected
    assert found.stdout.count("# Evaluation:") == 1  # only one process reports


def test_what_one_number_of_processes_left_is_finished_by_another(data: Path, expected: str) -> None:
    run(data, "both", max_scenes=2, resume=True)
    partial = data / "both" / "partial"
    before = {path: path.stat().st_mtime_ns for path in partial.rglob("*.npz")}
    assert run(data, "both", workers=2, resume=True) == expected
    assert before and all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_an_error_in_a_process_arrives_whole(data: Path) -> None:
    path = data / "gts" / "scene-9004" / "scene-9004-4" / "labels.npz"
    good = path.read_bytes()
    path.write_bytes(good[:200])
    try:
        with pytest.raises(DataError, match="scene-9004-4"):
            run(data, "damaged", workers=2)
    finally:
        path.write_bytes(good)


def test_workers_and_torchrun_exclude_each_other(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = DistributedContext(device=torch.device("cpu"), world_size=2)
    monkeypatch.setattr(forecasting, "join", lambda *_: nullcontext(two))
    with pytest.raises(OptionError, match="torchrun"):
        run(data, "twice", workers=2)


def test_a_result_that_another_process_did_not_leave_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasting, "score_here", lambda evaluator, work: iter(work))
    with pytest.raises(OutputError, match="scene-900"):
        run(data, "nothing")


WORK = [SceneWork(scene=n, frames=tuple(range(n % 7)), reconstruct=n % 2 == 0) for n in range(31)]


@pytest.mark.parametrize("parts", [1, 2, 3, 8, 40])
def test_every_scene_goes_to_exactly_one_part(parts: int) -> None:
    shares = divided(WORK, parts)
    assert len(shares) == parts
    assert sorted(w.scene for share in shares for w in share) == list(range(31))
    windows = [sum(len(w.frames) for w in share) for share in shares]
    assert parts > 31 or max(windows) - min(windows) <= 12
