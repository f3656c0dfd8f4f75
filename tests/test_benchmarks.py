"""Benchmarks that print figures of the documentation still run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from world_model.data.demo import demo_root
from world_model.data.index import SceneIndex

ROOT = Path(__file__).parents[1]


def test_labels_never_seen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("unseen_labels", ROOT / "benchmarks" / "unseen_labels.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "unseen_labels", module)
    spec.loader.exec_module(module)
    index = SceneIndex.load(demo_root())
    frame = index.root / str(index.label_path[0])
    module.main(module.Args(frames=(frame,), index=demo_root(), world="transport", scenes=2))
    text = capsys.readouterr().out
    # The warp keeps all of a frame that is held still, and has no lead over itself.
    assert text.count("100.0 / 100.0 / 100.0") == 3 and text.count("| 100.0 |") == 3
    assert text.count("0.0 .. 0.0 , 0.0 .. 0.0 , 0.0 .. 0.0") == 8
