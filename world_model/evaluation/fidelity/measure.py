"""What is counted of a world in one task on one scene: plain arrays, which can be stored and added up.

Legend: H horizons, B drives, R steps at which the ego response is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.grid import VoxelGrid
from world_model.evaluation.fidelity.case import CHASE, Case, Task, Truth
from world_model.evaluation.fidelity.chases import CHASE_STEPS, still_there
from world_model.evaluation.fidelity.registration import recover_motion
from world_model.evaluation.metrics import Confusion
from world_model.rollouts import roll
from world_model.worlds.protocol import World

RESPONSE_STEPS = (1, 3, 6)
"""Steps whose motion is looked for in the forecasts: the first, one in the middle, and the last within 3 s."""
Counts = dict[str, NDArray[Any]]


def wanted_steps(task: Task, horizons: Sequence[int]) -> list[int]:
    """Steps whose occupancy a task needs."""
    if task.drive == CHASE:
        return list(range(1, CHASE_STEPS + 1))
    around = [k + side for k in RESPONSE_STEPS if k <= max(horizons) for side in (-1, 0)]
    return sorted({*horizons, *around})


def measure(world: World, case: Case, task: Task) -> Counts:
    """Let a world answer a task.

    Returns:
        For a chase "kept" (B, K, 3), see `chases.still_there`; else "counts" (H, 19, 18), see `Confusion.table`, and
        where the world is told the truth "response" (B, R, 2, 3): motions found and driven.
    """
    steps = wanted_steps(task, case.steps)
    truth = case.truth(task.drive, steps)
    shown = _shown(world, case, task, steps)
    if task.drive == CHASE:
        return {"kept": _kept(truth, shown)}
    found: Counts = {"counts": np.stack([_table(shown[k], truth.labels[k]) for k in case.steps])}
    if not task.arm:
        found["response"] = response(shown, truth.driven.motion, world.grid)
    return found


def _shown(world: World, case: Case, task: Task, steps: list[int]) -> dict[int, Tensor]:
    """What a world shows in a task, some drives at a time."""
    start, told = case.start(world, task.drive == CHASE), case.told(task, max(steps))
    parts = []
    for rows in torch.arange(len(told.motion)).split(case.batch):
        some = start if len(rows) == len(told.motion) else start.index(rows)
        found = roll(world, some, told.command[rows], told.curr_to_next[rows], decode=steps, labels_on="cpu")
        parts.append(found.occupancy)
    return {k: torch.cat([part[k] for part in parts]) for k in steps}


def measure_truth(case: Case, task: Task) -> Counts:
    """What the truth itself would be found to do: the floor of the registration."""
    truth = case.truth(task.drive, wanted_steps(task, case.steps))
    if task.drive == CHASE:
        return {"kept": _kept(truth, truth.labels)}
    return {"response": response(truth.labels, truth.driven.motion, case.grid)}


def response(labels: dict[int, Tensor], driven: NDArray[Any], grid: VoxelGrid) -> NDArray[Any]:
    """(B, R, 2, 3) motions found in labels and driven, for the steps of `RESPONSE_STEPS` that there are."""
    steps = [k for k in RESPONSE_STEPS if k in labels and k - 1 in labels]
    before, after = (torch.stack([labels[k - back] for k in steps], 1) for back in (1, 0))
    found = recover_motion(before.flatten(0, 1), after.flatten(0, 1), grid).numpy()
    return np.stack((found.reshape(-1, len(steps), 3), driven[:, [k - 1 for k in steps]]), 2)


def _kept(truth: Truth, shown: dict[int, Tensor]) -> NDArray[Any]:
    assert truth.seen is not None
    drives = [np.stack([shown[k][b].numpy() for k in range(1, CHASE_STEPS + 1)]) for b in range(len(truth.seen))]
    return np.stack([still_there(seen, labels) for seen, labels in zip(truth.seen, drives, strict=True)])


def _table(shown: Tensor, true: Tensor) -> NDArray[Any]:
    confusion = Confusion()
    confusion.add(shown, true)
    return confusion.table
