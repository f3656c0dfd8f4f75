"""Results scene by scene on disk, so that a killed evaluation goes on where it stopped and ends with identical sums."""

from __future__ import annotations

import hashlib
import json
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.files import DAMAGED_NPZ, write_npz


class PartialResults:
    """Arrays per scene, filed under everything that they depend on.

    Args:
        folder: where to keep them.
        settings: what determines the results (JSON values): data, models, protocol, precision. Results of other
            settings lie beside, untouched and unused.
        resume: read what is there; otherwise everything is computed anew (and written).
    """

    def __init__(self, folder: Path, settings: dict[str, Any], resume: bool = True) -> None:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        self.folder, self.resume = folder / digest, resume
        other = not self.folder.exists() and folder.is_dir() and any(folder.iterdir())
        if resume and other and parent_process() is None:
            print(f"{folder} holds only results of other data, labels, models, settings or versions: computing anew")

    def load(self, name: str) -> dict[str, NDArray[Any]] | None:
        """What was stored under a name, or None; a damaged file counts as not there."""
        path = self.folder / f"{name}.npz"
        if not self.resume or not path.exists():
            return None
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        except DAMAGED_NPZ:
            return None

    def save(self, name: str, **arrays: NDArray[Any]) -> None:
        """Store arrays under a name, atomically.

        Raises:
            OutputError: the folder cannot be written.
        """
        write_npz(self.folder / f"{name}.npz", **arrays)
