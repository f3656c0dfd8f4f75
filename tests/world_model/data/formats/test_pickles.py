"""Pickles of other people: data come through, programs do not run."""

from __future__ import annotations

import collections
import contextlib
import importlib
import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from world_model.core.errors import DataError
from world_model.data.formats.pickles import load_object_array, load_pickle

# What numpy writes into pickles lies under another name in numpy 2.
MULTIARRAY: Any = importlib.import_module(f"numpy.{'core' if np.__version__.startswith('1.') else '_core'}.multiarray")


def sample() -> dict[str, Any]:
    """Everything that info files hold."""
    rng = np.random.default_rng(0)
    return {
        "infos": [
            {
                "token": "ab" * 16,
                "timestamp": 1_531_883_530_449_377,
                "rotation": [0.5, -0.5, 0.5, 0.5],
                "boxes": rng.normal(size=(3, 7)),
                "fortran": np.asfortranarray(rng.normal(size=(3, 4)).astype(np.float32)),
                "names": np.array(["car", "bus", "pedestrian"]),
                "objects": np.array(["car", None, {"a": 1}], dtype=object),
                "flag": np.array([True, False]),
                "empty": np.zeros((0, 7)),
                "scalar": np.float64(2.5),
                "point": np.array(3.0),
                "integer": np.int64(7),
                "big_endian": np.arange(3, dtype=">i4"),
                "bytes": b"\x00\xff",
                "set": {1, 2},
                "frozen": frozenset({3}),
                "complex": 1j,
                "none": None,
                "tuple": (1, 2.0, "x"),
                "ordered": collections.OrderedDict(a=1),
            }
        ],
        "metadata": {"version": "v1.0-trainval"},
    }


def same(mine: Any, theirs: Any) -> bool:
    if isinstance(theirs, np.ndarray):
        return (
            mine.dtype.newbyteorder("=") == theirs.dtype.newbyteorder("=")
            and mine.shape == theirs.shape
            and bool(np.all(mine == theirs))
        )
    if isinstance(theirs, dict):
        return list(mine) == list(theirs) and all(same(mine[k], theirs[k]) for k in theirs)
    if isinstance(theirs, (list, tuple)):
        return len(mine) == len(theirs) and all(map(same, mine, theirs))
    return type(mine) is type(theirs) and mine == theirs


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_data_come_through(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(sample(), protocol))
    assert same(load_pickle(tmp_path / "x.pkl"), sample())


def renamed(raw: bytes, old: bytes, new: bytes) -> bytes:
    """A pickle in which a module has another name, its counted strings and its frame as long as they should be."""
    changed = raw.replace(b"c" + old + b"\n", b"c" + new + b"\n")
    changed = changed.replace(b"\x8c" + bytes([len(old)]) + old, b"\x8c" + bytes([len(new)]) + new)
    if raw[1] >= 4:
        assert raw[2:3] == b"\x95"  # the length of the one frame follows
        changed = changed[:3] + struct.pack("<Q", len(changed) - 11) + changed[11:]
    return changed


@pytest.mark.parametrize("protocol", (2, 4, 5))
def test_files_of_numpy_1_and_2(tmp_path: Path, protocol: int) -> None:
    """numpy 2 renamed numpy.core to numpy._core; both names of one file give the same data."""
    raw = pickle.dumps(sample(), protocol)
    written = b"numpy._core" if b"numpy._core." in raw else b"numpy.core"
    seen = set()
    for core in (b"numpy.core", b"numpy._core"):
        changed = raw
        for module in (b".multiarray", b".numeric"):
            changed = renamed(changed, written + module, core + module)
        assert core + b"." in changed
        (tmp_path / "x.pkl").write_bytes(changed)
        assert same(load_pickle(tmp_path / "x.pkl"), sample())
        seen.add(changed)
    assert len(seen) == 2


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("factory", [list, dict, int, float, None])
def test_a_defaultdict_is_a_plain_dict(tmp_path: Path, factory: Any, protocol: int) -> None:
    made = collections.defaultdict(factory, {"a": [1], "b": np.arange(2)})
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"tracks": made}, protocol))
    read = load_pickle(tmp_path / "x.pkl")["tracks"]
    assert type(read) is dict and same(read, dict(made))
    with pytest.raises(KeyError):
        read["c"]


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def hostile(mark: Path) -> dict[str, bytes]:
    """Pickles that would create the file ``mark``."""
    touch = f"touch {mark}"
    code = f"open({str(mark)!r}, 'w').close()"
    raw = {
        "os.system": pickle.dumps(Calls(os.system, touch)),
        "eval": pickle.dumps(Calls(eval, code)),
        "exec": pickle.dumps({"infos": [Calls(exec, code)]}),
        "open": pickle.dumps(Calls(open, str(mark), "w")),
        "protocol 0": pickle.dumps(Calls(os.system, touch), 0),
        "in an object array": pickle.dumps(np.array([Calls(os.system, touch)], dtype=object)),
        "nested": pickle.dumps(Calls(getattr, Calls(__import__, "os"), "system")),
        "deep inside": pickle.dumps([{1: (Calls(eval, code),)}]),
        "inst": f"(S'{touch}'\nios\nsystem\n.".encode(),
        "obj": f"(cos\nsystem\nS'{touch}'\no.".encode(),
        "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + pickle.dumps(touch, 4)[2:-1] + b"\x85R.",
        "dotted": b"\x80\x04\x8c\x05numpy\x8c\x0aos.listdir\x93)R.",
        "newobj": b"\x80\x02csubprocess\nPopen\n" + pickle.dumps((["touch", str(mark)],), 2)[2:-1] + b"\x81.",
        "through numpy": b"\x80\x02cnumpy.testing._private.utils\nrunstring\n" + b"X\x01\x00\x00\x001}\x86R.",
        "npy loader": pickle.dumps(Calls(np.load, str(mark))),
        "persistent": b"Pmark\n.",
        "extension": b"\x80\x02\x82\x01.",
    }
    return raw


