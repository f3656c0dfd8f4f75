"""Pictures of a moment and of a whole drive: one picture, a strip over time, a film."""

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
    """The ego's positions (T - first, 2) in metres, in the ego frame of ``step``.

    Args:
        ego_to_global: (T, 4, 4) poses.
        step: the pose that the positions are seen from.
        first: the first pose to include.
    """
    pose = ego_to_global[step]
    path: NDArray[Any] = (ego_to_global[first:, :3, 3] - pose[:3, 3]) @ pose[:3, :3]
    return path[:, :2]


def scene_picture(
    labels: NDArray[Any],
    *,
    view: str = "both",
    text: str = "",
    path_m: NDArray[Any] | None = None,
    height: int = 400,
    camera: Camera = CHASE,
    grid: VoxelGrid = OCC3D,
    **overlays: Any,
) -> NDArray[Any]:
    """The 3D view and the bird's-eye view of one moment side by side.

    Args:
        labels: (X, Y, Z) class ids.
        view: "both", "bev" (from above) or "voxels" (in 3D).
        text: a line in the corner of the 3D view.
        path_m: (N, 2) driven or planned path in the ego frame.
        height: of the picture in pixels; the bird's-eye view takes the largest whole scale that fits.
        camera: of the 3D view.
        grid: extent of the labels.
        overlays: more of `birds_eye`, for the view from above alone.

    Returns:
        (height, W, 3) uint8.
    """
    views = []
    if view != "bev":
        seen = voxels_3d(labels, size=(height * 4 // 3, height), camera=camera, grid=grid, path_m=path_m)
        views.append(caption(seen, text) if text else seen)
    if view != "voxels":
        scale = max(1, height // grid.shape[0])
        views.append(birds_eye(labels, scale=scale, grid=grid, path_m=path_m, **overlays))
    return beside(*views)


def drive_film(
    occupancy: Sequence[NDArray[Any]],
    ego_to_global: NDArray[Any],
    *,
    title: str = "",
    height: int = 400,
    grid: VoxelGrid = OCC3D,
) -> list[NDArray[Any]]:
    """One picture for each moment of a drive, each with the rest of the path.

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
    texts = [f"{title}   {i * STEP_S:.1f} s   {speed[i]:.1f} m/s".strip() for i in range(len(occupancy))]
    return [
        scene_picture(labels, text=texts[i], path_m=path_from(ego_to_global, i, i), height=height, grid=grid)
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
    steps = range(0, longest, max(1, -(-(longest - 1) // max(1, columns - 1))))
    tall = height or (216 if view == "voxels" else 200)
    scale = max(1, tall // grid.shape[0])
    shown = {name: [row[step] if step < len(row) else None for step in steps] for name, row in rows.items()}

    def picture(name: str, step: int, labels: NDArray[Any] | None) -> NDArray[Any] | None:
        if labels is None:
            return None
        path, arrows = path_from(ego_to_global[name], step, step), (vectors or {}).get(name, ())
        if view == "voxels" or step >= len(arrows):
            return scene_picture(labels, view=view, path_m=path, height=tall, grid=grid)
        # Pictures with arrows also mark every step of the path, so that its spacing shows the speed.
        more: Any = {"vectors": arrows[step], "dots_m": path[1:], "ranges": True}
        return birds_eye(labels, scale=scale, grid=grid, path_m=path, **more)

    pictures = [[picture(name, step, one) for step, one in zip(steps, row)] for name, row in shown.items()]
    labels = list(rows) if len(rows) > 1 else []
    differs = compare is not None and view == "bev"
    if compare is not None and differs:
        pairs = zip(shown[compare[0]], shown[compare[1]], strict=True)
        pictures.append([None if a is None or b is None else difference_picture(a, b, scale) for a, b in pairs])
        labels.append("difference")
    captions = ["now" if step == 0 else f"+{step * STEP_S:.1f} s" for step in steps]
    table = strip(pictures, columns=captions, labels=labels, title=title)
    return np.concatenate((table, key(table.shape[1], NAMES, COLORS[1:]))) if differs else table
