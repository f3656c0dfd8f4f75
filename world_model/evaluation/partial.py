"""Results scene by scene on disk, so that a killed evaluation goes on where it stopped and ends with identical sums.

They are filed under hashes of all that they depend on, so that results of other code or other weights are not reused.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from world_model.checkpoints.checkpoint import weights_hash
from world_model.core.files import DAMAGED_NPZ, write_npz
from world_model.worlds.protocol import World


class PartialResults:
    """Arrays by the name of a scene.

    Args:
        folder: where to keep them.
        resume: take over what an earlier run has left; otherwise everything is computed anew (and written).
        others: pattern of folders beside it that hold results which depend on something else.
    """

    def __init__(self, folder: Path, resume: bool = True, others: str = "*") -> None:
        self.folder, self.resume = folder, resume
        if resume and not folder.exists() and any(folder.parent.glob(others)) and parent_process() is None:
            place = f"{folder.parent} holds only results"
            print(f"{place} of other data, labels, models, settings or versions: computing anew")

    @classmethod
    def of(cls, folder: Path, settings: dict[str, Any], resume: bool = True) -> PartialResults:
        """Results in a folder of their own inside ``folder``, named by the hash of what determines them.

        Args:
            folder: of all results; those of other settings lie beside, untouched and unused.
            settings: JSON values: data, models, protocol, precision.
            resume: see above.
        """
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        return cls(folder / digest, resume)

    def load(self, name: str) -> dict[str, NDArray[Any]] | None:
        """What an earlier run has stored under a name, or None; a damaged file counts as not there."""
        return self.read(name) if self.resume else None

    def read(self, name: str) -> dict[str, NDArray[Any]] | None:
        """What this run or an earlier one has stored."""
        try:
            with open(self.folder / f"{name}.npz", "rb") as stream, np.load(stream, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        except DAMAGED_NPZ:
            return None

    def save(self, name: str, **arrays: NDArray[Any]) -> None:
        """Store arrays under a name, atomically.

        Raises:
            OutputError: the folder cannot be written.
        """
        write_npz(self.folder / f"{name}.npz", **arrays)


def fingerprint(world: World) -> str:
    """Hash of a world's code and of all weights in it."""
    # The name too: two worlds may live in one file.
    kind = type(world)
    digest = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__}".encode())
    source = inspect.getsourcefile(kind)
    digest.update(Path(source).read_bytes() if source else b"")
    traffic = getattr(world, "traffic", None)
    # Results of before traffic could be chosen keep their names.
    if traffic is not None and traffic != type(traffic)():
        digest.update(repr(traffic).encode())
    if (mode := getattr(world, "mode", None)) is not None:
        digest.update(str(mode).encode())
    for model in _models(world):
        digest.update(weights_hash(model.state_dict()).encode())
        digest.update(str(next((p.dtype for p in model.parameters()), "")).encode())
    return digest.hexdigest()[:16]


def code_hash(function: Callable[..., Any]) -> str:
    """Hash of the file that a function is written in; its name where there is no file."""
    path = inspect.getsourcefile(function)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12] if path else function.__qualname__


def _models(thing: object, depth: int = 2) -> list[nn.Module]:
    """The networks that a world or its members hold."""
    found: list[nn.Module] = []
    for _, value in sorted(getattr(thing, "__dict__", {}).items()):
        if isinstance(value, nn.Module):
            found.append(value)
        elif depth and isinstance(value, (list, tuple)):
            for member in value:
                found += [member] if isinstance(member, nn.Module) else _models(member, depth - 1)
    return found
