"""What is counted of a world in one experiment on one scene.

Legend: H horizons, B drives, R steps at which the ego response is measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.grid import VoxelGrid
from world_model.data.labels import unknown_as_free
from world_model.evaluation.fidelity.actions import Floats
from world_model.evaluation.fidelity.chases import CHASE_STEPS, still_there
from world_model.evaluation.fidelity.registration import recover_motion
from world_model.evaluation.fidelity.result import Counts
from world_model.evaluation.fidelity.scene import CHASE, BenchmarkScene, Experiment, GroundTruth
from world_model.evaluation.metrics import Confusion
from world_model.rollouts import roll
from world_model.worlds.protocol import World

RESPONSE_STEPS = (1, 3, 6)
"""Steps whose motion is looked for in the forecasts: the first, one in the middle, and the last within 3 s."""


def decoded_steps(experiment: Experiment, horizons: Sequence[int]) -> list[int]:
    """Steps whose occupancy an experiment needs."""
    if experiment.actions == CHASE:
        return list(range(1, CHASE_STEPS + 1))
    around = [k + side for k in RESPONSE_STEPS if k <= max(horizons) for side in (-1, 0)]
    return sorted({*horizons, *around})


def measure(world: World | None, scene: BenchmarkScene, experiment: Experiment) -> Counts:
    """Run an experiment.

    Args:
        world: what to measure; None for the ground truth itself, which gives the floor of the registration.
        scene: where.
        experiment: which.

    Returns:
        For a chase "kept" (B, K, 3), see `chases.still_there`; else "counts" (H, 19, 18), see `Confusion.table` (not of
        the ground truth), and under true conditioning "response" (B, R, 2, 3): motions found and executed.
    """
    steps = decoded_steps(experiment, scene.steps)
    truth = scene.truth(experiment.actions, steps)
    if world is None:
        labels = {step: unknown_as_free(known) for step, known in truth.labels.items()}
    else:
        labels = _forecast(world, scene, experiment, steps)
    if experiment.actions == CHASE:
        return {"kept": _kept(truth, labels)}
    found: Counts = {}
    if world is not None:
        found["counts"] = np.stack([Confusion.of(labels[k], truth.labels[k]).table for k in scene.steps])
    if not experiment.arm:
        found["response"] = _response(labels, truth.executed.planar, scene.grid)
    return found


def _forecast(world: World, scene: BenchmarkScene, experiment: Experiment, steps: list[int]) -> dict[int, Tensor]:
    """(B, X, Y, Z) labels of a world by step, some drives at a time."""
    start, given = scene.start(world, experiment.actions == CHASE), scene.conditioning(experiment, max(steps))
    parts = []
    for rows in torch.split(torch.arange(len(given.command)), scene.batch):
        some = start if len(rows) == len(given.command) else start.index(rows)
        found = roll(world, some, given.command[rows], given.curr_to_next[rows], decode=steps, labels_on="cpu")
        parts.append(found.occupancy)
    return {k: torch.cat([part[k] for part in parts]) for k in steps}


def _response(labels: dict[int, Tensor], executed: Floats, grid: VoxelGrid) -> Floats:
    """(B, R, 2, 3) motions found in labels and executed, for the steps of `RESPONSE_STEPS` that there are."""
    steps = [k for k in RESPONSE_STEPS if k in labels and k - 1 in labels]
    before, after = (torch.stack([labels[k - back] for k in steps], 1) for back in (1, 0))
    found = recover_motion(before.flatten(0, 1), after.flatten(0, 1), grid).numpy()
    return np.stack((found.reshape(-1, len(steps), 3), executed[:, [k - 1 for k in steps]]), 2)


def _kept(truth: GroundTruth, labels: dict[int, Tensor]) -> NDArray[np.int64]:
    drives = torch.stack([labels[k] for k in range(1, CHASE_STEPS + 1)], 1).numpy()
    return np.stack([still_there(visible, drive) for visible, drive in zip(truth.visible, drives, strict=True)])
