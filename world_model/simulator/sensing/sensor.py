"""What a roof LiDAR sees: occlusion over a height map, and gaps that drift slowly.

Along each azimuth around the LiDAR the steepest slope so far hides what lies below it. Gaps come from smooth noise
fixed to the world (or to a moving object), compared with a threshold: blobs that grow and shrink over a few frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import OCC3D
from world_model.simulator.sensing.cells import NX, NY
from world_model.simulator.state import Float32s, Ints

RayHeights = tuple[Float32s, Float32s]
"""Lowest and highest ray over each column, see ``cast_rays``."""
LIDAR_X_M, LIDAR_Z_M = 0.94, 1.84
AZIMUTHS, BINS, BIN_M = 720, 70, 0.8
SELF_BINS = 2
"""An obstacle does not hide itself: the slope is taken this many bins in front of a column."""
NOISE_CELLS = 256
NEVER_M = 200.0


@dataclass(frozen=True, kw_only=True)
class Rays:
    """Constant lookup tables of the polar geometry in the ego frame: R bins of distance, A azimuths.

    Bins come first, so that the running maximum along all rays is one vector operation per bin.
    """

    cell: Ints  # (R, A) flat column under each polar bin, X*Y outside the grid
    per_m: Float32s  # (R, 1) one over the distance of a bin's centre from the LiDAR, 1/m
    polar: Ints  # (X*Y,) flat polar bin of each column
    range_m: Float32s  # (X, Y) distance of each column from the LiDAR
    slope_m: Float32s  # (X*Y,) the same, at least 0.5 m


@lru_cache(maxsize=1)
def rays() -> Rays:
    """Build the tables once per process."""
    v, low = OCC3D.voxel_m, OCC3D.lower_m
    x, y = np.meshgrid(low[0] + v * (np.arange(NX) + 0.5), low[1] + v * (np.arange(NY) + 0.5), indexing="ij")
    range_m, angle = np.hypot(x - LIDAR_X_M, y), np.arctan2(y, x - LIDAR_X_M)
    azimuth = np.floor((angle + np.pi) / (2 * np.pi) * AZIMUTHS).astype(np.int64) % AZIMUTHS
    bins = np.minimum((range_m / BIN_M).astype(np.int64), BINS - 1)
    a, r = (np.arange(AZIMUTHS) + 0.5) / AZIMUTHS * 2 * np.pi - np.pi, (np.arange(BINS)[:, None] + 0.5) * BIN_M
    i = np.floor((LIDAR_X_M + r * np.cos(a) - low[0]) / v).astype(np.int64)
    j = np.floor((r * np.sin(a) - low[1]) / v).astype(np.int64)
    inside = (i >= 0) & (i < NX) & (j >= 0) & (j < NY)
    return Rays(
        cell=np.where(inside, i * NY + j, NX * NY),
        per_m=(1 / r).astype(np.float32),
        polar=(bins * AZIMUTHS + azimuth).reshape(-1),
        range_m=range_m.astype(np.float32),
        slope_m=np.maximum(range_m, 0.5).astype(np.float32).reshape(-1),
    )


def cast_rays(occluder: NDArray[np.uint8], ground_m: Float32s | None = None) -> RayHeights:
    """Cast rays over a height map.

    Args:
        occluder: (X, Y) opaque height of each column in levels over its ground (0: ground only).
        ground_m: (X, Y) height of the ground in the ego frame; None where it is flat.

    Returns:
        lowest: (X, Y) height in metres, over its ground, of the lowest ray over each column.
        highest: (X, Y) height of the highest ray that hits something at or behind the column.
    """
    t = rays()
    top = np.append(occluder.reshape(-1), np.uint8(0)) * np.float32(OCC3D.voxel_m)
    top += np.float32(OCC3D.lower_m[2])
    top = np.maximum(top, 0)
    if ground_m is not None:
        top[:-1] += ground_m.reshape(-1)
    slope = (top - np.float32(LIDAR_Z_M)).take(t.cell)
    slope *= t.per_m
    front = np.empty_like(slope)
    front[:SELF_BINS] = -9
    front[SELF_BINS] = slope[0]
    before, here = list(front), list(slope)
    for k in range(1, BINS - SELF_BINS):
        np.maximum(before[k + SELF_BINS - 1], here[k], out=before[k + SELF_BINS])
    for k in range(BINS - 2, -1, -1):
        np.maximum(here[k + 1], here[k], out=here[k])
    lowest, highest = (rays.reshape(-1).take(t.polar) for rays in (front, slope))
    for height in (lowest, highest):
        height *= t.slope_m
        height += np.float32(LIDAR_Z_M)
        if ground_m is not None:
            height -= ground_m.reshape(-1)
    return lowest.reshape(NX, NY), highest.reshape(NX, NY)


@lru_cache(maxsize=1)
def gap_noise() -> NDArray[np.complex64]:
    """Two periodic (256, 256, 16) fields of unit Gaussian noise, correlated over about 2 m, as one complex field."""
    rng = np.random.default_rng(20240731)
    f = np.fft.fftfreq(NOISE_CELLS)
    fx, fy, fz = f[:, None, None], f[None, :, None], np.fft.rfftfreq(16)[None, None]
    shape = np.exp(-((2 * np.pi) ** 2) * ((fx**2 + fy**2) * 3.2**2 + fz**2 * 2.2**2) / 2)
    fields = []
    for _ in range(2):
        white = rng.standard_normal((NOISE_CELLS, NOISE_CELLS, 16))
        field = np.fft.irfftn(np.fft.rfftn(white) * shape, white.shape)
        fields.append((field / field.std()).astype(np.float32).reshape(-1))
    return np.asarray(fields[0] + 1j * fields[1], np.complex64)


@lru_cache(maxsize=1)
def ground_noise() -> NDArray[np.complex64]:
    """(256 * 256,) the lowest level of ``gap_noise``, close together in memory."""
    return gap_noise()[::16].copy()


def drifted(noise: NDArray[np.complex64], phase_rad: float) -> NDArray[np.complex64]:
    """The noise after it has drifted by a phase.

    Real and imaginary part are two independent draws of unit noise; as the phase grows, each drifts into the other.
    """
    return noise * np.complex64(np.exp(-1j * phase_rad))
