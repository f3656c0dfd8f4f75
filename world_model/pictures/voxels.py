"""Occupancy in three dimensions: a small software renderer, numpy only, no display and no GPU.

Only faces that touch free space and face the camera are drawn. Each gets one colour: its class, lit by a sun
with cast shadows, darkened where its surroundings are filled (ambient occlusion). The faces are painted far to near.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from world_model.core.grid import EGO_LENGTH_M, EGO_REAR_OVERHANG_M, EGO_WIDTH_M, FREE, GROUND, OCC3D, VoxelGrid
from world_model.pictures.bev import EGO_COLOR, PATH_COLOR, PICTURE_COLORS, ROUTE_COLOR
from world_model.pictures.camera import Camera
from world_model.pictures.raster import fill_quads

CHASE = Camera()
"""Above and behind the ego vehicle, facing forward."""

_SUN = np.array((1.0, 0.97, 0.90), np.float32)
_SKY = np.array((0.88, 0.94, 1.06), np.float32)
_HAZE = np.array((176, 190, 208), np.float32)
_NEAR_M = 1.0
# How bright the sun makes a face by its axis (x, y, z) and its side: the sun stands front left and high.
_SUNLIGHT = {(0, -1): 0.05, (0, 1): 0.42, (1, -1): 0.0, (1, 1): 0.62, (2, 1): 0.70, (2, -1): 0.0}
_SKYLIGHT = {(0, -1): 0.52, (0, 1): 0.52, (1, -1): 0.42, (1, 1): 0.52, (2, 1): 0.44, (2, -1): 0.3}


@dataclass(frozen=True)
class _Faces:
    """Quads to paint: (N, 4, 3) corners in metres, (N, 3) colours 0..255, (N,) paint order (large is far)."""

    corners_m: NDArray[Any]
    color: NDArray[Any]
    order: NDArray[Any]


def voxels_3d(
    labels: NDArray[Any],
    *,
    size: tuple[int, int] = (480, 360),
    camera: Camera = CHASE,
    grid: VoxelGrid = OCC3D,
    path_m: NDArray[Any] | None = None,
    route_m: NDArray[Any] | None = None,
    footprint: bool = True,
    smoothing: int = 2,
) -> NDArray[Any]:
    """Draw occupancy as lit voxels in perspective.

    Args:
        labels: (X, Y, Z) class ids.
        size: (width, height) in pixels.
        camera: the view; by default from above and behind the ego vehicle.
        grid: extent and voxel size of the labels in metres.
        path_m: (N, 2) driven or planned path in the ego frame, drawn as a ribbon on the ground.
        route_m: (N, 2) reference route, drawn as plates on the ground.
        footprint: draw the ego vehicle.
        smoothing: each pixel averages this many samples squared; 1 is fastest.

    Returns:
        (height, width, 3) uint8.
    """
    size_px = (size[0] * smoothing, size[1] * smoothing)
    parts = [_voxel_faces(labels, grid, camera)]
    if route_m is not None:
        squares = plates(np.asarray(route_m, np.float32), labels, grid)
        parts.append(_flat(squares, ROUTE_COLOR, 2.0, camera, grid))
    if path_m is not None:
        band = ribbon(np.asarray(path_m, np.float32), labels, grid)
        parts.append(_flat(band, PATH_COLOR, 2.5, camera, grid))
    if footprint:
        parts.append(_ego_car(camera, grid))
    corners = np.concatenate([p.corners_m for p in parts])
    color = np.concatenate([p.color for p in parts])
    order = np.argsort(-np.concatenate([p.order for p in parts]), kind="stable")
    pixels, depth = camera.project(corners, size_px)
    order = order[(depth.min(1) > _NEAR_M)[order]]
    seen = fill_quads(pixels[order], size_px)
    color = _haze(color, depth.mean(1))[order].clip(0, 255).astype(np.uint8)
    image = np.where((seen >= 0)[..., None], color[seen] if len(color) else 0, _backdrop(size_px, camera, grid))
    picture = Image.fromarray(image.astype(np.uint8, copy=False))
    return np.asarray(picture.reduce(smoothing) if smoothing > 1 else picture)


def _voxel_faces(labels: NDArray[Any], grid: VoxelGrid, camera: Camera) -> _Faces:
    """Faces of occupied voxels that touch free space and face the camera."""
    filled = np.pad(labels != FREE, 1)
    crowd, shade = crowding(filled), shadow(filled)
    inner = filled[1:-1, 1:-1, 1:-1]
    cells, colors, corners = [], [], []
    position = (np.asarray(camera.position_m) - grid.lower_m) / grid.voxel_m
    for axis in range(3):
        for side in (-1, 1):
            outside = tuple(
                slice(1 + side, filled.shape[a] - 1 + side) if a == axis else slice(1, -1) for a in range(3)
            )
            open_cells = inner & ~filled[outside]
            plane = np.arange(labels.shape[axis]) + (side > 0)
            toward = (position[axis] - plane) * side > 0
            open_cells &= toward.reshape([-1 if a == axis else 1 for a in range(3)])
            cell = np.argwhere(open_cells)
            i, j, k = (cell + 1 + side * np.eye(3, dtype=int)[axis]).T
            light = _SKY * (_SKYLIGHT[axis, side] * (1 - crowd[i, j, k]))[:, None]
            light = light + _SUN * (_SUNLIGHT[axis, side] * (1 - shade[i, j, k]))[:, None]
            grain = 1 + 0.05 * _grain(cell)
            colors.append(PICTURE_COLORS[labels[tuple(cell.T)]] * light * grain[:, None])
            corners.append(cell[:, None].astype(np.float32) + _face(axis, side))
            cells.append(cell)
    cell = np.concatenate(cells)
    points = np.concatenate(corners) * np.float32(grid.voxel_m) + np.asarray(grid.lower_m, np.float32)
    return _Faces(points, np.concatenate(colors), np.abs(cell + 0.5 - position).sum(1).astype(np.float32))


def _face(axis: int, side: int) -> NDArray[Any]:
    """(4, 3) corners of one side of the unit cube, along its outline."""
    square = np.array(((0, 0), (1, 0), (1, 1), (0, 1)), np.float32)
    return np.insert(square, axis, float(side > 0), axis=1)


def _grain(cell: NDArray[Any]) -> NDArray[Any]:
    """(N,) repeatable noise in [-1, 1) per voxel, so that single voxels stay visible on plain surfaces."""
    mixed = (cell[:, 0] * 73856093) ^ (cell[:, 1] * 19349663) ^ (cell[:, 2] * 83492791)
    return ((mixed >> 3) % 256).astype(np.float32) / 128 - 1


def crowding(filled: NDArray[Any]) -> NDArray[Any]:
    """How much of the 27 cells around each is filled, beyond the 9 that any flat wall fills: 0 open .. 0.6 corner."""
    total = filled.astype(np.uint8)
    for axis in range(3):
        spread = total.copy()
        ahead: list[slice] = [slice(None)] * 3
        behind: list[slice] = [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        spread[tuple(ahead)] += total[tuple(behind)]
        spread[tuple(behind)] += total[tuple(ahead)]
        total = spread
    table = (np.clip(np.arange(28, dtype=np.float32) - 7, 0, 14) / 14 * 0.6).astype(np.float32)
    return table[total]


def shadow(filled: NDArray[Any]) -> NDArray[Any]:
    """Share of the sun hidden at each cell, 0..1: light falls one layer down per cell and a bit sideways."""
    hidden = np.zeros(filled.shape, np.float32)
    for dx, dy in ((1, 1), (1, 0), (0, 1)):  # three suns side by side soften the edge
        blocked = np.zeros(filled.shape[:2], bool)
        for z in range(filled.shape[2] - 2, -1, -1):
            above = blocked | filled[:, :, z + 1]
            blocked = np.zeros_like(above)
            blocked[: above.shape[0] - dx, : above.shape[1] - dy] = above[dx:, dy:]
            hidden[:, :, z] += blocked
    return hidden / 3


def ground_m(points_m: NDArray[Any], labels: NDArray[Any], grid: VoxelGrid) -> NDArray[Any]:
    """(N,) height of the drivable or walkable surface under each point, the road plane where none is known."""
    cell = np.floor((points_m - grid.lower_m[:2]) / grid.voxel_m).astype(int)
    cell = cell.clip(0, np.array(labels.shape[:2]) - 1)
    ground = np.isin(labels[cell[:, 0], cell[:, 1]], GROUND)
    top = labels.shape[2] - np.argmax(ground[:, ::-1], axis=1)
    return np.where(ground.any(1), grid.lower_m[2] + top * grid.voxel_m, 0.2).astype(np.float32)


def _flat(
    corners_m: NDArray[Any], color: tuple[int, int, int], nearer: float, camera: Camera, grid: VoxelGrid
) -> _Faces:
    """Quads (N, 4, 3) of one colour, painted as if ``nearer`` by so many voxels, to win over the ground below."""
    colors = np.broadcast_to(np.array(color, np.float32), (len(corners_m), 3))
    return _Faces(corners_m, colors, _order(corners_m, camera, grid, nearer))


def _order(corners_m: NDArray[Any], camera: Camera, grid: VoxelGrid, nearer: float) -> NDArray[Any]:
    """Paint order of quads in the voxels' measure, ``nearer`` by so many voxels."""
    offset = np.abs(corners_m.mean(1) - np.asarray(camera.position_m, np.float32)).sum(1)
    order: NDArray[Any] = (offset / grid.voxel_m - nearer).astype(np.float32)
    return order


