from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from world_model.core.errors import DataError, OptionError
from world_model.data.formats.nuscenes import read_nuscenes
from world_model.data.index import SceneIndex
from world_model.evaluation.windows import choose_windows


@pytest.fixture
def index(make_scenes) -> SceneIndex:  # type: ignore[no-untyped-def]
    return read_nuscenes(make_scenes(frames=(11, 14, 13))).to_index()[0]


def test_strides_and_limits(index: SceneIndex) -> None:
    scenes = index.scenes("val")
    every = choose_windows(index, "val", scenes, 6)
    assert every.frames == {1: [15, 16, 17, 18], 2: [29, 30, 31]} and every.count == every.total == 7
    assert str(every) == "7 of 7"
    assert choose_windows(index, "val", scenes, 6, stride=3).frames == {1: [15, 18], 2: [31]}
    assert choose_windows(index, "val", scenes, 6, most=1).frames == {1: [18]}
    assert choose_windows(index, "val", scenes[1:], 6).frames == {2: [29, 30, 31]}
    assert choose_windows(index, "val", scenes, 9).frames == {1: [15]}


def test_windows_with_missing_labels_are_left_out_and_counted(index: SceneIndex) -> None:
    index.label_path[12] = ""  # the second frame of scene 1: in the past of its first two windows
    found = choose_windows(index, "val", index.scenes("val"), 6)
    assert found.frames == {1: [17, 18], 2: [29, 30, 31]} and found.unlabelled == 2
    assert str(found) == "5 of 7; 2 left out, since labels are missing in them"
    truth = np.array(index.label_path)
    truth[37] = ""  # the last frame: in the future of the last window
    two = replace(index, truth_path=truth)
    assert choose_windows(two, "val", two.scenes("val"), 6).frames == {1: [17, 18], 2: [29, 30]}


def test_nothing_to_score_is_explained(index: SceneIndex) -> None:
    with pytest.raises(OptionError, match="long enough"):
        choose_windows(index, "val", [2], 9)
    with pytest.raises(DataError, match="long enough"):
        choose_windows(index, "val", [1, 2], 12)
    index.label_path[:] = ""
    with pytest.raises(DataError, match="without labels"):
        choose_windows(index, "val", index.scenes("val"), 6)