def test_nothing_hostile_runs(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for name, raw in hostile(mark).items():
        path = tmp_path / "x.pkl"
        path.write_bytes(raw)
        with pytest.raises(DataError) as caught:
            load_pickle(path)
        assert str(path) in str(caught.value) and caught.value.remedy, name
        assert not mark.exists(), name
    # The test itself must be able to fail: plain pickle does run them.
    pickle.loads(hostile(mark)["os.system"])
    assert mark.exists()


def array_with(state: Any, kind: str = "f8") -> bytes:
    """A pickle of an array with a state of one's own making."""

    class Forged:
        def __reduce__(self) -> Any:
            return MULTIARRAY._reconstruct, (np.ndarray, (0,), b"b"), state

    return pickle.dumps(Forged(), 2)


@pytest.mark.parametrize(
    "raw",
    [
        array_with((1, (10**12,), np.dtype("f8"), False, b"")),  # more than it holds
        array_with((1, (2,), np.dtype("f8"), False, b"\0" * 8)),
        array_with((1, (-1,), np.dtype("f8"), False, b"")),
        array_with((1, (1,), np.dtype("O"), False, b"\0" * 8)),  # a pointer of one's own choice
        array_with((1, (1,), np.dtype([("a", "O")]), False, [(1,)])),
        array_with("x"),
        pickle.dumps(Calls(np.ndarray, (10**9,)), 2),
        pickle.dumps(Calls(MULTIARRAY._reconstruct, np.ndarray, (10**9,), b"b"), 2),
        pickle.dumps(Calls(MULTIARRAY._reconstruct, dict, (0,), b"b"), 2),
        pickle.dumps(Calls(MULTIARRAY.scalar, np.dtype("O"), b"12345678"), 2),
        pickle.dumps(Calls(MULTIARRAY.scalar, np.dtype("f8"), b"1234"), 2),
        pickle.dumps(Calls(np.dtype, "O8,O8", False, True), 2),
        pickle.dumps(Calls(bytearray, 10**9), 2),
        b"\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb.",  # attributes for a name
        b"\x80\x02cnumpy\ndtype\nN}X\x05\x00\x00\x00_callK\x01s\x86b.",  # the same, as the state of slots
        b"\x80\x02cbuiltins\nlist\n)R.",  # a factory is only mentioned
        pickle.dumps(Calls(collections.defaultdict, print), 2),
        pickle.dumps(Calls(collections.defaultdict, list, {1: 2}), 2),
        pickle.dumps(Calls(collections.defaultdict, np.dtype), 2),
    ],
)
def test_forged_arrays_are_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "x.pkl").write_bytes(raw)
    with pytest.raises(DataError):
        load_pickle(tmp_path / "x.pkl")


def test_truncated_and_flipped(tmp_path: Path) -> None:
    whole, path = pickle.dumps(sample(), 4), tmp_path / "x.pkl"
    for length in range(0, len(whole), 5):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            load_pickle(path)
    rng = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 2):
            damaged[place] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        with contextlib.suppress(DataError):
            load_pickle(path)
    with pytest.raises(DataError, match="does not exist"):
        load_pickle(tmp_path / "nowhere.pkl")


def test_object_arrays_of_an_npz(tmp_path: Path) -> None:
    boxes = np.empty(2, dtype=object)
    boxes[:] = [{"token": "a", "agent_to_ego": np.eye(4)}, {"token": "b", "agent_to_ego": np.eye(4)}]
    buffer = io.BytesIO()
    np.save(buffer, boxes)
    buffer.seek(0)
    read = load_object_array(buffer, "annotations")
    assert [b["token"] for b in read] == ["a", "b"] and (read[1]["agent_to_ego"] == np.eye(4)).all()
    mark = tmp_path / "mark"
    boxes[0] = Calls(os.system, f"touch {mark}")
    buffer = io.BytesIO()
    np.save(buffer, boxes)
    buffer.seek(0)
    with pytest.raises(DataError, match="nothing in it was run"):
        load_object_array(buffer, "annotations")
    assert not mark.exists()
    plain = io.BytesIO()
    np.save(plain, np.zeros(2))
    plain.seek(0)
    with pytest.raises(DataError, match="array of float64"):
        load_object_array(plain, "annotations")