def ribbon(path_m: NDArray[Any], labels: NDArray[Any], grid: VoxelGrid, width_m: float = 0.7) -> NDArray[Any]:
    """(N, 4, 3) corners of the path as a band of short quads that follows the ground."""
    along = np.concatenate(((0.0,), np.cumsum(np.hypot(*np.diff(path_m, axis=0).T))))
    nothing = np.zeros((0, 4, 3), np.float32)
    if along[-1] < 0.05:
        return nothing
    at = np.arange(0, along[-1], 0.4)
    center = np.stack([np.interp(at, along, path_m[:, i]) for i in (0, 1)], 1).astype(np.float32)
    center = center[(np.abs(center) < min(grid.upper_m[:2])).all(1)]
    if len(center) < 2:
        return nothing
    tangent = np.gradient(center, axis=0)
    normal = np.stack((-tangent[:, 1], tangent[:, 0]), 1) / np.maximum(np.hypot(*tangent.T), 1e-6)[:, None]
    height = (ground_m(center, labels, grid) + 0.08)[:, None]
    left = np.concatenate((center + normal * width_m / 2, height), 1)
    right = np.concatenate((center - normal * width_m / 2, height), 1)
    corners: NDArray[Any] = np.stack((left[:-1], left[1:], right[1:], right[:-1]), 1).astype(np.float32)
    return corners


