"""Tracks that replay a recording: where the boxes are, and those who appear later."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from world_model.core.grid import MOVABLE, OCC3D
from world_model.data.clips import load_clips
from world_model.data.demo import demo_root
from world_model.data.index import SceneIndex
from world_model.models.geometric.agents.boxes import tracks_of_boxes
from world_model.models.geometric.agents.recorded import recorded


@pytest.fixture(scope="module")
def index() -> SceneIndex:
    return SceneIndex.load(demo_root())


def test_tracks_go_where_the_boxes_go(index: SceneIndex) -> None:
    frame = int(index.frames(0)[5])
    clips = load_clips(index, [frame], 4, 6)
    found = tracks_of_boxes(clips.occupancy[:, -1], [index.boxes(frame)], OCC3D)
    tracks, scripts = recorded(found.tracks, index, [frame])
    later = scripts.followed(tracks.advanced(0.5), torch.tensor([1]))
    boxes, back = index.boxes(frame + 1), np.linalg.inv(index.ego_to_global[frame])
    place = (boxes.center_m @ index.ego_to_global[frame + 1][:3, :3].T + index.ego_to_global[frame + 1][:3, 3]) @ back[
        :3, :3
    ].T + back[:3, 3]
    now = index.boxes(frame)
    checked = 0
    for slot in torch.nonzero(tracks.moving[0] & ~scripts.solid[0])[:, 0].tolist():
        away = np.hypot(now.center_m[:, 0] - float(tracks.x[0, slot]), now.center_m[:, 1] - float(tracks.y[0, slot]))
        number = int(now.instance[int(away.argmin())])
        row = np.flatnonzero(boxes.instance == number)
        if len(row):
            assert np.allclose(place[row[0], :2], (float(later.x[0, slot]), float(later.y[0, slot])), atol=0.05)
            checked += 1
    assert checked


def test_who_appears_later_enters_then(index: SceneIndex) -> None:
    entering = 0
    for scene in range(len(index.scene_name)):
        frame = int(index.frames(scene)[5])
        clips = load_clips(index, [frame], 4, 1)
        found = tracks_of_boxes(clips.occupancy[:, -1], [index.boxes(frame)], OCC3D)
        tracks, scripts = recorded(found.tracks, index, [frame])
        known = set(index.boxes(frame).instance.tolist())
        assert not (tracks.alive & scripts.solid).any()
        slots = torch.nonzero(scripts.solid[0])[:, 0].tolist()
        assert all(int(tracks.class_id[0, slot]) in MOVABLE for slot in slots)
        entering += len(slots)
        for k in (1, 4, 12):
            step = torch.tensor([k])
            alive = scripts.followed(tracks, step).alive & scripts.solid
            here = set(index.boxes(frame + k).instance.tolist()) if frame + k in index.frames(scene) else set()
            assert int(alive.sum()) <= len(here - known)
    assert entering
