"""Scripts out of a recording: tracks follow the boxes that were annotated later, and those who appear later enter.

Legend: B grids, K slots, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray

from world_model.core.grid import MOVABLE, STEP_S
from world_model.data.boxes import transform
from world_model.data.clips import scene_of
from world_model.data.index import Boxes, SceneIndex
from world_model.models.geometric.agents.scripts import SCRIPT_STEPS, Scripts
from world_model.models.geometric.agents.tracks import Tracks

NEAR_M = 2.5
"""A track is the nearest box of its class within this distance."""
MOVED_M = 1.0
"""What is recorded this far from where it stands will drive."""
BARELY_MPS = 1e-3
"""Speed of what stands now and drives later: its voxels are those of a body from the beginning."""
ENTERS_M = 50.0
"""Who appears within this distance of the ego of the reset, or of the ego then, enters."""


def recorded(tracks: Tracks, index: SceneIndex, frames: Sequence[int]) -> tuple[Tracks, Scripts]:
    """Tracks of a reset, and scripts that let them do what was recorded.

    Tracks without a box keep their velocity; who appears later takes a free slot, as a solid. Instances beyond the
    recording keep their velocity, too.

    Args:
        tracks: found at the reset, (B) grids.
        index: the data set, with boxes that tell instances.
        frames: (B) frame numbers of the current frames.
    """
    scripts = Scripts.none(len(frames), torch.device("cpu"))
    pose, solid = scripts.pose.numpy(), scripts.solid.numpy()
    table = {field.name: getattr(tracks, field.name).cpu().numpy().copy() for field in fields(tracks)}
    for b, frame in enumerate(frames):
        _record({name: value[b] for name, value in table.items()}, pose[b], solid[b], index, frame)
    device = tracks.x.device
    told = Tracks(**{name: torch.from_numpy(value).to(device) for name, value in table.items()})
    return told, scripts.map(lambda value: value.to(device))


def _later(index: SceneIndex, frame: int) -> list[Boxes]:
    """Boxes of a frame and of those after it in its scene, in the ego frame of the first."""
    last = index.frames(scene_of(index, frame)).stop
    back = np.linalg.inv(index.ego_to_global[frame])
    count = min(SCRIPT_STEPS + 1, last - frame)
    return [transform(index.boxes(frame + k), back @ index.ego_to_global[frame + k]) for k in range(count)]


def _record(
    row: dict[str, NDArray[np.float32]],
    pose: NDArray[np.float32],
    solid: NDArray[np.bool_],
    index: SceneIndex,
    frame: int,
) -> None:
    """Fill one grid's scripts, in place, and mark who drives later."""
    frames = _later(index, frame)
    rows = [{int(number): n for n, number in enumerate(boxes.instance) if number >= 0} for boxes in frames]
    owners: dict[int, int] = {}
    for slot in np.flatnonzero(row["alive"]):
        now = frames[0]
        away = np.hypot(now.center_m[:, 0] - row["x"][slot], now.center_m[:, 1] - row["y"][slot])
        away = np.where((now.class_id == row["class_id"][slot]) & (now.instance >= 0), away, np.inf)
        if len(away) and away.min() < NEAR_M and int(now.instance[away.argmin()]) not in owners:
            owners[int(now.instance[away.argmin()])] = int(slot)
    ego = np.stack([index.ego_to_global[frame + k][:2, 3] for k in range(len(frames))])
    ego = np.hypot(*(ego - ego[0]).T)
    free = [int(slot) for slot in np.flatnonzero(~row["alive"])][::-1]
    for k in range(1, len(frames)):
        for number, n in rows[k].items():
            near = np.hypot(*frames[k].center_m[n, :2]) < ENTERS_M + ego[k]
            enters = number not in owners and number not in rows[0] and frames[k].class_id[n] in MOVABLE and near
            if enters and free:
                owners[number] = free.pop()
                _enter(row, solid, owners[number], frames[k], n)
    for number, slot in owners.items():
        shown = [(k, rows[k][number]) for k in range(len(frames)) if number in rows[k]]
        place = np.array([(*frames[k].center_m[n, :2], frames[k].yaw_rad[n]) for k, n in shown])
        if not solid[slot]:
            # Where the track was seen beside its box, it stays beside it.
            turn = place[:, 2] - place[0, 2]
            dx, dy = row["x"][slot] - place[0, 0], row["y"][slot] - place[0, 1]
            place[:, 0] += np.cos(turn) * dx - np.sin(turn) * dy
            place[:, 1] += np.sin(turn) * dx + np.cos(turn) * dy
            place[:, 2] = row["yaw"][slot] + turn
        step = np.array([k for k, _ in shown])
        speed = np.linalg.norm(np.gradient(place[:, :2], step * STEP_S, axis=0), axis=1) if len(step) > 1 else [0.0]
        pose[slot, step[step > 0] - 1] = np.column_stack((place[:, :2], place[:, 2], speed))[step > 0]
        if np.hypot(*(place[:, :2] - place[0, :2]).T).max() > MOVED_M:
            row["speed"][slot] = max(float(row["speed"][slot]), BARELY_MPS)


def _enter(row: dict[str, NDArray[np.float32]], solid: NDArray[np.bool_], slot: int, boxes: Boxes, n: int) -> None:
    """Prepare a slot for an object that is not there yet."""
    solid[slot] = True
    row["class_id"][slot], row["confidence"][slot] = boxes.class_id[n], 1.0
    row["x"][slot], row["y"][slot] = boxes.center_m[n, :2]
    row["yaw"][slot] = boxes.yaw_rad[n]
    row["length"][slot], row["width"][slot], row["height"][slot] = boxes.size_m[n]