def plates(route_m: NDArray[Any], labels: NDArray[Any], grid: VoxelGrid) -> NDArray[Any]:
    """(N, 4, 3) corners of route points as small square plates on the ground."""
    route_m = route_m[np.isfinite(route_m).all(1) & (np.abs(route_m) < min(grid.upper_m[:2])).all(1)]
    square = np.array(((-0.4, -0.4), (0.4, -0.4), (0.4, 0.4), (-0.4, 0.4)), np.float32)
    corners = np.empty((len(route_m), 4, 3), np.float32)
    corners[..., :2] = route_m[:, None] + square
    corners[..., 2] = (ground_m(route_m, labels, grid) + 0.06)[:, None]
    return corners


def ego_boxes() -> list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """The ego vehicle as boxes, nose along x, in the order to paint them in: lower and upper corner (3,) in metres in
    the ego frame, and RGB (3,) 0..255."""
    rear, half = -EGO_REAR_OVERHANG_M, EGO_WIDTH_M / 2
    front = rear + EGO_LENGTH_M
    body = np.array(EGO_COLOR, np.float32)
    glass, rubber, lamp = (np.array(c, np.float32) for c in ((46, 52, 66), (34, 34, 38), (255, 240, 190)))
    boxes = [
        ((x - 0.34, x + 0.34), (y - 0.14, y + 0.14), (0.2, 0.75), rubber) for x in (0.0, 2.59) for y in (-half, half)
    ]
    boxes += [
        ((rear, front), (-half, half), (0.45, 1.1), body),
        ((front - 0.02, front + 0.05), (-half * 0.85, half * 0.85), (0.72, 0.92), lamp),
        ((rear - 0.05, rear + 0.02), (-half * 0.85, half * 0.85), (0.75, 0.95), np.array((190, 20, 24), np.float32)),
        ((rear + 0.35, front - 1.35), (-half * 0.86, half * 0.86), (1.1, 1.55), glass),
        ((rear + 0.5, front - 1.6), (-half * 0.86, half * 0.86), (1.55, 1.72), body),
    ]
    ends = [(np.array(ranges).T, color) for *ranges, color in boxes]
    return [(low, high, color) for (low, high), color in ends]


