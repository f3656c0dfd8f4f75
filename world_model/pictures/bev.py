"""The bird's-eye view: the surroundings of the ego vehicle from above.

Conventions: labels are (X, Y, Z) in the ego frame (x forward, y left); pictures have x pointing up and y pointing
left, so pixel row 0 is the far front and column 0 the far left. Points given for drawing are (x, y) in metres in the
same ego frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from world_model.core.grid import (
    CLASS_COLORS,
    EGO_LENGTH_M,
    EGO_REAR_OVERHANG_M,
    EGO_WIDTH_M,
    FREE,
    OCC3D,
    VoxelGrid,
)
from world_model.pictures.vectors import Vectors, outline

PATH_COLOR = (0, 229, 160)
"""The path of the ego, driven or planned."""
ROUTE_COLOR = (255, 214, 64)
"""The reference route."""
EGO_COLOR = (255, 92, 32)
OUTLINE_COLOR = (24, 26, 34)

UNSEEN_COLOR = (38, 42, 54)
"""Columns without any occupied voxel."""

PICTURE_COLORS = np.array((*CLASS_COLORS[:FREE], UNSEEN_COLOR), np.float32)
"""(18, 3) RGB by class id as the pictures use them."""
_Points = NDArray[Any] | tuple[float, float]
_SMOOTHING = 2
"""Overlays are drawn this many times larger and reduced, which smooths their edges."""


def class_map(labels: NDArray[Any]) -> NDArray[Any]:
    """Class of the highest occupied voxel of every column.

    Args:
        labels: (..., X, Y, Z) class ids.

    Returns:
        (..., X, Y) uint8, 17 (free) where the column is empty.
    """
    occupied = labels != FREE
    top = labels.shape[-1] - 1 - np.argmax(occupied[..., ::-1], axis=-1)
    seen = np.take_along_axis(labels, top[..., None], axis=-1)[..., 0]
    classes: NDArray[Any] = np.where(occupied.any(-1), seen, FREE).astype(np.uint8)
    return classes


def height_map(labels: NDArray[Any]) -> NDArray[Any]:
    """Number of voxels from the floor of the grid to the top of the highest occupied one.

    Args:
        labels: (..., X, Y, Z) class ids.

    Returns:
        (..., X, Y) int16, 0 where the column is empty.
    """
    occupied = labels != FREE
    top: NDArray[Any] = (labels.shape[-1] - np.argmax(occupied[..., ::-1], axis=-1)) * occupied.any(-1)
    return top.astype(np.int16)


def relief(height: NDArray[Any]) -> NDArray[Any]:
    """Brightness of a landscape lit from the front left, with cast shadows.

    Args:
        height: (X, Y) heights in voxels.

    Returns:
        (X, Y) float32 factors around 1.
    """
    padded = np.pad(height.astype(np.float32), 1, mode="edge")
    slope = (padded[1:-1, 1:-1] - padded[2:, 1:-1]) + (padded[1:-1, 1:-1] - padded[1:-1, 2:])
    light = 1 + 0.05 * np.clip(slope, -4, 4)
    shadow = np.zeros(height.shape, np.float32)
    for step in range(1, 9):  # the sun stands 45 degrees high: a wall k voxels tall shades k cells
        lit_by = np.zeros_like(height)
        lit_by[:-step, :-step] = height[step:, step:]
        shadow = np.maximum(shadow, np.clip((lit_by - height - step) / 2, 0, 1) * (1 - step / 12))
    tall = 1 + 0.012 * np.clip(height - 3, 0, 13)
    factor: NDArray[Any] = light * tall * (1 - 0.38 * shadow)
    return factor.astype(np.float32)


def birds_eye(
    labels: NDArray[Any],
    *,
    scale: int = 2,
    grid: VoxelGrid = OCC3D,
    path_m: NDArray[Any] | None = None,
    route_m: NDArray[Any] | None = None,
    goal_m: _Points | None = None,
    footprint: bool = True,
    shading: bool = True,
    ranges: bool = False,
    vectors: Sequence[Vectors] = (),
    dots_m: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Draw occupancy from above.

    Args:
        labels: (X, Y, Z) class ids.
        scale: pixels per voxel.
        grid: extent and voxel size of the labels in metres.
        path_m: (N, 2) points of the driven or planned path.
        route_m: (N, 2) points of the reference route, drawn dotted.
        goal_m: (2,) point to reach.
        footprint: draw the ego vehicle at the origin, nose forward.
        shading: show height by light and shadow; off gives the pure class colours.
        ranges: draw rings every 10 m.
        vectors: arrows, later ones above earlier ones.
        dots_m: (N, 2) points marked on the path.

    Returns:
        (X * scale, Y * scale, 3) uint8, x up and y left.
    """
    classes = class_map(labels)
    colors = PICTURE_COLORS[classes]
    if shading:
        colors = colors * np.where(classes == FREE, 1, relief(height_map(labels)))[..., None]
    image = np.clip(colors, 0, 255).astype(np.uint8)[::-1, ::-1]
    size = (image.shape[1] * scale, image.shape[0] * scale)
    if not (footprint or ranges or len(vectors)) and all(p is None for p in (path_m, route_m, goal_m, dots_m)):
        return np.ascontiguousarray(image.repeat(scale, 0).repeat(scale, 1))
    canvas = Image.fromarray(image).resize((size[0] * _SMOOTHING, size[1] * _SMOOTHING), Image.Resampling.NEAREST)
    pen = _Pen(canvas, grid, scale * _SMOOTHING)
    if ranges:
        pen.rings(max(grid.upper_m[:2]))
    if route_m is not None:
        pen.discs(route_m, (0.55, (*OUTLINE_COLOR, 170)), (0.4, ROUTE_COLOR))
    if path_m is not None:
        pen.line(path_m, (*OUTLINE_COLOR, 170), 0.8)
        pen.line(path_m, PATH_COLOR, 0.5)
    if dots_m is not None:
        pen.discs(dots_m, (0.6, OUTLINE_COLOR), (0.45, PATH_COLOR))
    if goal_m is not None:
        white = (255, 255, 255)
        pen.discs(goal_m, (1.4, OUTLINE_COLOR), (1.1, ROUTE_COLOR), (0.65, white), (0.35, EGO_COLOR))
    for arrows in vectors:
        pen.arrows(arrows)
    if footprint:
        pen.car()
    return np.asarray(canvas.reduce(_SMOOTHING))


