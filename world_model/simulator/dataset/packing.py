"""Labels as the bytes of an npz file: compressed fast, without a date, so that equal labels give equal bytes.

The zip container is written here, because ``zipfile`` takes half as long again for the slowest part of making a frame:
it copies every array, and it does not let zlib use smaller tables, which stay in the fastest cache.
"""

from __future__ import annotations

import io
import struct
import zlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

DEFLATED, VERSION, DOS_DATE = 8, 20, 33
"""Zip's numbers for deflate, for the version that unpacks it, and for 1 January 1980."""
LEVEL, MEMORY_LEVEL = 1, 7
"""Of zlib: the fastest compression, and tables smaller than its default."""
LOCAL, CENTRAL, END = "<4s5H3L2H", "<4s6H3L5H2L", "<4s4H2LH"


def npz_bytes(arrays: dict[str, NDArray[np.uint8]]) -> bytes:
    """Arrays by name -> an npz, as ``np.savez_compressed`` would write it with zlib's fastest level."""
    body, directory, offset = [], [], 0
    for name, array in arrays.items():
        head = _header(array.shape, array.dtype.str)
        packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, MEMORY_LEVEL)
        data = np.ascontiguousarray(array).data.cast("B")
        packed = packer.compress(head) + packer.compress(data) + packer.flush()
        check, size = zlib.crc32(data, zlib.crc32(head)), len(head) + len(data)
        label = f"{name}.npy".encode()
        common = (VERSION, 0, DEFLATED, 0, DOS_DATE, check, len(packed), size, len(label), 0)
        body += [struct.pack(LOCAL, b"PK\x03\x04", *common), label, packed]
        directory += [struct.pack(CENTRAL, b"PK\x01\x02", VERSION, *common, 0, 0, 0, 0o600 << 16, offset), label]
        offset += 30 + len(label) + len(packed)
    index = b"".join(directory)
    end = struct.pack(END, b"PK\x05\x06", 0, 0, len(arrays), len(arrays), len(index), offset, 0)
    return b"".join([*body, index, end])


@lru_cache(maxsize=8)
def _header(shape: tuple[int, ...], dtype: str) -> bytes:
    stream, example = io.BytesIO(), np.zeros(shape, dtype)
    np.save(stream, example)
    return stream.getvalue()[: stream.tell() - example.nbytes]
