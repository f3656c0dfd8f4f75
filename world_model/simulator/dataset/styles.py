"""Synthetic scenes as other label makers would write them, on hills: labels, masks, poses and heights of boxes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import CLASS_ID, FREE, MOVABLE
from world_model.data.formats.poses import poses_of_matrices
from world_model.data.label_styles import LabelStyle, draw_style, draw_terrain
from world_model.simulator.dataset.config import DatasetConfig
from world_model.simulator.sensing.labels import Labels
from world_model.simulator.state import Floats

ROAD, SIDEWALK = CLASS_ID["driveable_surface"], CLASS_ID["sidewalk"]


def scene_style(config: DatasetConfig, scene: int) -> LabelStyle:
    """The label maker and the ground of a scene; they follow from the seed and the scene's number alone.

    On hills the ego frame always pitches and rolls with the road.
    """
    rng = np.random.default_rng([config.seed, scene, 404])
    hills = config.ground == "hills"
    style = draw_style(rng, flat=1.0) if config.labels_style == "varied" else LabelStyle(seed=scene)
    return replace(style, terrain=replace(draw_terrain(rng), tilts=True) if hills else None)


def draw_labels(style: LabelStyle, labels: Labels, ego_pose: Floats, frame: int) -> Labels:
    """The labels of a frame in a style, with masks that follow them.

    The camera's mask moves with the ground. The LiDAR's mask is that mask and the occupied voxels, except those that it
    left out before.

    Args:
        labels: plain ones on flat ground.
        ego_pose: (4, 4) their pose, level.
        frame: fixes what flickers.
    """
    drawn = replace(style, terrain=None).draw(labels.semantics, ego_pose, frame)
    unseen = (labels.semantics != FREE) & (labels.mask_lidar == 0)
    camera = labels.mask_camera
    if style.terrain is not None:
        on_hills = LabelStyle(terrain=style.terrain)
        shift = _lift(on_hills, drawn, ego_pose)
        drawn = on_hills.draw(drawn, ego_pose, frame)
        camera, unseen = _shifted(camera, shift), _shifted(unseen, shift)
    lidar = (camera != 0) | ((drawn != FREE) & ~unseen)
    return Labels(drawn, lidar.astype(np.uint8), camera)


def _lift(on_hills: LabelStyle, labels: NDArray[np.uint8], ego_pose: Floats) -> NDArray[np.int64]:
    """(X, Y) voxels by which each column is lifted; Z where it leaves the grid."""
    size_z = labels.shape[2]
    # One voxel in every column, at the bottom and at the top: where the ground carries it is the lift.
    low = ((labels == ROAD) | np.isin(labels, MOVABLE)).any(2)
    lift = np.full(labels.shape[:2], size_z, np.int64)
    for z in (0, size_z - 1):
        probe = np.full_like(labels, FREE)
        probe[..., z] = np.where(low, ROAD, SIDEWALK)
        occupied = on_hills.draw(probe, ego_pose, 0) != FREE
        here = occupied.any(2)
        lift[here] = occupied.argmax(2)[here] - z
    return lift


def _shifted(mask: NDArray[Any], lift: NDArray[np.int64]) -> NDArray[Any]:
    """A mask (X, Y, Z) with its columns lifted; nothing comes in from outside."""
    size_z = mask.shape[2]
    source = np.arange(size_z) - lift[..., None]
    moved = np.take_along_axis(mask, source.clip(0, size_z - 1), 2)
    return np.where((source >= 0) & (source < size_z), moved, np.zeros((), mask.dtype))


def exported_pose(style: LabelStyle, ego_pose: Floats, kind: str) -> tuple[tuple[float, float, float], list[float]]:
    """Position in metres and quaternion (w, x, y, z) of a frame as the tables have it.

    Args:
        ego_pose: (4, 4) on flat ground.
        kind: "true", or "nuscenes": z = 0, with pitch and roll.
    """
    place, quaternion = poses_of_matrices([style.pose(ego_pose, planar=False)], "simulated poses", ["frame"])
    x, y, z = place[0].tolist()
    return (x, y, 0.0 if kind == "nuscenes" else z), quaternion[0].tolist()


def box_lift_m(style: LabelStyle, boxes_xy_m: Floats, ego_pose: Floats, kind: str) -> Floats:
    """(N,) metres by which boxes at global places (N, 2) stand higher in the tables than on flat ground."""
    if style.terrain is None:
        return np.zeros(len(boxes_xy_m))
    lift: Floats = style.terrain.at(boxes_xy_m) + style.terrain.offset_m
    # Annotations are right in the ego frame of their keyframe, so they sink with its pose.
    return lift - float(style.terrain.at(ego_pose[:2, 3])) if kind == "nuscenes" else lift
