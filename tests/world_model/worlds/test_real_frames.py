"""The bundled world on real label frames that no training has seen: held still, nothing may change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from real_files import REAL
from street import street_clips

from world_model.core.grid import CLASS_ID, OCC3D
from world_model.data.labels import read_labels
from world_model.evaluation.metrics import Confusion
from world_model.rollouts.rollout import roll
from world_model.worlds import build_world

ROAD = CLASS_ID["driveable_surface"]


@pytest.mark.parametrize("file", ["occ3d/frame_a.npz", "occ3d/frame_a_prediction.npz", "early/labels.npz"])
def test_a_real_frame_held_still_is_kept(file: str) -> None:
    path = REAL / file
    if not path.exists():
        pytest.skip(f"{path} is not there")
    labels = torch.from_numpy(np.array(read_labels(path)))
    clips = replace(street_clips(OCC3D, speed_mps=0.0), occupancy=labels[None, None].repeat(1, 5, 1, 1, 1))
    still = torch.eye(4, dtype=torch.float64).repeat(1, 6, 1, 1)
    shown = roll(build_world(device="cpu"), clips, torch.full((1, 6), 2), still, decode=(2, 6)).occupancy
    for step, least in ((2, 0.97), (6, 0.93)):
        confusion = Confusion()
        confusion.add(shown[step], labels[None])
        assert confusion.miou() >= least
    for z in range(OCC3D.shape[2]):
        road = labels[:, :, z] == ROAD
        if road.sum() >= 80:
            assert (shown[2][0, :, :, z][road] == ROAD).float().mean() >= 0.95
