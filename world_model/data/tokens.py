"""The token cache: token maps of every frame of a data set, memory-mapped, filled scene by scene."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from world_model.data.index import SceneIndex
from world_model.errors import DataError, OutputError
from world_model.files import write_json

META, TOKENS, DONE = "meta.json", "tokens.npy", "done.json"


@dataclass(frozen=True, kw_only=True)
class TokenCache:
    """Tokens on disk.

    Attributes:
        folder: where it lies.
        tokens: (F, C, Xl, Yl) float16 memory map, one row per frame of the index.
        done: numbers of the scenes that are complete.
        meta: index fingerprint, tokenizer weights hash, shape.
    """

    folder: Path
    tokens: np.memmap[Any, np.dtype[np.float16]]
    done: set[int]
    meta: dict[str, Any]

    @classmethod
    def create(cls, folder: Path, index: SceneIndex, tokenizer_hash: str, shape: tuple[int, int, int]) -> TokenCache:
        """Open a cache for writing; take up an interrupted one.

        Raises:
            DataError: the folder holds tokens of other data or another tokenizer.
            OutputError: the folder or the file cannot be written.
        """
        meta = {"data": index.fingerprint, "tokenizer": tokenizer_hash, "shape": [len(index.token), *shape]}
        if (folder / META).exists():
            cache = cls._open(folder, "r+")
            if cache.meta != meta:
                raise DataError(
                    f"{folder} holds tokens of {cache.meta}", str(meta), "choose another --out or delete it"
                )
            return cache
        try:
            folder.mkdir(parents=True, exist_ok=True)
            np.lib.format.open_memmap(folder / TOKENS, mode="w+", dtype=np.float16, shape=tuple(meta["shape"])).flush()
        except OSError as error:
            raise OutputError(
                f"could not create {folder / TOKENS}: {error.strerror or error}",
                f"a writable folder with {len(index.token) * math.prod(shape) * 2 / 1e9:.1f} GB of free space",
                "choose another --out",
            ) from error
        write_json(folder / DONE, [])
        # The meta file comes last: a cache without it was never whole and is made again.
        write_json(folder / META, meta)
        return cls._open(folder, "r+")

    @classmethod
    def _open(cls, folder: Path, mode: Literal["r", "r+"]) -> TokenCache:
        remedy = "run `python -m world_model.encode_tokens`"
        try:
            meta = json.loads((folder / META).read_text())
            done = set(json.loads((folder / DONE).read_text()))
            tokens = np.load(folder / TOKENS, mmap_mode=mode, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(
                f"no readable token cache in {folder} ({error})", f"{META}, {DONE}, {TOKENS}", remedy
            ) from error
        if tokens.dtype != np.float16 or list(tokens.shape) != meta["shape"]:
            raise DataError(f"{folder / TOKENS} is {tokens.dtype} {tokens.shape}", f"float16 {meta['shape']}", remedy)
        return cls(folder=folder, tokens=tokens, done=done, meta=meta)

    @classmethod
    def load(cls, folder: str | Path, index: SceneIndex, split: str, tokenizer_hash: str | None = None) -> TokenCache:
        """Open a complete cache for reading.

        Raises:
            DataError: it is missing, of other data or another tokenizer, or scenes of the split are missing.
        """
        cache = cls._open(Path(folder), "r")
        remedy = "run `python -m world_model.encode_tokens` with this index and tokenizer"
        if cache.meta["data"] != index.fingerprint:
            raise DataError(f"{folder} belongs to data {cache.meta['data']}", index.fingerprint, remedy)
        if tokenizer_hash is not None and cache.meta["tokenizer"] != tokenizer_hash:
            raise DataError(f"{folder} was made by tokenizer {cache.meta['tokenizer']}", tokenizer_hash, remedy)
        missing = [s for s in index.scenes(split) if s not in cache.done]
        if missing:
            raise DataError(f"{folder} lacks {len(missing)} scenes of split {split!r}", "all of them", remedy)
        return cache

    def finish(self, scene: int) -> None:
        """Mark a scene as complete, after its rows were written."""
        self.tokens.flush()
        self.done.add(scene)
        write_json(self.folder / DONE, sorted(self.done))
