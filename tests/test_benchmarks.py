"""Benchmarks that print figures of the documentation still run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from world_model.data.demo import demo_root
from world_model.data.index import SceneIndex

ROOT = Path(__file__).parents[1]


def program(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A file of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_labels_never_seen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    module = program("unseen_labels", monkeypatch)
    index = SceneIndex.load(demo_root())
    frame = index.root / str(index.label_path[0])
    module.main(module.Args(frames=(frame,), index=demo_root(), others=(demo_root(),), world="transport", scenes=2))
    text = capsys.readouterr().out
    # The warp keeps all of a frame that is held still, and has no lead over itself.
    assert text.count("100.0 / 100.0 / 100.0") == 2 and text.count("| 100.0 |") == 2
    assert text.count("0.0 .. 0.0 , 0.0 .. 0.0 , 0.0 .. 0.0") == 5


def test_traffic(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    module = program("traffic", monkeypatch)
    module.main(module.Args(index=demo_root(), split="all", scenes=1, stride=40))
    text = capsys.readouterr().out
    assert text.count("whole: ") == 3 and text.count("displacement 3 s") == text.count("displacement 8 s") == 5
    assert text.count("F1") == 4


def test_area_under_the_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    module = program("unseen_labels", monkeypatch)
    worse = np.array([True, True, False, False])
    assert module.auroc(np.array([0.9, 0.8, 0.2, 0.1]), worse) == 1.0
    assert module.auroc(np.array([0.9, 0.1, 0.9, 0.1]), worse) == 0.5
    assert np.isnan(module.auroc(np.ones(4), np.zeros(4, np.bool_)))
