"""Files of a user's that have the name of a package of this project."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """A script in a folder, whose files come first on the search path; this project is installed behind them."""
    (folder / "script.py").write_text(code)
    return subprocess.run(
        [sys.executable, str(folder / "script.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


IMPORT = "import sys, ii_world_env; assert not {'torch', 'world_model', 'agents'} & set(sys.modules)"


@pytest.mark.parametrize("file", ["world_model.py", "world_model/__init__.py"])
def test_a_hidden_package_that_is_needed_is_an_error_in_one_line(tmp_path: Path, file: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.touch()
    done = run(tmp_path, IMPORT)
    assert done.returncode == 1
    assert str(path) in done.stderr.splitlines()[-1] and "rename it" in done.stderr.splitlines()[-1]


def test_a_hidden_package_that_is_not_needed_is_said(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").touch()
    done = run(tmp_path, IMPORT)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert "hides the package 'agents'" in line and str(tmp_path / "agents") in line


def test_nothing_is_said_where_nothing_is_hidden(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()  # without an __init__.py a folder hides nothing
    done = run(tmp_path, IMPORT)
    assert done.returncode == 0 and not done.stderr, done.stderr
