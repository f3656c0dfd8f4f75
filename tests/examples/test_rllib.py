"""RLlib's example with two sampling workers: an update, a checkpoint, and a second run that goes on from it.

RLlib needs numpy 2 and an environment of its own beside nuscenes-devkit; without it these tests are skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_workers_train_and_go_on(tmp_path: Path) -> None:
    pytest.importorskip("ray.rllib", reason="the extra ray is not installed")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    for done in (1, 2):
        line = [sys.executable, "examples/train_rllib.py", "--workers", "2", "--envs", "2", "--steps", "32"]
        subprocess.run(
            [*line, "--iterations", str(done), "--out", str(tmp_path)],
            cwd=ROOT,
            env=environment,
            check=True,
            timeout=1200,
        )
        rows = np.atleast_1d(np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True))
        assert rows["iteration"].tolist() == list(range(1, done + 1))
    assert rows["steps"][1] > rows["steps"][0] >= 32
