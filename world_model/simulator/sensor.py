"""What a roof LiDAR would have labelled: occlusion, coverage by range, and gaps that drift slowly.

Occlusion is worked out in polar coordinates around the LiDAR: along each azimuth the steepest slope so far hides what
lies below it. What was seen earlier in the drive is remembered in the ego frame. Gaps come from smooth noise fixed to
the world (or to a moving object), compared with a threshold that depends on range, so they are blobs that grow and
shrink over a few frames as real labels do, never independent per voxel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from world_model.grid import OCC3D

Floats = NDArray[np.floating]

LIDAR_X_M, LIDAR_Z_M = 0.94, 1.84
AZIMUTHS, BINS, BIN_M = 720, 70, 0.8
SELF_BINS = 2
"""An obstacle does not hide itself: the slope is taken this many bins in front of a column."""
NOISE_CELLS = 256
NEVER_M = 200.0


@dataclass(frozen=True, kw_only=True)
class Rays:
    """Constant lookup tables of the polar geometry in the ego frame.

    Args:
        cell: (A, R) flat column index under each polar bin, -1 outside the grid.
        bin_range: (R,) distance of bin centres from the LiDAR, metres.
        azimuth, bin: (X, Y) polar bin of each column. range_m: (X, Y) its distance from the LiDAR.
        x, y: (X, Y) column centres in the ego frame, metres.
    """

    cell: NDArray[np.int64]
    bin_range: Floats
    azimuth: NDArray[np.int64]
    bin: NDArray[np.int64]
    range_m: Floats
    x: Floats
    y: Floats


@lru_cache(maxsize=1)
def rays() -> Rays:
    """Build the tables once per process."""
    nx, ny, _ = OCC3D.shape
    v, low = OCC3D.voxel_m, OCC3D.lower_m
    x, y = np.meshgrid(low[0] + v * (np.arange(nx) + 0.5), low[1] + v * (np.arange(ny) + 0.5), indexing="ij")
    range_m, angle = np.hypot(x - LIDAR_X_M, y), np.arctan2(y, x - LIDAR_X_M)
    azimuth = (np.floor((angle + np.pi) / (2 * np.pi) * AZIMUTHS)).astype(np.int64) % AZIMUTHS
    bins = np.minimum((range_m / BIN_M).astype(np.int64), BINS - 1)
    a, r = (np.arange(AZIMUTHS) + 0.5) / AZIMUTHS * 2 * np.pi - np.pi, (np.arange(BINS) + 0.5) * BIN_M
    px, py = LIDAR_X_M + r * np.cos(a)[:, None], r * np.sin(a)[:, None]
    i, j = np.floor((px - low[0]) / v).astype(np.int64), np.floor((py - low[1]) / v).astype(np.int64)
    inside = (i >= 0) & (i < nx) & (j >= 0) & (j < ny)
    return Rays(cell=np.where(inside, i * ny + j, -1), bin_range=r, azimuth=azimuth, bin=bins,
                range_m=range_m.astype(np.float32), x=x, y=y)  # fmt: skip


def look(occluder: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """Cast rays over a height map.

    Args:
        occluder: (X, Y) opaque height of each column in levels (0: ground only).

    Returns:
        lowest: (X, Y) lowest height in metres that a ray reaches in each column.
        highest: (X, Y) height of the highest ray that hits something at or behind the column.
    """
    t = rays()
    tops = np.append(occluder.reshape(-1) * np.float32(OCC3D.voxel_m) + np.float32(OCC3D.lower_m[2]), np.float32(0))
    height = np.maximum(tops[t.cell], 0)
    slope = (height - np.float32(LIDAR_Z_M)) / t.bin_range.astype(np.float32)
    rising = np.maximum.accumulate(slope, 1)
    front = np.concatenate([np.full((AZIMUTHS, SELF_BINS), -9, np.float32), rising[:, :-SELF_BINS]], 1)
    beyond = np.maximum.accumulate(slope[:, ::-1], 1)[:, ::-1]
    r = np.maximum(t.range_m, np.float32(0.5))
    return LIDAR_Z_M + front[t.azimuth, t.bin] * r, LIDAR_Z_M + beyond[t.azimuth, t.bin] * r


@lru_cache(maxsize=1)
def gap_noise() -> tuple[Floats, Floats]:
    """Two periodic (256, 256, 16) fields of unit Gaussian noise, correlated over about 2 m."""
    rng = np.random.default_rng(20240731)
    f = np.fft.fftfreq(NOISE_CELLS)
    fx, fy, fz = f[:, None, None], f[None, :, None], np.fft.rfftfreq(16)[None, None]
    shape = np.exp(-((2 * np.pi) ** 2) * ((fx**2 + fy**2) * 3.2**2 + fz**2 * 2.2**2) / 2)
    fields = []
    for _ in range(2):
        white = rng.standard_normal((NOISE_CELLS, NOISE_CELLS, 16))
        field = np.fft.irfftn(np.fft.rfftn(white) * shape, white.shape)
        fields.append((field / field.std()).astype(np.float32).reshape(-1))
    return fields[0], fields[1]


def gap_level(index: NDArray[np.int64], phase_rad: float) -> Floats:
    """Noise at flat positions of the periodic field; drifts from one field to the other with the phase."""
    a, b = gap_noise()
    return np.float32(np.cos(phase_rad)) * a[index] + np.float32(np.sin(phase_rad)) * b[index]
