"""What the geometry-first forecaster learns from: an observed moment, a later one, and how fast things move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from world_model.core.geometry import invert_pose
from world_model.core.grid import VoxelGrid
from world_model.data.boxes import moving_boxes, voxels_inside
from world_model.data.index import SceneIndex
from world_model.data.label_styles import LabelStyle

BOX_MARGIN_M = 0.4


@dataclass(frozen=True, kw_only=True)
class MomentBatch:
    """B pairs of an observed and a later moment.

    Attributes:
        observed: (B, P, X, Y, Z) uint8, oldest first.
        frame_to_current: (B, P, 4, 4) float32 ego frame of each observed frame -> current ego frame, metres.
        target: (B, X, Y, Z) uint8 labels of the later moment, 255 where nothing is known.
        target_to_current, before_to_current: (B, 4, 4) ego frame of the later moment, and of the keyframe before it,
            -> current ego frame.
        elapsed_s, before_s: (B,) time since the current keyframe of the two.
        velocity_mps: (B, X, Y, 2) velocity inside moving boxes; zero elsewhere.
        known: (B,) bool, whether the current keyframe has boxes at all.
    """

    observed: Tensor
    frame_to_current: Tensor
    target: Tensor
    target_to_current: Tensor
    before_to_current: Tensor
    elapsed_s: Tensor
    before_s: Tensor
    velocity_mps: Tensor
    known: Tensor


def read_moment(
    index: SceneIndex,
    frame: int,
    steps: int,
    observed: int,
    grid: VoxelGrid,
    style: LabelStyle | None = None,
    *,
    planar: bool = True,
    held: bool = False,
) -> dict[str, Tensor]:
    """One sample of a `MomentBatch`, without the batch axis.

    Args:
        index: the data set.
        frame: number of the current keyframe.
        steps: how far ahead the later moment is.
        observed: frames to read up to the current one.
        grid: the voxel grid.
        style: another label maker, and ground of another shape.
        planar: the poses know nothing of that ground, as nuScenes' with height 0; else they follow it.
        held: the current frame stands for all of them: where nothing moves or flickers, nothing may change.
    """
    style = style or LabelStyle()
    later = (frame + steps - 1, frame + steps)
    rows = [*range(frame - observed + 1, frame + 1), *later]
    rows = [frame] * len(rows) if held else rows
    recorded = index.ego_to_global[rows]
    pose = torch.from_numpy(np.stack([style.pose(one, planar=planar) for one in recorded]))
    labels = [np.asarray(index.read_labels(f, grid.shape)) for f in rows[:observed]]
    labels.append(np.asarray(index.read_truth(rows[-1], grid.shape)))
    seen_at = [*range(observed), len(rows) - 1]
    drawn = [style.draw(one, recorded[n], rows[n], grid) for n, one in zip(seen_at, labels, strict=True)]
    # Relative poses before float32: global coordinates run to kilometres.
    to_current = (invert_pose(pose[observed - 1]) @ pose).float()
    seconds = torch.tensor((index.timestamp_us[[*later]] - index.timestamp_us[frame]) * 1e-6, dtype=torch.float32)
    velocity, known = box_velocities(index, frame, grid)
    return {
        "observed": torch.from_numpy(np.stack(drawn[:-1])),
        "frame_to_current": to_current[:observed],
        "target": torch.from_numpy(drawn[-1]),
        "target_to_current": to_current[-1],
        "before_to_current": to_current[-2],
        "elapsed_s": seconds[1],
        "before_s": seconds[0],
        "velocity_mps": torch.zeros_like(velocity) if held else velocity,
        "known": torch.tensor(known),
    }


def box_velocities(index: SceneIndex, frame: int, grid: VoxelGrid) -> tuple[Tensor, bool]:
    """(X, Y, 2) float32 velocity of the columns inside boxes that move, ego axes, and whether there are boxes."""
    field = torch.zeros(*grid.shape[:2], 2)
    boxes = index.boxes(frame)
    movers = moving_boxes(boxes)
    for number in range(len(movers.class_id)):
        voxel = voxels_inside(movers, number, grid, BOX_MARGIN_M)
        field[voxel[:, 0], voxel[:, 1]] = torch.from_numpy(np.asarray(movers.velocity_mps[number], np.float32))
    return field, len(boxes.class_id) > 0
