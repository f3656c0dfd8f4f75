"""Whatever is missing cuts scenes where it is missing, nowhere else, and is reported."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiny_scenes import write_scenes

from world_model.core.errors import DataError
from world_model.core.geometry import quat_to_matrix
from world_model.data.clips import windows
from world_model.data.formats.gaps import cut_at_gaps
from world_model.data.formats.nuscenes import read_nuscenes
from world_model.data.formats.poses import poses_of_matrices
from world_model.data.index import SceneIndex
from world_model.prepare import Prepare, prepare


def irregular(tmp_path: Path, frames: tuple[int, ...] = (39, 40, 41)) -> Path:
    """Scenes of as many frames as real ones, with gaps of 0.40 to 0.60 s."""
    return write_scenes(tmp_path / "data", frames=frames, shape=(8, 8, 4))


@pytest.fixture
def index(tmp_path: Path) -> SceneIndex:
    return read_nuscenes(irregular(tmp_path)).to_index()[0]


def test_real_gaps_and_lengths_are_usual(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = prepare(Prepare(data_root=irregular(tmp_path), strict=True))
    step_s = np.concatenate([np.diff(index.timestamp_us[f.start : f.stop]) for f in map(index.frames, range(3))]) * 1e-6
    assert step_s.min() < 0.42 and step_s.max() > 0.58  # the test data are what they claim to be
    printed = capsys.readouterr().out
    assert "scenes of 39..41 frames" in printed and "WARNING" not in printed and "NOTE" not in printed
    # Every window of 4 past and 6 future frames lies in one scene, however long that is.
    assert len(windows(index, "all", 4, 6)) == (39 - 10) + (40 - 10) + (41 - 10)
    # Speeds use the true gaps: the vehicle drives 4 m/s, whatever the clock does.
    np.testing.assert_allclose(np.hypot(*index.motion[1:39, :2].T), 4.0, atol=0.03)


@pytest.mark.parametrize(("gap_s", "cut", "unusual"), [(0.6, 0, 0), (0.7, 0, 1), (0.8, 1, 0), (1.0, 1, 0)])
def test_a_long_step_is_a_missing_frame(index: SceneIndex, gap_s: float, cut: int, unusual: int) -> None:
    time_us = np.arange(len(index.token), dtype=np.int64) * 500_000
    time_us[10:] += round((gap_s - 0.5) * 1e6)
    kept, report = cut_at_gaps(dataclasses.replace(index, timestamp_us=time_us), strict=False)
    assert (report.long_steps, report.cut_scenes, report.unusual_steps) == (cut, cut, unusual)
    assert len(kept.token) == len(index.token) and len(kept.scene_name) == 3 + cut


def test_labels_that_never_follow_one_another_are_not_called_missing(index: SceneIndex) -> None:
    every_other = np.where(np.arange(len(index.token)) % 2, "nowhere.npz", index.label_path)
    with pytest.raises(DataError, match=r"60 of 120 frames have labels, but no 2 of them follow"):
        cut_at_gaps(dataclasses.replace(index, label_path=every_other), strict=False)
    apart = np.arange(len(index.token), dtype=np.int64) * 1_000_000
    with pytest.raises(DataError, match=r"120 of 120 frames have labels.*120 steps|117 steps") as caught:
        cut_at_gaps(dataclasses.replace(index, timestamp_us=apart), strict=False)
    assert "without:" not in str(caught.value)
    with pytest.raises(DataError, match="no frame has labels"):
        cut_at_gaps(dataclasses.replace(index, label_path=np.full(120, "nowhere.npz")), strict=False)


def test_every_frame_that_is_there_is_kept_in_the_longest_parts(index: SceneIndex) -> None:
    """Against a slow twin: frames that are neighbours in a part were neighbours before, and no part can be longer."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        gone = rng.random(len(index.token)) < 0.15
        follows = rng.random(len(index.token)) > 0.05
        paths = np.where(gone, "nowhere.npz", index.label_path)
        kept, report = cut_at_gaps(dataclasses.replace(index, label_path=paths), strict=False, follows=follows)
        expected: list[list[str]] = []
        for scene in range(3):
            part: list[str] = []
            for frame in index.frames(scene):
                if part and (gone[frame] or not follows[frame]):
                    expected.append(part)
                    part = []
                if not gone[frame]:
                    part.append(str(index.token[frame]))
            expected.append(part)
        expected = [part for part in expected if len(part) > 1]
        found = [kept.token[kept.frames(s).start : kept.frames(s).stop].tolist() for s in range(len(kept.scene_name))]
        assert found == expected and report.missing_labels == gone.sum()
        assert len(set(kept.scene_name.tolist())) == len(kept.scene_name)
        where = {str(token): frame for frame, token in enumerate(index.token)}
        for frame in range(0, len(kept.token), 7):
            old = where[str(kept.token[frame])]
            np.testing.assert_array_equal(kept.boxes(frame).center_m, index.boxes(old).center_m)
            np.testing.assert_array_equal(kept.ego_to_global[frame], index.ego_to_global[old])
            assert kept.command[frame] == index.command[old]


def test_whole_data_are_left_alone(index: SceneIndex) -> None:
    kept, report = cut_at_gaps(index, strict=True)
    assert kept is index and report.missing_labels == report.cut_scenes == 0 and report.scene_frames == (39, 41)


def test_nothing_left_is_an_error(index: SceneIndex) -> None:
    with pytest.raises(DataError, match="no frame has labels"):
        cut_at_gaps(dataclasses.replace(index, label_path=np.full(len(index.token), "x.npz")), strict=False)


def test_an_empty_split_is_reported_and_named_where_it_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = irregular(tmp_path, frames=(12,))
    index = prepare(Prepare(data_root=root))
    assert "split 'val' is empty" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"train \(1\)"):
        index.scenes("val")


def test_poses_from_matrices_are_exact_for_every_rotation() -> None:
    import torch

    quaternion = np.random.default_rng(0).normal(size=(500, 4))
    # Half turns, where one of the components is zero, are the hard ones.
    quaternion[:6] = [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 1, 0], [1e-9, 0, 1, 1]]
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    matrix = np.tile(np.eye(4), (500, 1, 1))
    matrix[:, :3, :3] = quat_to_matrix(torch.from_numpy(quaternion)).numpy()
    found = poses_of_matrices(list(matrix), "test", [str(i) for i in range(500)])[1]
    np.testing.assert_allclose(quat_to_matrix(torch.from_numpy(found)).numpy(), matrix[:, :3, :3], atol=1e-12)
    assert (found[:, 0] >= 0).all()
