"""Plans of a world in UniAD's and ST-P3's conventions: distances, collisions, what the true drive hits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from world_model.core.geometry import se2_matrix
from world_model.data.index import Boxes
from world_model.evaluation.forecasting.planning import plan_counts
from world_model.evaluation.forecasting.scene_data import Window
from world_model.evaluation.result import ForecastResult


def drive(speed: float, left: float = 0.0, steps: int = 6) -> Tensor:
    time = torch.arange(steps + 1, dtype=torch.float64)
    return se2_matrix(speed * time, left * time, torch.zeros_like(time))


def window(poses: Tensor, obstacle_x: float, class_id: int = 4) -> Window:
    """A drive along x with a standing car of 4 x 2 m ahead, seen from each frame."""

    def boxes(frame: int) -> Boxes:
        place = np.array([[obstacle_x - float(poses[frame, 0, 3]), -float(poses[frame, 1, 3]), 0.8]])
        return Boxes(
            center_m=place, size_m=np.array([[4.0, 2.0, 1.6]]), yaw_rad=np.zeros(1), velocity_mps=np.zeros((1, 2)),
            class_id=np.array([class_id], np.uint8), instance=np.zeros(1, np.int64),
        )  # fmt: skip

    scene: Any = SimpleNamespace(index=SimpleNamespace(boxes=boxes), first=0)
    there = SimpleNamespace(scene=scene, now=0, poses=lambda first, last: poses[first : last + 1])
    return cast("Window", there)


def test_distances_and_collisions_of_every_step() -> None:
    """At 3 m a step the car's front, 3.5 m before its axle, meets the back of a car at 13 m in the third step."""
    counts = plan_counts(drive(3.0)[None], [window(drive(1.0), obstacle_x=15.0)])
    assert counts[:, 0].tolist() == [2_000_000 * k for k in range(1, 7)]
    assert counts[:, 1].tolist() == [0, 0, 0, 1, 1, 0]
    harmless = plan_counts(drive(3.0)[None], [window(drive(1.0), obstacle_x=15.0, class_id=15)])
    assert not harmless[:, 1].any()


def test_what_the_true_drive_hits_does_not_count() -> None:
    counts = plan_counts(drive(3.0)[None], [window(drive(3.0), obstacle_x=15.0)])
    assert not counts.any()


def test_both_conventions() -> None:
    result = ForecastResult.zero(("a pred-ego",), (1.0, 2.0, 3.0), windows=2)
    result.plans[0, :, 0] = np.arange(1, 7) * 2_000_000
    result.plans[0, 3, 1] = 1
    assert result.plan("a pred-ego", 2, "UniAD") == pytest.approx((4.0, 0.5))
    assert result.plan("a pred-ego", 2, "ST-P3") == pytest.approx((2.5, 0.125))
    assert result.plan("a pred-ego", 3, "UniAD") == pytest.approx((6.0, 0.0))