def _ego_car(camera: Camera, grid: VoxelGrid) -> _Faces:
    """The ego vehicle as a body with wheels and a cabin, nose along x."""
    corners, colors = [], []
    for low, high, color in ego_boxes():
        for (axis, side), sun in _SUNLIGHT.items():
            face = (low + _face(axis, side) * (high - low)).astype(np.float32)
            if (camera.position_m[axis] - face[0, axis]) * side > 0:
                corners.append(face)
                colors.append(color * (_SKY * _SKYLIGHT[axis, side] + _SUN * sun))
    # The boxes are listed in the order to paint them in; together they take the place of the car's middle.
    place = _order(np.full((1, 4, 3), (1.3, 0, 0.9), np.float32), camera, grid, 8.0)[0]
    order = place - np.arange(len(corners), dtype=np.float32) * 1e-3
    return _Faces(np.array(corners), np.array(colors), order)


def _haze(color: NDArray[Any], depth_m: NDArray[Any]) -> NDArray[Any]:
    """Let far faces fade a little into the air."""
    share = np.clip((depth_m - 30) / 90, 0, 0.35)[:, None].astype(np.float32)
    hazy: NDArray[Any] = color * (1 - share) + _HAZE * share
    return hazy


@lru_cache(maxsize=8)
def _backdrop(size: tuple[int, int], camera: Camera, grid: VoxelGrid) -> NDArray[Any]:
    """(height, width, 3) float32: sky above, and a dark base plate with 10 m lines under the grid."""
    width, height = size
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    sky = np.array((70, 84, 112), np.float32) * (1 - down) + np.array((24, 27, 36), np.float32) * down
    sky = np.broadcast_to(sky, (height, width, 3))
    ground, reaches = camera.ground_hits(size, grid.lower_m[2])
    inside = np.minimum(ground - grid.lower_m[:2], np.asarray(grid.upper_m[:2]) - ground).min(-1)
    plate = (np.clip(inside / 1.0 + 0.5, 0, 1) * reaches)[..., None]
    offset = np.abs((ground + 5) % 10 - 5).min(-1)
    line = np.clip(1.4 - offset / 0.12, 0, 1)[..., None] * 0.35
    base = np.array((44, 49, 62), np.float32) * (1 - line) + np.array((92, 102, 124), np.float32) * line
    backdrop: NDArray[Any] = sky * (1 - plate) + base * plate
    return backdrop.astype(np.uint8)
