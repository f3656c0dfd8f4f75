"""Tracks from the annotated boxes of a data set, where there are any: exact, but a planner's own sensors have none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.grid import MOVABLE, STEP_S, VoxelGrid
from world_model.data.boxes import MOVING_MPS, transform, voxels_inside
from world_model.data.clips import scene_of
from world_model.data.index import Boxes, SceneIndex
from world_model.models.geometric.agents.tracker import Found
from world_model.models.geometric.agents.tracks import SLOTS, Tracks
from world_model.models.geometric.evidence import is_movable

MOST_RPS = 1.0
"""Boxes that turn faster have been annotated the other way round."""
MARGIN_M = 0.4
"""Voxels of an object lie up to so far outside its box."""


def boxes_before(index: SceneIndex, frame: int) -> Boxes | None:
    """Boxes of the frame before one, in its ego frame; None before the beginning of a scene."""
    if frame - 1 not in index.frames(scene_of(index, frame)):
        return None
    return transform(index.boxes(frame - 1), np.linalg.inv(index.ego_to_global[frame]) @ index.ego_to_global[frame - 1])


def tracks_of_boxes(
    labels: Tensor, boxes: Sequence[Boxes], grid: VoxelGrid, before: Sequence[Boxes | None] = ()
) -> Found:
    """Annotated objects that can move: those under way first, then the nearest.

    Args:
        labels: (B, X, Y, Z) uint8 of the current frames.
        boxes: (B) of these frames, ego frame.
        grid: the voxel grid.
        before: (B) those of a step earlier in the same ego frames, which tell yaw rates; may be left out.
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
            "yaw_rate": _yaw_rates(given, before[b] if before else None) * (speed > 0),
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


def _yaw_rates(boxes: Boxes, before: Boxes | None) -> NDArray[np.float64]:
    """(N,) rad/s of boxes whose instance was there a step earlier, 0 of the others."""
    rate = np.zeros(len(boxes.instance))
    if before is not None:
        rows = {int(number): n for n, number in enumerate(before.instance) if number >= 0}
        for n, number in enumerate(boxes.instance.tolist()):
            if number in rows:
                rate[n] = math.remainder(float(boxes.yaw_rad[n] - before.yaw_rad[rows[number]]), 2 * math.pi) / STEP_S
    return np.where(np.abs(rate) < MOST_RPS, rate, 0.0)
