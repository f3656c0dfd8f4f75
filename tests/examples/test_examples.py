"""Every example runs from its defaults, in its short mode, and leaves what it promises."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
COMMANDS = [path for path in EXAMPLES if path.stem != "callback_wandb"]
"""The other ones are read and imported."""


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def picture(path: Path) -> tuple[int, int, int]:
    """Width, height and number of frames of an image file."""
    with Image.open(path) as image:
        return (*image.size, getattr(image, "n_frames", 1))


def write_scenes(*arguments: object, **options: object) -> Path:
    """The invented nuScenes folder of the data tests."""
    spec = importlib.util.spec_from_file_location("invented_scenes", ROOT / "tests" / "world_model" / "conftest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.write_scenes(*arguments, **options)


def test_the_examples_are_known() -> None:
    known = ["own_observation", "own_world", "quickstart", "scripted_scenarios", "train_ppo"]
    known += ["train_rllib", "train_world_model"]
    assert [p.stem for p in COMMANDS] == known


@pytest.mark.parametrize("path", COMMANDS, ids=lambda p: p.stem)
def test_help(path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, path, "--help"], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--short" in done.stdout and "--out" in done.stdout


def test_quickstart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = load("quickstart")
    example.main(example.Args(short=True, out=tmp_path))
    said = capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["summary"]) == {"constant_velocity", "idm", "log_replay", "ppo"}
    for name, row in results["summary"].items():
        assert name in said and row["episodes"] == 1 and 0 <= row["progress"] <= 1 and np.isfinite(row["reward"])
    assert "synthetic" in results["data_source"] and results["data_source"] in said
    width, _, frames = picture(tmp_path / "quickstart.gif")
    assert width > 1000 and 2 <= frames <= 3
    assert str(tmp_path / "quickstart.gif") in said


def test_own_observation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    example = load("own_observation")
    example.main(example.Args(short=True, out=tmp_path))
    rings = np.load(tmp_path / "rings.npy")
    assert rings.shape == (2, 5) and (rings >= 0).all() and rings[:, :4].max() <= 1 and rings[0, 4] > 1


def test_own_world(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    example = load("own_world")
    example.main(example.Args(short=True, out=tmp_path))
    ghost, recorded = (line for line in capsys.readouterr().out.splitlines() if "reward" in line)
    assert ghost.startswith("own_world:GhostTown") and " 0 voxels of objects" in ghost
    assert recorded.startswith("replay") and " 0 voxels of objects" not in recorded
    assert picture(tmp_path / "GhostTown.png")[0] > 500 and picture(tmp_path / "replay.png")[0] > 500
    lines = (ROOT / "examples" / "own_world.py").read_text().partition("class GhostTown:")[2].partition("# And a")[0]
    assert len([line for line in lines.splitlines() if line.strip()]) <= 20


def test_scripted_scenarios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = load("scripted_scenarios")
    example.main(example.Args(short=True, out=tmp_path))
    said = capsys.readouterr().out
    assert all(name in said for name in ("straight", "left", "right", "braking"))
    assert picture(tmp_path / "scenarios.png")[0] > 500
    assert picture(tmp_path / "scenarios.gif")[2] == 3


def test_the_way_so_far_is_seen_from_the_ego() -> None:
    example = load("scripted_scenarios")
    drive = [{"ego_pose": np.array(pose)} for pose in ((0, 0, 0), (2, 0, 0), (2, 2, np.pi / 2))]
    assert np.allclose(example.way_so_far(drive, 2), [(-2, 2), (-2, 0), (0, 0)])


def test_train_ppo(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    example = load("train_ppo")
    steps: list[tuple[int, ...]] = []
    step_async = example.IIWorldVecEnv.step_async
    monkeypatch.setattr(
        example.IIWorldVecEnv,
        "step_async",
        lambda venv, actions: (steps.append(actions.shape), step_async(venv, actions))[1],
    )
    example.main(example.Args(short=True, out=tmp_path))
    comparison = json.loads((tmp_path / "comparison.json").read_text())
    assert comparison["timesteps"] == 16 and steps == [(2, 2)] * 8, "both environments move in one batch"
    for when in ("before", "after"):
        assert np.isfinite(comparison[when]["reward"]) and 0 <= comparison[when]["progress"] <= 1
    assert (tmp_path / "model.zip").stat().st_size > 10_000
    assert "steps/s" in capsys.readouterr().out


def test_train_world_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    data = write_scenes(tmp_path / "data", frames=(12, 12), shape=(200, 200, 16))
    example = load("train_world_model")
    example.main(example.Args(short=True, data_root=data, out=tmp_path / "out", device="cpu"))
    for name in ("tokenizer.safetensors", "forecaster.safetensors"):
        assert (tmp_path / "out" / "checkpoint" / name).stat().st_size > 10_000
    results = (tmp_path / "out" / "evaluation" / "results.md").read_text()
    assert "ego warp" in results and "copy-paste" in results


def test_without_a_folder_the_data_are_made_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = load("train_world_model")
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(example, "run", lambda *line: commands.append(tuple(map(str, line))))
    example.main(example.Args(out=tmp_path))
    assert [line[0].removeprefix("world_model.") for line in commands] == [
        "make_synthetic",
        "prepare",
        "train_tokenizer",
        "encode_tokens",
        "train_forecaster",
        "evaluate",
    ]
    assert commands[1][commands[1].index("--data-root") + 1] == commands[0][commands[0].index("--out") + 1]


def test_a_failed_step_stops_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    example = load("train_world_model")
    with pytest.raises(SystemExit, match="prepare stopped"):
        example.main(example.Args(short=True, out=tmp_path, data_root=tmp_path / "missing"))
