"""Golden files: npz archives, read whole and without unpickling, that know which of their arrays were read."""

from __future__ import annotations

import re
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

    Raises:
        DataError: missing or damaged, or holding anything but plain numbers.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._used = path, set[str]()
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

    def matches(self, pattern: str) -> dict[str, re.Match[str]]:
        """The keys that begin with a pattern, in the order of the archive, with what matched."""
        return {key: match for key in self._arrays if (match := re.match(pattern, key))}

    def numbers(self, pattern: str) -> list[str]:
        """The different values of a pattern's first group, in the order of the archive."""
        return list(dict.fromkeys(match[1] for match in self.matches(pattern).values()))

    def unused(self) -> list[str]:
        """Keys of the arrays that were not read."""
        return [key for key in self._arrays if key not in self._used]

    def array(self, key: str) -> NDArray[Any]:
        """One array.

        Raises:
            DataError: there is none of this name.
        """
        if key not in self._arrays:
            known = list(self._arrays)[:5]
            raise DataError(
                f"{self.path} holds no {key!r}", f"keys such as {known}", "give a folder of the golden layout"
            )
        self._used.add(key)
        return self._arrays[key]

    def tensor(self, key: str) -> Tensor:
        """One array as a tensor."""
        return torch.from_numpy(np.array(self.array(key)))

    def optional(self, key: str) -> Tensor | None:
        """One array as a tensor, or None if there is none of this name."""
        return self.tensor(key) if key in self else None

    def strings(self, key: str) -> list[str]:
        """One array of text."""
        return [str(value) for value in self.array(key)]

    def weights(self) -> dict[str, Tensor]:
        """All arrays as a state dict."""
        return {key: self.tensor(key) for key in self._arrays}
