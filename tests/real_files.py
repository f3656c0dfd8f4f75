"""Real files that tests look at where they are there; they are never part of the project."""

from __future__ import annotations

import os
from pathlib import Path

REAL = Path(os.environ.get("IIWORLD_REAL_FILES", Path(__file__).parents[2] / "shared/real"))
"""Folder of occ3d/, infos/, openocc/, early/; tests that need one of them skip where it is not."""
