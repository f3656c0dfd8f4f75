"""Read pickles from other people without running anything in them.

A pickle is a program: its author chooses what is imported and called when it is read. The reader here knows builtin
containers and numbers, `collections.OrderedDict` and `defaultdict`, numpy arrays, scalars and dtypes (written by numpy
1 and 2 alike), and nothing else. The functions that numpy would call while unpickling are replaced by functions below
that take only what numpy writes. So even the admitted names cannot be used for anything but data.
"""

from __future__ import annotations

import collections
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import DataError
from world_model.core.files import NPY_HEADER

_DTYPE = re.compile(r"[<>|=]?[?bBhHiIlLqQefdgFDGSUaVOMm?biufcSUmM]\d{0,6}(\[[A-Za-z0-9]{1,6}\])?")
_REMEDY = "take the file from its publisher again; never load it with pickle.load"


class _Refused(pickle.UnpicklingError):
    """The pickle asks for something that is not data."""


class _Name:
    """An importable name that a pickle may mention but not call. It has no attributes, so a pickle cannot change it."""

    __slots__ = ()


class _Function:
    """A function that a pickle may call. Unlike a plain function it refuses new attributes."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __setattr__(self, name: str, value: object) -> None:
        raise _Refused(f"it sets {name} of a function")

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)


class _Dtype:
    """A dtype in the making: its type, then (by ``__setstate__``) its byte order."""

    __slots__ = ("value",)

    def __init__(self, value: np.dtype[Any]) -> None:
        self.value = value

    def __setstate__(self, state: object) -> None:
        # (version, byte order, subdtype, names, fields, size, alignment, flags[, metadata]); plain types only.
        if not isinstance(state, tuple) or len(state) < 8 or state[1] not in ("<", ">", "|", "="):
            raise _Refused(f"a numpy dtype with the state {str(state)[:60]}")
        if any(part is not None for part in state[2:5]):
            raise _Refused("a structured numpy dtype")
        self.value = self.value.newbyteorder(state[1])


class _Array(NDArray[Any]):
    """An array whose contents come in ``__setstate__`` and are checked there."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _Refused("a numpy array with a state of another kind")
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or not _is_shape(shape):
            raise _Refused(f"a numpy array of shape {str(shape)[:60]}")
        kind, count = dtype.value, math.prod(shape)
        whole = isinstance(raw, list) and len(raw) == count if kind.hasobject else _holds(raw, count * kind.itemsize)
        if not whole:
            raise _Refused(f"a numpy array of shape {shape} whose contents have another size")
        super().__setstate__((1, shape, kind, bool(fortran), raw))


