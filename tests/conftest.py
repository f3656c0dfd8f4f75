"""Data that several rooms' tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_worlds import TINY
from street import SMALL, write_street


@pytest.fixture(scope="session")
def street_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of hand-drawn scenes on the Occ3D grid."""
    return write_street(tmp_path_factory.mktemp("street"))


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on a grid of 40 m, for the worlds of `small_worlds`."""
    return write_street(tmp_path_factory.mktemp("small"), grid=SMALL)


@pytest.fixture(scope="session")
def clear_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with nothing in the way."""
    return write_street(tmp_path_factory.mktemp("clear"), scenes=1, grid=SMALL)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on a grid of 16 m, for the learned world of `small_worlds`."""
    return write_street(tmp_path_factory.mktemp("tiny"), scenes=1, speed_mps=2.0, grid=TINY)
