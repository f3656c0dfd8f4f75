"""A picture of one drive over time: the truth above, and each world's forecast with its error below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from world_model.core.geometry import se2_matrix
from world_model.core.grid import STEP_S
from world_model.evaluation.fidelity.case import CHASE, Case, Task
from world_model.evaluation.fidelity.measure import wanted_steps
from world_model.pictures.bev import birds_eye
from world_model.pictures.difference import COLORS, NAMES, difference_picture
from world_model.pictures.strip import key, strip
from world_model.pictures.video import write_png
from world_model.rollouts import roll
from world_model.worlds.protocol import World

SCALE = 1
MOST_COLUMNS = 6


def draw_case(path: Path, worlds: dict[str, World], case: Case, task: Task, row: int = 0) -> Path:
    """Draw what one drive looks like in every world.

    Args:
        path: PNG to write.
        worlds: worlds by name.
        case: the scene.
        task: the drive.
        row: which of the case's starts (or chases).
    """
    wanted = wanted_steps(task, case.steps)
    shown_steps = [k for k in (wanted if task.drive == CHASE else case.steps) if k > 0][:MOST_COLUMNS]
    truth = case.truth(task.drive, wanted)
    true = {k: truth.labels[k][row].numpy() for k in shown_steps}
    ahead = _ahead(truth.driven.motion[row])
    goal = case.chases[row].center_m if task.drive == CHASE else None
    rows: list[Sequence[NDArray[Any] | None]] = [[_seen(true[k], ahead[k:], case, goal) for k in shown_steps]]
    labels = ["truth"]
    for name, world in worlds.items():
        start = case.start(world, task.drive == CHASE).index(row)
        told, last = case.told(task, max(wanted)), shown_steps[-1]
        command, motions = told.command[row : row + 1, :last], told.curr_to_next[row : row + 1, :last]
        forecast = roll(world, start, command, motions, decode=shown_steps, labels_on="cpu").occupancy
        rows.append([_seen(forecast[k][0].numpy(), ahead[k:], case, goal) for k in shown_steps])
        rows.append([difference_picture(forecast[k][0].numpy(), true[k], SCALE) for k in shown_steps])
        labels += [name, "error"]
    scene = case.index.scene_name[case.scene]
    title = f"{task.name}: {case.index.source} {scene}"
    columns = [f"{k * STEP_S:g} s" for k in shown_steps]
    table = strip(rows, columns=columns, labels=labels, title=title)
    return write_png(path, np.concatenate((table, key(table.shape[1], NAMES, COLORS[1:]))))


def _seen(labels: NDArray[Any], ahead: NDArray[Any], case: Case, goal_m: tuple[float, float] | None) -> NDArray[Any]:
    """Occupancy with the way that is still to be driven, and what is driven at (given in the frame of the start)."""
    into = np.linalg.inv(ahead[0])
    goal = None if goal_m is None else (into @ (*goal_m, 0.0, 1.0))[:2]
    return birds_eye(labels, scale=SCALE, grid=case.grid, path_m=(into @ ahead)[:, :2, 3], goal_m=goal)


def _ahead(motion: NDArray[Any]) -> NDArray[Any]:
    """(K + 1, 4, 4) ego poses in the frame of the start."""
    poses = [np.eye(4)]
    for step in se2_matrix(*torch.from_numpy(motion).unbind(-1)).numpy():
        poses.append(poses[-1] @ step)
    return np.stack(poses)