def _is_shape(value: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(value, tuple) and len(value) <= 8 and all(type(n) is int and n >= 0 for n in value)


def _holds(raw: object, size: int) -> TypeGuard[bytes]:
    return isinstance(raw, (bytes, bytearray)) and len(raw) == size


_NDARRAY = _Name()
"""numpy.ndarray, where a pickle only mentions it."""


def _array(kind: object, shape: object, typecode: object) -> NDArray[Any]:
    if kind is not _NDARRAY or shape != (0,) or typecode not in (b"b", "b"):
        raise _Refused("a numpy array made in an unusual way")
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _dtype(text: object, align: object = False, copy: object = True) -> _Dtype:
    if not isinstance(text, str) or not _DTYPE.fullmatch(text):
        raise _Refused(f"the numpy dtype {str(text)[:60]!r}")
    return _Dtype(np.dtype(text))


def _scalar(dtype: object, raw: object = b"") -> Any:
    if not isinstance(dtype, _Dtype) or dtype.value.hasobject or not _holds(raw, dtype.value.itemsize):
        raise _Refused("a numpy scalar of another size or kind")
    return np.frombuffer(raw, dtype.value, 1)[0]


def _from_buffer(raw: object, dtype: object, shape: object, order: object = "C", axes: object = None) -> NDArray[Any]:
    """Arrays as pickle protocol 5 writes them."""
    if not isinstance(dtype, _Dtype) or dtype.value.hasobject or not _is_shape(shape) or order not in ("C", "F"):
        raise _Refused("a numpy array made in an unusual way")
    if axes is not None or not _holds(raw, math.prod(shape) * dtype.value.itemsize):
        raise _Refused(f"a numpy array of shape {shape} whose contents have another size")
    return np.frombuffer(raw, dtype.value).reshape(shape, order="C" if order == "C" else "F").copy()


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """How protocols below 3 write bytes: as text and the name of an encoding."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused("bytes in an unusual encoding")
    return text.encode("latin1")


def _builtin(kind: Callable[..., Any]) -> _Function:
    """A container or number that is harmless to make: called only with finite builtin data."""

    def make(*arguments: Any) -> Any:
        if len(arguments) > 2 or not all(isinstance(a, (list, tuple, dict, str, bytes, float, int)) for a in arguments):
            raise _Refused(f"{kind} of unusual contents")
        if kind in (bytes, bytearray) and any(isinstance(a, int) for a in arguments):
            raise _Refused("a buffer of a given size")
        return kind(*arguments)

    return _Function(make)


_FACTORIES = {name: _Name() for name in ("list", "dict", "int", "long", "float")}
"""What a defaultdict may be made with, each only mentioned, never called; long is Python 2's int."""


def _default_dict(factory: object = None, *arguments: object) -> dict[Any, Any]:
    """A defaultdict is read as a plain dict: a missing key stays an error instead of making an entry."""
    if arguments or not (factory is None or any(factory is known for known in _FACTORIES.values())):
        raise _Refused("a defaultdict with an unusual factory")
    return {}


_BUILTINS: tuple[type, ...] = (set, frozenset, complex, bytes, bytearray)
_NUMPY = {
    ("multiarray", "_reconstruct"): _Function(_array),
    ("multiarray", "scalar"): _Function(_scalar),
    ("numeric", "_frombuffer"): _Function(_from_buffer),
}
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Function(_dtype),
    # numpy 2 renamed numpy.core to numpy._core; files of both are in use.
    **{(f"numpy.{core}.{file}", name): call for core in ("core", "_core") for (file, name), call in _NUMPY.items()},
    ("_codecs", "encode"): _Function(_encode),
    ("collections", "OrderedDict"): _builtin(collections.OrderedDict),
    ("collections", "defaultdict"): _Function(_default_dict),
    # Python 2 called builtins __builtin__.
    **{(module, kind.__name__): _builtin(kind) for module in ("builtins", "__builtin__") for kind in _BUILTINS},
    **{(module, name): token for module in ("builtins", "__builtin__") for name, token in _FACTORIES.items()},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise _Refused(f"it asks for {module}.{name}") from None

    def persistent_load(self, pid: object) -> Any:
        raise _Refused("it refers to things outside itself")


def load_pickle(path: str | Path) -> Any:
    """The data in a pickle file; arrays are numpy arrays.

    Raises:
        DataError: the file is missing or damaged, or it asks for anything but builtin data and numpy arrays; nothing
            in it has been run.
    """
    try:
        with open(path, "rb") as stream:
            return read_pickle(stream, str(path))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", "a pickle file", "check the path") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error})", "a pickle file", "check the path") from error


def read_pickle(stream: IO[bytes], name: str) -> Any:
    """The next pickle of an open stream; see `load_pickle`.

    Args:
        stream: open for reading.
        name: what to call it in messages.

    Raises:
        DataError: as `load_pickle`.
    """
    try:
        return _Unpickler(stream).load()
    except _Refused as error:
        found = f"{name} holds more than data ({error}); nothing in it was run"
        raise DataError(found, "builtin types and numpy arrays", _REMEDY) from error
    except OSError:
        raise
    # A damaged pickle can make the reader raise nearly anything; all of it means the same.
    except Exception as error:
        found = f"{name} cannot be read ({type(error).__name__}: {error})"
        raise DataError(found, "an intact pickle", _REMEDY) from error


def load_object_array(stream: IO[bytes], name: str) -> Any:
    """An ``.npy`` member of an npz that holds pickled objects, through the restricted reader.

    Raises:
        DataError: as `load_pickle`.
    """
    header: Any = np.lib.format  # numpy 1 has no types for it
    try:
        version = header.read_magic(stream)
        with NPY_HEADER:
            read = header.read_array_header_1_0 if version == (1, 0) else header.read_array_header_2_0
            dtype = read(stream)[2]
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise DataError(f"{name} cannot be read ({error})", "an array of objects", _REMEDY) from error
    if not dtype.hasobject:
        raise DataError(f"{name} is an array of {dtype}", "an array of objects", _REMEDY)
    return read_pickle(stream, name)
