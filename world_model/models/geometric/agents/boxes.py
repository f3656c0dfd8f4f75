"""Tracks from the annotated boxes of a data set, where there are any: exact, but a planner's own sensors have none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from world_model.core.grid import MOVABLE, VoxelGrid
from world_model.data.boxes import MOVING_MPS, voxels_inside
from world_model.data.index import Boxes
from world_model.models.geometric.agents.tracker import Found
from world_model.models.geometric.agents.tracks import SLOTS, Tracks
from world_model.models.geometric.evidence import is_movable

MARGIN_M = 0.4
"""Voxels of an object lie up to so far outside its box."""


def tracks_of_boxes(labels: Tensor, boxes: Sequence[Boxes], grid: VoxelGrid) -> Found:
    """Annotated objects that can move: those under way first, then the nearest.

    Args:
        labels: (B, X, Y, Z) uint8 of the current frames.
        boxes: (B) of these frames, ego frame.
        grid: the voxel grid.
    """
    batch, device = labels.shape[0], labels.device
    tracks = Tracks.none(batch, torch.device("cpu"))
    slot = np.full((batch, *grid.shape[:2]), SLOTS, np.uint8)
    movable = is_movable(labels).any(-1).cpu().numpy()
    columns = {field.name: np.array(getattr(tracks, field.name)) for field in fields(tracks)}
    for b, given in enumerate(boxes):
        speed = np.nan_to_num(np.linalg.norm(given.velocity_mps, axis=1))
        speed[speed <= MOVING_MPS] = 0.0
        rank = np.lexsort((np.hypot(*given.center_m[:, :2].T), speed == 0))
        chosen = [n for n in rank if given.class_id[n] in MOVABLE][:SLOTS]
        heading = np.where(speed > 0, np.arctan2(given.velocity_mps[:, 1], given.velocity_mps[:, 0]), given.yaw_rad)
        table = {
            "x": given.center_m[:, 0],
            "y": given.center_m[:, 1],
            "yaw": heading,
            "speed": speed,
            "length": given.size_m[:, 0],
            "width": given.size_m[:, 1],
            "height": given.size_m[:, 2],
            "class_id": given.class_id,
            "alive": np.ones(len(speed), bool),
            "confidence": np.ones(len(speed)),
        }
        for name, value in table.items():
            columns[name][b, : len(chosen)] = value[chosen]
        for k, n in reversed(list(enumerate(chosen))):
            x, y, _ = voxels_inside(given, n, grid, MARGIN_M).T
            slot[b, x, y] = np.where(movable[b, x, y], k, slot[b, x, y])
    tracks = Tracks(**{name: torch.from_numpy(value).to(device) for name, value in columns.items()})
    return Found(tracks=tracks, slot=torch.from_numpy(slot).to(device))
