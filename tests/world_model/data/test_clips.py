from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from world_model.core.errors import DataError, OptionError
from world_model.core.grid import VoxelGrid
from world_model.data.clips import load_clips, load_frame, windows
from world_model.data.formats.nuscenes import read_nuscenes
from world_model.data.index import SceneIndex

GRID = VoxelGrid(shape=(40, 40, 16), lower_m=(-8.0, -8.0, -1.0))


@pytest.fixture
def index(scenes_root: Path) -> SceneIndex:
    return read_nuscenes(scenes_root).to_index()[0]


def test_windows_stay_in_their_scene(index: SceneIndex) -> None:
    assert windows(index, "train") == [4, 5]
    assert windows(index, "all", past=4, future=4) == [4, 5, 6, 7, 16]
    with pytest.raises(DataError, match="long enough"):
        windows(index, "val")
    with pytest.raises(DataError, match="split"):
        windows(index, "test")


def test_clip_holds_the_frames_in_order(index: SceneIndex) -> None:
    clips = load_clips(index, [4, 5], with_future_labels=True, grid=GRID)
    assert clips.occupancy.shape == (2, 5, 40, 40, 16) and clips.occupancy.dtype == torch.uint8
    assert clips.future_occupancy is not None and clips.future_occupancy.shape == (2, 6, 40, 40, 16)
    assert clips.valid.all() and clips.scene == [0, 0] and clips.frame == [4, 5] and clips.past == 4
    for b, current in enumerate((4, 5)):
        for p in range(5):
            assert torch.equal(clips.occupancy[b, p], load_frame(index, current - 4 + p, GRID))
        assert torch.equal(clips.future_occupancy[b, 5], load_frame(index, current + 6, GRID))
        np.testing.assert_array_equal(clips.ego_to_global[b], index.ego_to_global[current - 4 : current + 7])
    true_gap = np.diff(index.timestamp_us[:11]) * 1e-6
    np.testing.assert_allclose(clips.dt_s[0], true_gap, rtol=1e-6)
    assert clips.motion.dtype == torch.float32 and clips.command.dtype == torch.int64


def test_scene_ends_repeat_and_are_marked(index: SceneIndex) -> None:
    clips = load_clips(index, [13, 20], grid=GRID)
    assert clips.scene == [1, 1]
    assert clips.valid[0].tolist() == [False] * 3 + [True] * 8
    assert clips.valid[1].tolist() == [True] * 5 + [False] * 6
    assert torch.equal(clips.occupancy[0, 0], clips.occupancy[0, 3])
    assert torch.equal(clips.ego_to_global[1, 4], clips.ego_to_global[1, 10])
    assert (clips.dt_s[0, :3] == 0.5).all() and (clips.dt_s > 0).all()


def test_batch_equals_singles(index: SceneIndex) -> None:
    both = load_clips(index, [3, 14], grid=GRID)
    for b, frame in enumerate((3, 14)):
        single = load_clips(index, [frame], grid=GRID)
        for name in ("occupancy", "ego_to_global", "command", "motion", "dt_s", "valid"):
            assert torch.equal(getattr(both, name)[b], getattr(single, name)[0])


def test_future_may_be_empty(index: SceneIndex) -> None:
    clips = load_clips(index, [4], future=0, with_future_labels=True, grid=GRID)
    assert clips.ego_to_global.shape == (1, 5, 4, 4)
    assert clips.future_occupancy is not None and clips.future_occupancy.shape == (1, 0, 40, 40, 16)


def test_bad_requests_are_explained(index: SceneIndex) -> None:
    with pytest.raises(OptionError, match="frame 21"):
        load_clips(index, [21], grid=GRID)
    with pytest.raises(OptionError, match="past=-1"):
        load_clips(index, [3], past=-1, grid=GRID)
    with pytest.raises(OptionError, match="no frames"):
        load_clips(index, [], grid=GRID)
    with pytest.raises(DataError, match="semantics is uint8"):
        load_clips(index, [4])  # a 40 x 40 label file on the 200 x 200 grid
    (index.root / str(index.label_path[4])).unlink()
    with pytest.raises(DataError, match="does not exist"):
        load_clips(index, [4], grid=GRID)
