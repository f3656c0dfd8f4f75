"""The token cache: token maps of every frame of a data set, one memory-mapped file per scene.

A scene's file appears whole or not at all, so any number of processes on any number of machines can fill one cache, and
a killed run continues with the scenes that are missing. Caches of version 0.1 (one file for all scenes) can be read.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import DataError, OutputError
from world_model.core.files import NPY_HEADER, atomic_write, cause_of, remedy_for, write_json
from world_model.data.index import SceneIndex

META, SCENES = "meta.json", "scenes"
FLAT, FLAT_DONE = "tokens.npy", "done.json"
LARGEST = float(np.finfo(np.float16).max)
MOST_OPEN = 64
"""Scenes whose files are mapped at once: each holds an open file, of which macOS allows 256 to a process."""


class TokenCache:
    """Tokens on disk, float16.

    Attributes:
        folder: of the cache.
        meta: index fingerprint, digest of the label files, tokenizer hash, shape [frames, C, Xl, Yl].
        starts: (S + 1,) first frame of each scene of the index.
    """

    def __init__(self, folder: Path, meta: dict[str, Any], index: SceneIndex) -> None:
        self.folder, self.meta, self.starts = folder, meta, np.asarray(index.scene_start)
        self._maps: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()
        self._flat = _open(folder / FLAT, tuple(meta["shape"])) if (folder / FLAT).exists() else None

    @property
    def done(self) -> set[int]:
        """Numbers of the scenes that are complete."""
        if self._flat is not None:
            return {int(scene) for scene in _read_json(self.folder / FLAT_DONE, list)}
        return {int(path.stem) for path in (self.folder / SCENES).glob("*.npy") if path.stem.isdigit()}

    @classmethod
    def create(cls, folder: Path, index: SceneIndex, tokenizer_hash: str, shape: tuple[int, int, int]) -> TokenCache:
        """Open a cache for writing; an interrupted one is continued.

        Raises:
            DataError: the folder holds tokens of other data or another tokenizer.
            OutputError: the folder cannot be written.
        """
        meta = {
            "data": index.fingerprint,
            "labels": index.labels_digest,
            "tokenizer": tokenizer_hash,
            "shape": [len(index.token), *shape],
        }
        if (folder / META).exists():
            found = _read_json(folder / META, dict)
            if "labels" not in found and found == {name: meta[name] for name in found}:
                _forget(folder, meta)
            elif found != meta:
                raise DataError(f"{folder} holds tokens of {found}", str(meta), "choose another --out or delete it")
        else:
            try:
                (folder / SCENES).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                found_error = f"could not create {folder / SCENES}: {error.strerror or error}"
                raise OutputError(found_error, "a writable folder", "choose another --out") from error
            write_json(folder / META, meta)
        return cls(folder, meta, index)

    @classmethod
    def load(cls, folder: str | Path, index: SceneIndex, split: str, tokenizer_hash: str | None = None) -> TokenCache:
        """Open a complete cache for reading; type, shape and length of every file of the split are checked.

        Raises:
            DataError: it is missing, damaged, of other data or another tokenizer, or scenes of the split are missing.
        """
        folder, remedy = Path(folder), "run `python -m world_model.encode_tokens` with this index and tokenizer"
        meta = _read_json(folder / META, dict)
        shape = meta.get("shape")
        if not (isinstance(shape, list) and len(shape) == 4 and all(isinstance(n, int) and n > 0 for n in shape)):
            raise DataError(f"{folder / META} says shape {shape}", "[frames, C, Xl, Yl]", remedy)
        if meta.get("data") != index.fingerprint:
            raise DataError(f"{folder} belongs to data {meta.get('data')}", index.fingerprint, remedy)
        if meta.get("labels", index.labels_digest) != index.labels_digest:
            found = f"{folder} was made from other label files ({meta['labels']})"
            raise DataError(found, f"those of this index ({index.labels_digest})", remedy)
        if "labels" not in meta:
            print(f"NOTE: {folder} does not say from which label files it was made; encode again if they have changed")
        if tokenizer_hash is not None and meta.get("tokenizer") != tokenizer_hash:
            raise DataError(f"{folder} was made by tokenizer {meta.get('tokenizer')}", tokenizer_hash, remedy)
        if shape[0] != len(index.token):
            raise DataError(f"{folder / META} says {shape[0]} frames", f"{len(index.token)}", remedy)
        cache = cls(folder, meta, index)
        missing = sorted(set(index.scenes(split)) - cache.done)
        if missing:
            raise DataError(f"{folder} lacks {len(missing)} scenes of split {split!r}", "all of them", remedy)
        for scene in index.scenes(split):
            cache._scene(scene)
        return cache

    def write(self, scene: int, tokens: NDArray[Any]) -> None:
        """Store the tokens (n, C, Xl, Yl) of all frames of a scene, atomically.

        Raises:
            DataError: the shape is wrong, or values are not finite or too large for float16.
            OutputError: the file cannot be written.
        """
        if self._flat is not None:
            raise DataError(
                f"{self.folder} was written by version 0.1", "a cache of this version", "choose another --out"
            )
        expected = self._shape(scene)
        if tokens.shape != expected:
            raise DataError(f"tokens of scene {scene} are {tokens.shape}", str(expected), "")
        highest = float(np.abs(tokens).max(initial=0.0))
        if not highest <= LARGEST:
            raise DataError(
                f"tokens of scene {scene} reach {highest}", f"finite values up to {LARGEST:.0f}",
                "the tokenizer has diverged: train it again, or evaluate it first",
            )  # fmt: skip
        with atomic_write(self._path(scene)) as stream:
            np.save(stream, tokens.astype(np.float16), allow_pickle=False)

    def rows(self, first: int, last: int) -> NDArray[Any]:
        """Tokens (n, C, Xl, Yl) float16 of the frames first..last-1, which lie in one scene; a view of the file."""
        if self._flat is not None:
            return self._flat[first:last]
        scene = int(np.searchsorted(self.starts, first, side="right")) - 1
        begin = int(self.starts[scene])
        return self._scene(scene)[first - begin : last - begin]

    def _scene(self, scene: int) -> NDArray[Any]:
        if self._flat is not None:
            return self._flat[self.starts[scene] : self.starts[scene + 1]]
        with self._lock:
            if scene not in self._maps:
                while len(self._maps) >= MOST_OPEN:
                    self._maps.popitem(last=False)
                self._maps[scene] = _open(self._path(scene), self._shape(scene))
            self._maps.move_to_end(scene)
            return self._maps[scene]

    def _shape(self, scene: int) -> tuple[int, ...]:
        return (int(self.starts[scene + 1] - self.starts[scene]), *self.meta["shape"][1:])

    def _path(self, scene: int) -> Path:
        return self.folder / SCENES / f"{scene:06d}.npy"


def _forget(folder: Path, meta: dict[str, Any]) -> None:
    """Begin a cache anew that does not say from which labels it was made."""
    print(f"{folder} was made by an earlier version, which did not note the label files: encoding anew", flush=True)
    for path in (folder / SCENES).glob("*.npy"):
        path.unlink()
    write_json(folder / META, meta)


def _open(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    remedy = "delete it and run `python -m world_model.encode_tokens` again"
    try:
        with NPY_HEADER:
            tokens: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        found = f"{path} cannot be read ({cause_of(path, error)})"
        raise DataError(found, f"float16 tokens {shape}", remedy_for(error, remedy)) from error
    if tokens.dtype != np.float16 or tokens.shape != shape:
        raise DataError(f"{path} is {tokens.dtype} {tokens.shape}", f"float16 {shape}", remedy)
    return tokens


def _read_json(path: Path, kind: type) -> Any:
    remedy = "run `python -m world_model.encode_tokens`"
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"no readable token cache in {path.parent} ({error})", f"{path.name}", remedy) from error
    if not isinstance(value, kind):
        raise DataError(f"{path} holds a {type(value).__name__}", f"a {kind.__name__}", remedy)
    return value
