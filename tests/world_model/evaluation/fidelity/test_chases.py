"""Obstacle persistence: what counts as still there."""

from __future__ import annotations

import numpy as np

from world_model.core.grid import FREE, OCC3D
from world_model.data.demo import demo_root
from world_model.data.index import SceneIndex
from world_model.evaluation.fidelity.chases import GAP_M, find_chases, still_there
from world_model.evaluation.fidelity.result import WorldResult

CAR = np.argwhere(np.ones((8, 4, 3), bool)) + np.array((120, 98, 3))


def world(shift: int = 0, label: int = 4) -> np.ndarray:
    labels = np.full((1, *OCC3D.shape), FREE, np.uint8)
    labels[0][tuple((CAR + np.array((shift, 0, 0))).T)] = label
    return labels


def test_voxels_may_be_one_off_but_not_gone() -> None:
    count = len(CAR)
    assert still_there([CAR], world()).tolist() == [[count, count, count]]
    assert still_there([CAR], world(1)).tolist() == [[count, count, count * 7 // 8]]
    assert still_there([CAR], world(3)).tolist() == [[count, count * 6 // 8, count * 5 // 8]]
    assert still_there([CAR], world(label=FREE)).tolist() == [[count, 0, 0]]
    # Road is no obstacle.
    assert still_there([CAR], world(label=11)).tolist() == [[count, 0, 0]]


def test_what_is_not_asked_for_does_not_count() -> None:
    assert still_there([None], world()).tolist() == [[0, 0, 0]]


def test_seconds_are_summed_over_drives() -> None:
    kept = np.zeros((2, 6, 3), np.int64)
    kept[0, 0], kept[0, 1], kept[1, 2] = (10, 10, 5), (30, 10, 5), (8, 8, 8)
    found = WorldResult(name="x", kept=kept).persistence()
    assert found[1.0] == (0.5, 0.25, 40) and found[2.0] == (1.0, 1.0, 8) and found[3.0][2] == 0


def test_vehicles_ahead_are_found_once_each() -> None:
    index = SceneIndex.load(demo_root())
    chases = [chase for scene in range(5) for chase in find_chases(index, scene, 4, 3)]
    assert len(chases) >= 5 and len({chase.instance for chase in chases}) == len(chases)
    for chase in chases:
        assert GAP_M[0] <= chase.gap_m <= GAP_M[1] and chase.center_m[0] > chase.gap_m
