"""Pictures of a whole drive: one picture a step, a strip over time, a film."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import OCC3D, STEP_S, VoxelGrid
from world_model.pictures.bev import birds_eye
from world_model.pictures.camera import Camera
from world_model.pictures.difference import COLORS, NAMES, difference_picture
from world_model.pictures.strip import beside, caption, key, strip
from world_model.pictures.vectors import Vectors
from world_model.pictures.voxels import CHASE, voxels_3d


def path_from(ego_to_global: NDArray[Any], step: int, first: int = 0) -> NDArray[Any]:
    """The ego's positions as seen from one of its poses.

    Args:
        ego_to_global: (T, 4, 4) poses.
        step: the pose to look from.
        first: the first pose to include.

    Returns:
        (T - first, 2) metres in the ego frame of ``step``.
    """
    pose = ego_to_global[step]
    offset = ego_to_global[first:, :3, 3] - pose[:3, 3]
    return (offset @ pose[:3, :3])[:, :2]


def scene_picture(
    labels: NDArray[Any],
    *,
    text: str = "",
    path_m: NDArray[Any] | None = None,
    route_m: NDArray[Any] | None = None,
    goal_m: NDArray[Any] | tuple[float, float] | None = None,
    height: int = 400,
    camera: Camera = CHASE,
    grid: VoxelGrid = OCC3D,
) -> NDArray[Any]:
    """The 3D view and the bird's-eye view of one moment side by side.

    Args:
        labels: (X, Y, Z) class ids.
        text: a line in the corner.
        path_m, route_m, goal_m: see `birds_eye`.
        height: of the picture in pixels; the bird's-eye view takes the largest whole scale that fits.
        camera: view of the 3D half.
        grid: extent of the labels.

    Returns:
        (height, W, 3) uint8.
    """
    scale = max(1, height // grid.shape[0])
    seen = voxels_3d(labels, size=(height * 4 // 3, height), camera=camera, grid=grid, path_m=path_m, route_m=route_m)
    flat = birds_eye(labels, scale=scale, grid=grid, path_m=path_m, route_m=route_m, goal_m=goal_m)
    return beside(caption(seen, text) if text else seen, flat)


def drive_film(
    occupancy: Sequence[NDArray[Any]],
    ego_to_global: NDArray[Any],
    *,
    title: str = "",
    height: int = 400,
    grid: VoxelGrid = OCC3D,
) -> list[NDArray[Any]]:
    """One picture for each moment of a drive, each with the way that is still ahead.

    Args:
        occupancy: T labels (X, Y, Z), each around the ego in its own frame.
        ego_to_global: (T, 4, 4) poses.
        title: goes before time and speed in the corner.
        height: of the pictures in pixels.
        grid: extent of the labels.

    Returns:
        T pictures (height, W, 3) uint8.
    """
    moved = np.linalg.norm(np.diff(ego_to_global[:, :2, 3], axis=0), axis=1) / STEP_S
    speed = np.concatenate((moved[:1], moved)) if len(moved) else np.zeros(1)
    return [
        scene_picture(
            labels,
            text=f"{title}   {i * STEP_S:.1f} s   {speed[i]:.1f} m/s".strip(),
            path_m=path_from(ego_to_global, i, i),
            height=height,
            grid=grid,
        )
        for i, labels in enumerate(occupancy)
    ]


def drive_strip(
    rows: dict[str, Sequence[NDArray[Any] | None]],
    ego_to_global: dict[str, NDArray[Any]],
    *,
    title: str = "",
    columns: int = 6,
    view: str = "bev",
    grid: VoxelGrid = OCC3D,
    vectors: dict[str, Sequence[Sequence[Vectors]]] | None = None,
    compare: tuple[str, str] | None = None,
    height: int | None = None,
) -> NDArray[Any]:
    """Several drives below each other, time to the right.

    Args:
        rows: name -> labels (X, Y, Z) of every step, None where there are none.
        ego_to_global: name -> (T, 4, 4) poses of that row.
        title: a line above.
        columns: show at most so many moments, evenly spaced over the longest row.
        view: "bev" from above, or "voxels" in 3D.
        grid: extent of the labels.
        vectors: name -> arrows of every step, for the view from above.
        compare: names of two rows along the same poses: one more row shows where they differ (view from above).
        height: of one picture in pixels; 200 from above and 216 in 3D if not given.

    Returns:
        (H, W, 3) uint8.
    """
    longest = max(len(row) for row in rows.values())
    stride = max(1, -(-(longest - 1) // max(1, columns - 1)))
    steps = range(0, longest, stride)
    tall = height or (216 if view == "voxels" else 200)
    pictures = [
        [_moment(row, ego_to_global[name], step, view, grid, tall, (vectors or {}).get(name, ())) for step in steps]
        for name, row in rows.items()
    ]
    labels = list(rows) if len(rows) > 1 else []
    if compare and view == "bev":
        ours, theirs = (rows[name] for name in compare)
        pictures.append([_compared(ours, theirs, step, max(1, tall // grid.shape[0])) for step in steps])
        labels.append("difference")
    captions = ["now" if step == 0 else f"+{step * STEP_S:.1f} s" for step in steps]
    table = strip(pictures, columns=captions, labels=labels, title=title)
    return np.concatenate((table, key(table.shape[1], NAMES, COLORS[1:]))) if compare and view == "bev" else table


def _compared(
    ours: Sequence[NDArray[Any] | None], theirs: Sequence[NDArray[Any] | None], step: int, scale: int
) -> NDArray[Any] | None:
    forecast, recorded = (row[step] if step < len(row) else None for row in (ours, theirs))
    return None if forecast is None or recorded is None else difference_picture(forecast, recorded, scale)


def _moment(
    row: Sequence[NDArray[Any] | None],
    poses: NDArray[Any],
    step: int,
    view: str,
    grid: VoxelGrid,
    height: int,
    vectors: Sequence[Sequence[Vectors]],
) -> NDArray[Any] | None:
    labels = row[step] if step < len(row) else None
    if labels is None:
        return None
    path = path_from(poses, step, step)
    if view == "voxels":
        return voxels_3d(labels, size=(height * 4 // 3, height), grid=grid, path_m=path)
    scale = max(1, height // grid.shape[0])
    if step >= len(vectors):
        return birds_eye(labels, scale=scale, grid=grid, path_m=path)
    # Larger pictures with arrows also mark every step of the path, so that its spacing shows the speed.
    return birds_eye(labels, scale=scale, grid=grid, path_m=path, vectors=vectors[step], dots_m=path[1:], ranges=True)