def ego_outline(x_m: float = 0.0, y_m: float = 0.0, yaw_rad: float = 0.0) -> NDArray[Any]:
    """Outline of the ego vehicle with a pointed nose, (N, 2) metres, for a pose of its rear axle."""
    rear, front, half = -EGO_REAR_OVERHANG_M, EGO_LENGTH_M - EGO_REAR_OVERHANG_M, EGO_WIDTH_M / 2
    left = np.array([(rear, half), (front - 0.7, half), (front, half * 0.55)])
    corners = np.concatenate(([(rear, -half)], left, (left * (1, -1))[:0:-1]))
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    return corners @ np.array(((c, s), (-s, c))) + (x_m, y_m)


class _Pen:
    """Draws metres of the ego frame on a canvas of ``pixels`` pixels per voxel."""

    def __init__(self, canvas: Image.Image, grid: VoxelGrid, pixels: int) -> None:
        self.draw = ImageDraw.Draw(canvas, "RGBA")
        self.per_m = pixels / grid.voxel_m
        self.left_m, self.front_m = grid.upper_m[1], grid.upper_m[0]

    def at(self, points_m: _Points) -> list[tuple[float, float]]:
        """Pixel positions of (..., 2) points; points that are not finite are left out."""
        points = np.asarray(points_m, dtype=float).reshape(-1, 2)
        points = points[np.isfinite(points).all(1)]
        return [((self.left_m - y) * self.per_m, (self.front_m - x) * self.per_m) for x, y in points.tolist()]

    def discs(self, points_m: _Points, *discs: tuple[float, tuple[int, ...]]) -> None:
        """At every point the discs of these radii in metres and colours, later ones above earlier ones."""
        for x, y in self.at(points_m):
            for radius_m, color in discs:
                r = max(2.0, radius_m * self.per_m)
                self.draw.ellipse((x - r, y - r, x + r, y + r), fill=color)

    def rings(self, range_m: float) -> None:
        """A ring every 10 m."""
        x, y = self.at((0.0, 0.0))[0]
        width = max(1, round(0.18 * self.per_m))
        for radius_m in range(10, int(range_m) + 1, 10):
            r = radius_m * self.per_m
            self.draw.ellipse((x - r, y - r, x + r, y + r), outline=(235, 240, 255, 90), width=width)

    def line(self, points_m: NDArray[Any], color: tuple[int, ...], width_m: float) -> None:
        points = self.at(points_m)
        if len(points) > 1:
            self.draw.line(points, fill=color, width=max(2, round(width_m * self.per_m)), joint="curve")

    def arrows(self, arrows: Vectors) -> None:
        for start, vector in zip(arrows.start_m, arrows.vector_m, strict=True):
            if np.isfinite(start).all() and np.isfinite(vector).all() and np.hypot(*vector) >= arrows.least_m:
                border = max(1, round(0.12 * self.per_m))
                shape = self.at(outline(start, vector, arrows.width_m))
                self.draw.polygon(shape, fill=arrows.color, outline=OUTLINE_COLOR, width=border)

    def car(self) -> None:
        edge = max(1, round(0.2 * self.per_m))
        self.draw.polygon(self.at(ego_outline()), fill=EGO_COLOR, outline=(255, 255, 255), width=edge)
        half = EGO_WIDTH_M / 2
        screen = np.array([(1.3, half * 0.72), (2.2, half * 0.6), (2.2, -half * 0.6), (1.3, -half * 0.72)])
        self.draw.polygon(self.at(screen), fill=(48, 34, 40))
