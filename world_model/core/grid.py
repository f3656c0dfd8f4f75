"""The voxel grid, the semantic classes and their colours: the ground floor that everything else stands on.

Conventions (more in docs/concepts/conventions.md)
    Ego frame: origin at the ego vehicle's rear axle on the ground, x forward, y left, z up, metres.
    Occupancy: integer labels indexed ``[x, y, z]``; voxel ``(i, j, k)`` covers
    ``[x0 + i*v, x0 + (i+1)*v) x ...`` with ``(x0, y0, z0)`` the lower corner and ``v`` the voxel edge.
    Voxel centres therefore lie at ``x0 + (i + 0.5) * v``.

Classes and extent follow Occ3D-nuScenes (Tian et al., NeurIPS 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

CLASS_NAMES: tuple[str, ...] = (
    "others",
    "barrier",
    "bicycle",
    "bus",
    "car",
    "construction_vehicle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "trailer",
    "truck",
    "driveable_surface",
    "other_flat",
    "sidewalk",
    "terrain",
    "manmade",
    "vegetation",
    "free",
)
NUM_CLASSES = len(CLASS_NAMES)
CLASS_ID: dict[str, int] = {name: i for i, name in enumerate(CLASS_NAMES)}
FREE = CLASS_ID["free"]
DRIVEABLE = CLASS_ID["driveable_surface"]
IGNORE = 255
"""Label value that is left out of losses and metrics."""

MOVABLE: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 9, 10)
"""Classes whose instances can move by themselves."""
GROUND: tuple[int, ...] = (11, 12, 13, 14)
"""Surfaces that are driven or walked on."""
OBSTACLE: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 16)
"""Classes that a vehicle collides with (``others`` is too unreliable in real labels to count)."""
STATIC: tuple[int, ...] = tuple(c for c in range(FREE) if c not in MOVABLE)

CLASS_COLORS: tuple[tuple[int, int, int], ...] = (
    (90, 90, 90),  # others
    (255, 120, 50),  # barrier
    (255, 130, 170),  # bicycle
    (240, 200, 0),  # bus
    (0, 135, 245),  # car
    (0, 205, 205),  # construction_vehicle
    (190, 120, 0),  # motorcycle
    (230, 20, 30),  # pedestrian
    (250, 225, 120),  # traffic_cone
    (125, 60, 25),  # trailer
    (150, 60, 235),  # truck
    (150, 130, 158),  # driveable_surface
    (175, 160, 130),  # other_flat
    (85, 45, 90),  # sidewalk
    (150, 225, 100),  # terrain
    (205, 205, 215),  # manmade
    (30, 150, 45),  # vegetation
    (250, 250, 252),  # free
)
"""RGB 0..255 by class id."""


@dataclass(frozen=True, kw_only=True)
class VoxelGrid:
    """Extent of an occupancy grid in the ego frame.

    Args:
        shape: number of voxels along (x, y, z).
        lower_m: lower corner (x0, y0, z0) in metres, ego frame.
        voxel_m: edge of a cubic voxel in metres.
    """

    shape: tuple[int, int, int] = (200, 200, 16)
    lower_m: tuple[float, float, float] = (-40.0, -40.0, -1.0)
    voxel_m: float = 0.4

    @property
    def upper_m(self) -> tuple[float, float, float]:
        """Upper corner in metres, ego frame."""
        low, n = self.lower_m, self.shape
        return (low[0] + n[0] * self.voxel_m, low[1] + n[1] * self.voxel_m, low[2] + n[2] * self.voxel_m)


OCC3D = VoxelGrid()
"""The grid of Occ3D-nuScenes: 200 x 200 x 16 voxels of 0.4 m over [-40, 40) x [-40, 40) x [-1, 5.4) m."""

STEP_S = 0.5
"""Nominal time between keyframes, seconds."""
EGO_LENGTH_M = 4.084
EGO_WIDTH_M = 1.85
EGO_WHEELBASE_M = 2.588
EGO_REAR_OVERHANG_M = 0.75
"""Rear axle (the ego frame's origin) to the rear bumper; places the footprint at x in [-0.75, 3.334] m."""
