"""Where the time of training goes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from agents.bench import PARTS, Bench, Stopwatch, bench
from world_model.core.errors import OptionError


def test_both_arms_are_timed_in_one_run(small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = {"batches": (2,), "steps": 4, "split": "val", "rollouts": 1, "minibatch": 4, "epochs": 1, "horizon": 2}
    rows = bench(Bench(world="small_worlds:Transport", index=small_data, device="cpu", out=tmp_path / "b.json", **size))
    assert [(row["batch"], row["arm"]) for row in rows] == [(n, a) for n in (2,) for a in ("baseline", "candidate")]
    for row in rows:
        assert sum(row["share"][part] for part in PARTS) == pytest.approx(1.0, abs=1e-6)
        assert all(row["share"][part] > 0 for part in PARTS) and row["ratio"] > 0
    assert json.loads((tmp_path / "b.json").read_text())["rows"] == rows
    assert "x baseline" in capsys.readouterr().out


def test_a_part_inside_another_counts_for_itself() -> None:
    class Work:
        def inner(self) -> None:
            end = time.process_time() + 0.02
            while time.process_time() < end:
                pass

        def outer(self) -> None:
            self.inner()

    work, watch = Work(), Stopwatch()
    watch.watch(work, "inner", "reward")
    watch.watch(work, "outer", "reset")
    work.outer()
    assert watch.seconds["reward"] > 5 * watch.seconds["reset"]


def test_numbers_that_cannot_be_measured_are_refused() -> None:
    for options in ({"batches": ()}, {"batches": (0,)}, {"steps": 0}):
        with pytest.raises(OptionError):
            Bench(**options)  # type: ignore[arg-type]  # wrong on purpose, or by name
