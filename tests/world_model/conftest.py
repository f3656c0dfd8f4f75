"""Fixtures of tiny data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_scenes import write_scenes

WriteScenes = Callable[..., Path]


@pytest.fixture
def scenes_root(tmp_path: Path) -> Path:
    """A folder of two scenes (12 train frames, 9 val frames) on a 40 x 40 x 16 grid."""
    return write_scenes(tmp_path / "data")


@pytest.fixture
def make_scenes(tmp_path: Path) -> WriteScenes:
    """`write_scenes` into a new folder, for other sizes."""
    return lambda **options: write_scenes(tmp_path / "data", **options)
