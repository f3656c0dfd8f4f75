"""Atomic writes, so that a result is complete or absent; and safe reading of arrays."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import struct
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import IIWorldError, OutputError

NPY_HEADER = threading.Lock()
"""Held while numpy reads the header of an array, which is a Python literal. Python 3.11 mixes up the depths of syntax
trees that several threads build at once ("AST constructor recursion depth mismatch")."""
DAMAGED_NPZ = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    OverflowError,
    SyntaxError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
"""What numpy and zipfile raise for a damaged npz file."""


_READ_ARRAY: Callable[..., Any] = np.lib.format.read_array
"""Typed here, because numpy 1 has no types for it."""


def read_npy(stream: IO[bytes]) -> NDArray[Any]:
    """The array (no pickled objects) in an open ``.npy`` stream; several threads may read at once.

    Raises:
        one of `DAMAGED_NPZ`: the stream is damaged, or the array holds objects.
    """
    with NPY_HEADER:
        array: NDArray[Any] = _READ_ARRAY(stream, allow_pickle=False)
    return array


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` for binary writing and rename it over ``path`` on success.

    An earlier file at ``path`` stays untouched until the new one is complete and flushed to disk.

    Raises:
        OutputError: the folder cannot be created or written, or the disk is full.
    """
    path = Path(path)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        # mkstemp makes files private to the user; results are meant to be shared like any other file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise _unwritable(path, error) from error
    except Exception as error:
        # Writers of other libraries turn a full disk into errors of their own.
        if isinstance(error, IIWorldError) or temporary is None or (full := _full(temporary)) is None:
            raise
        raise _unwritable(path, full) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"could not write {path}: {error.strerror or error}",
        "a writable folder with free space",
        "free space, choose another output folder, or fix its permissions; earlier files are untouched",
    )


def _full(path: str | Path) -> OSError | None:
    """What the system says to a little more text in a file; None if it takes it."""
    try:
        with open(path, "ab") as stream:
            stream.write(bytes(PROBE_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return error
    return None


PROBE_BYTES = 65536


def check_writable(folder: str | Path) -> None:
    """Find out, before hours of work, that results cannot be written. A folder that is not there is not made.

    Raises:
        OutputError: the folder, or the one that it would be made in, takes no file of 64 KiB.
    """
    folder = Path(folder)
    place = next((p for p in (folder, *folder.absolute().parents) if p.exists()), folder)
    try:
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
        handle, probe = tempfile.mkstemp(dir=place, prefix=".iiworld.", suffix=".tmp")
        os.close(handle)
        error = _full(probe)
        os.unlink(probe)
        if error is not None:
            raise error
    except OSError as error:
        raise _unwritable(folder, error) from error


LFS_POINTER = b"version https://git-lfs.github.com/spec/"
NOT_DAMAGED = (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOMEM)
"""Errors of opening a file that say nothing about what is in it."""


def cause_of(path: str | Path, error: Exception) -> str:
    """Why a file cannot be read, for messages: Git LFS leaves small text files in place of what it has not fetched."""
    with contextlib.suppress(OSError), open(path, "rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            return "it is a Git LFS pointer, not the file itself: `git lfs pull` fetches that"
    return str(error)


def remedy_for(error: Exception, damaged: str) -> str:
    """What to do about a file that cannot be read: ``damaged`` unless the error speaks for an intact file."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE):
        return "the file may be intact: allow more open files (ulimit -n 1024), or use fewer processes"
    return "make the file readable; it may be intact" if number in NOT_DAMAGED else damaged


FILES_READ = 48
"""Files whose bytes count in `digest_of_files`; all, where there are no more."""


def digest_of_files(root: Path, paths: Sequence[str]) -> str:
    """Short hash of many files, cheap where they are tens of thousands: every path and size, and the bytes of some.

    Args:
        root: folder that the paths are relative to.
        paths: files; empty ones are passed over, and missing ones count as such.
    """
    digest, there = hashlib.sha256(), list[Path]()
    for path in filter(None, paths):
        file = root / path
        try:
            size = os.stat(file).st_size
            there.append(file)
        except OSError:
            size = -1
        digest.update(f"{path} {size}\n".encode())
    chosen = sorted({n * (len(there) - 1) // max(FILES_READ - 1, 1) for n in range(FILES_READ)}) if there else []
    for file in there if len(there) <= FILES_READ else [there[n] for n in chosen]:
        with contextlib.suppress(OSError):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_write(path) as stream:
        stream.write((json.dumps(value, indent=1) + "\n").encode())


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text, atomically."""
    with atomic_write(path) as stream:
        stream.write(text.encode())


def write_npz(path: str | Path, **arrays: NDArray[Any]) -> None:
    """Write a compressed npz, atomically."""
    with atomic_write(path) as stream:
        np.savez_compressed(stream, **arrays)
