"""Synthetic scenes as other label makers would write them: labels and masks."""

from __future__ import annotations

import numpy as np

from world_model.core.grid import FREE
from world_model.data.label_styles import LabelStyle, draw_style
from world_model.simulator.dataset.config import DatasetConfig
from world_model.simulator.sensing.labels import Labels
from world_model.simulator.state import Floats


def scene_style(config: DatasetConfig, scene: int) -> LabelStyle:
    """The label maker of a scene; it follows from the seed and the scene's number alone."""
    if config.plain:
        return LabelStyle(seed=scene)
    return draw_style(np.random.default_rng([config.seed, scene, 404]), flat=1.0)


def draw_labels(style: LabelStyle, labels: Labels, ego_pose: Floats, frame: int) -> Labels:
    """The labels of a frame in a style, with masks that follow them.

    The LiDAR's mask is the camera's mask and the occupied voxels, except those that it left out before.

    Args:
        labels: plain ones.
        ego_pose: (4, 4) their pose.
        frame: fixes what flickers.
    """
    drawn = style.draw(labels.semantics, ego_pose, frame)
    unseen = (labels.semantics != FREE) & (labels.mask_lidar == 0)
    lidar = (labels.mask_camera != 0) | ((drawn != FREE) & ~unseen)
    return Labels(drawn, lidar.astype(np.uint8), labels.mask_camera)
