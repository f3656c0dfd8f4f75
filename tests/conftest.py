"""Data that several rooms' tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from street import write_street


@pytest.fixture(scope="session")
def street_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of hand-drawn scenes on the Occ3D grid."""
    return write_street(tmp_path_factory.mktemp("street"))
