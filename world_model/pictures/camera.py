"""A pinhole camera in the ego frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Where the picture is taken from.

    Args:
        position_m: (x, y, z) of the camera, metres in the ego frame.
        target_m: (x, y, z) of the point in the middle of the picture.
        field_of_view_deg: horizontal opening angle.
    """

    position_m: tuple[float, float, float] = (-30.0, 7.0, 25.0)
    target_m: tuple[float, float, float] = (4.5, -0.5, 0.0)
    field_of_view_deg: float = 58.0

    def __post_init__(self) -> None:
        toward = np.subtract(self.target_m, self.position_m)
        if np.hypot(toward[0], toward[1]) < 1e-6 or not 1 <= self.field_of_view_deg <= 150:
            raise ConfigError(
                f"camera at {self.position_m} aimed at {self.target_m} with {self.field_of_view_deg} degrees",
                "a view that is not straight up or down, 1 to 150 degrees wide",
                "move position_m or target_m sideways, or change field_of_view_deg",
            )

    def axes(self) -> NDArray[Any]:
        """(3, 3) rows: right, down and forward, unit vectors in the ego frame."""
        forward = np.subtract(self.target_m, self.position_m).astype(np.float64)
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        return np.stack((right, np.cross(forward, right), forward))

    def focal_px(self, width: int) -> float:
        """Focal length in pixels of a picture ``width`` pixels wide."""
        return float(width / 2 / np.tan(np.radians(self.field_of_view_deg) / 2))

    def project(self, points_m: NDArray[Any], size: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Picture positions of points.

        Args:
            points_m: (..., 3) in the ego frame.
            size: (width, height) of the picture in pixels.

        Returns:
            (..., 2) float32 pixels (x right, y down), and (...) float32 depth in metres, negative behind the camera.
        """
        local = (points_m - np.asarray(self.position_m, np.float32)) @ self.axes().T.astype(np.float32)
        depth = local[..., 2]
        scale = self.focal_px(size[0]) / np.maximum(depth, 1e-3)
        return local[..., :2] * scale[..., None] + np.array((size[0] / 2, size[1] / 2), np.float32), depth

    def ground_hits(self, size: tuple[int, int], z_m: float) -> tuple[NDArray[Any], NDArray[Any]]:
        """Where the ray through every pixel meets the horizontal plane at ``z_m``.

        Returns:
            (height, width, 2) x and y in metres, and (height, width) bool, False at and above the horizon.
        """
        width, height = size
        u = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / self.focal_px(width)
        v = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) / self.focal_px(width)
        right, down, forward = self.axes().astype(np.float32)
        ray = u[None, :, None] * right + v[:, None, None] * down + forward
        reaches = ray[..., 2] < -1e-4
        distance = (z_m - self.position_m[2]) / np.where(reaches, ray[..., 2], -1)
        return ray[..., :2] * distance[..., None] + np.asarray(self.position_m[:2], np.float32), reaches
