"""A picture of one drive over time: the truth above, and each world's forecast with its error below."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from world_model.core.geometry import se2_matrix
from world_model.core.grid import STEP_S
from world_model.evaluation.fidelity.measure import decoded_steps
from world_model.evaluation.fidelity.scene import CHASE, BenchmarkScene, Experiment
from world_model.pictures.bev import birds_eye
from world_model.pictures.difference import COLORS, NAMES, difference_picture
from world_model.pictures.strip import key, strip
from world_model.pictures.video import write_png
from world_model.rollouts import roll
from world_model.worlds.protocol import World

SCALE = 1
MOST_COLUMNS = 6


def draw_drive(path: Path, worlds: dict[str, World], scene: BenchmarkScene, experiment: Experiment) -> Path:
    """Draw a scene's first drive in every world.

    Args:
        path: PNG to write.
        worlds: worlds by name.
        scene: where.
        experiment: what is driven, with true conditioning.
    """
    chase, decoded = experiment.actions == CHASE, decoded_steps(experiment, scene.steps)
    steps = [k for k in (decoded if chase else scene.steps) if k > 0][:MOST_COLUMNS]
    truth = scene.truth(experiment.actions, decoded)
    true = {k: truth.labels[k][0].numpy() for k in steps}
    driven = se2_matrix(*torch.from_numpy(truth.executed.planar[0]).unbind(-1)).numpy()
    poses = np.stack(list(accumulate(driven, np.matmul, initial=np.eye(4))))  # (K + 1, 4, 4) in the frame of the start
    goal_m = scene.chases[0].center_m if chase else None

    def picture(labels: NDArray[Any], k: int) -> NDArray[Any]:
        """Occupancy with the way that is still to be driven, and what is driven at."""
        from_start = np.linalg.inv(poses[k])
        goal = None if goal_m is None else (from_start @ (*goal_m, 0.0, 1.0))[:2]
        path_m = (from_start @ poses[k:])[:, :2, 3]
        return birds_eye(labels, scale=SCALE, grid=scene.grid, path_m=path_m, goal_m=goal)

    rows: list[Sequence[NDArray[Any] | None]] = [[picture(true[k], k) for k in steps]]
    labels = ["truth"]
    given = scene.conditioning(experiment, max(decoded))
    command, motions = given.command[:1, : steps[-1]], given.curr_to_next[:1, : steps[-1]]
    for name, world in worlds.items():
        start = scene.start(world, chase).index(0)
        forecast = roll(world, start, command, motions, decode=steps, labels_on="cpu").occupancy
        rows.append([picture(forecast[k][0].numpy(), k) for k in steps])
        rows.append([difference_picture(forecast[k][0].numpy(), true[k], SCALE) for k in steps])
        labels += [name, "error"]
    title = f"{experiment.name}: {scene.index.source} {scene.name}"
    table = strip(rows, columns=[f"{k * STEP_S:g} s" for k in steps], labels=labels, title=title)
    return write_png(path, np.concatenate((table, key(table.shape[1], NAMES, COLORS[1:]))))
