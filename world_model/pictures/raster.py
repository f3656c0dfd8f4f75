"""Fill convex quadrilaterals into an image with numpy alone, far to near, without a depth buffer.

Every quad is cut into the pixel columns it covers, every column into one vertical run of pixels; all runs of all quads
are written with one assignment whose later entries overwrite earlier ones. Cost grows with the pixels covered, not
with the number of quads times Python.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def fill_quads(corners_px: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Which quad is seen at every pixel centre.

    Args:
        corners_px: (N, 4, 2) float32 corners (x right, y down) in drawing order along the outline; quads later in the
            array cover earlier ones.
        size: (width, height) of the image in pixels.

    Returns:
        (height, width) int32 index into the quads, -1 where none is.
    """
    width, height = size
    column, quad = _columns(corners_px[..., 0], width)
    top, bottom = _crossings(corners_px, quad, column)
    # A pixel belongs to a quad when its centre lies inside: rows ceil(y - 0.5) up to, not including, the next edge.
    first = np.ceil(np.clip(top, -1, height + 1) - 0.5).astype(np.int32).clip(0, height)
    last = np.ceil(np.clip(bottom, -1, height + 1) - 0.5).astype(np.int32).clip(0, height)
    seen = np.flatnonzero(last > first)
    length = (last - first)[seen]
    # Columns are stored one after the other so that every run is contiguous in memory.
    start = column[seen] * height + first[seen]
    ends = np.cumsum(length, dtype=np.int32)
    pixel = np.repeat(start - (ends - length), length)
    pixel += np.arange(len(pixel), dtype=np.int32)
    image = np.full(width * height, -1, np.int32)
    image[pixel] = np.repeat(quad[seen], length)
    return image.reshape(width, height).T


def _columns(x_px: NDArray[Any], width: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pixel columns whose centre each quad spans: (M,) column and (M,) quad, quad after quad."""
    first = np.ceil(x_px.min(1).clip(0, width) - 0.5).astype(np.int32).clip(0, width)
    last = np.ceil(x_px.max(1).clip(0, width) - 0.5).astype(np.int32).clip(0, width)
    count = np.maximum(last - first, 0)
    quad = np.repeat(np.arange(len(x_px), dtype=np.int32), count)
    ends = np.cumsum(count, dtype=np.int32)
    return np.arange(len(quad), dtype=np.int32) + np.repeat(first - (ends - count), count), quad


def _crossings(corners_px: NDArray[Any], quad: NDArray[Any], column: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Where the vertical line through each column's centre enters and leaves its quad: (M,) top and (M,) bottom y."""
    center = column + np.float32(0.5)
    top = np.full(len(quad), np.inf, np.float32)
    bottom = np.full(len(quad), -np.inf, np.float32)
    for i in range(4):
        a, b = corners_px[:, i], corners_px[:, (i + 1) % 4]
        run = b[:, 0] - a[:, 0]
        slope = (b[:, 1] - a[:, 1]) / np.where(np.abs(run) < 1e-6, np.float32(np.inf), run)
        low, high = np.minimum(a[:, 0], b[:, 0]), np.maximum(a[:, 0], b[:, 0])
        y = a[quad, 1] + slope[quad] * (center - a[quad, 0])
        crossed = (center >= low[quad]) & (center <= high[quad])
        top = np.minimum(top, np.where(crossed, y, np.inf))
        bottom = np.maximum(bottom, np.where(crossed, y, -np.inf))
    return top, bottom
