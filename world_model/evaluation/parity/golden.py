"""Golden files: npz archives, read whole and without unpickling, that know which arrays were looked at."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.errors import DataError


class GoldenFile:
    """One npz archive of reference numbers.

    Args:
        path: the archive.

    Attributes:
        path: where it came from.
        used: the keys that were asked for.

    Raises:
        DataError: missing or damaged, or holding anything but plain numbers.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.used = path, set[str]()
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                self._arrays: dict[str, NDArray[Any]] = {key: archive[key] for key in archive.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, AttributeError) as error:
            raise DataError(
                f"{path} cannot be read ({type(error).__name__}: {error})",
                "an npz archive of numbers",
                "copy the folder again",
            ) from error

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def keys(self) -> list[str]:
        """All keys, in the order of the archive."""
        return list(self._arrays)

    def unused(self) -> list[str]:
        """Keys that nobody has asked for."""
        return [key for key in self._arrays if key not in self.used]

    def array(self, key: str) -> NDArray[Any]:
        """One array.

        Raises:
            DataError: there is none of this name.
        """
        if key not in self._arrays:
            raise DataError(
                f"{self.path} holds no {key!r}", f"keys such as {self.keys()[:5]}", "give a folder of the golden layout"
            )
        self.used.add(key)
        return self._arrays[key]

    def tensor(self, key: str) -> Tensor:
        """One array as a tensor."""
        return torch.from_numpy(np.array(self.array(key)))

    def optional(self, key: str) -> Tensor | None:
        """One array as a tensor, or None if there is none of this name."""
        return self.tensor(key) if key in self else None

    def weights(self) -> dict[str, Tensor]:
        """All arrays as a state dict."""
        return {key: self.tensor(key) for key in self.keys()}

    def changed(self, key: str, value: NDArray[Any]) -> GoldenFile:
        """The same file with another value of one array; what is asked for there counts here too."""
        other = object.__new__(GoldenFile)
        other.path, other.used, other._arrays = self.path, self.used, {**self._arrays, key: value}
        return other
