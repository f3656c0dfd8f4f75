from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from world_model.data.clips import load_frame, windows
from world_model.data.index import SceneIndex
from world_model.data.nuscenes import read_nuscenes
from world_model.errors import OptionError
from world_model.evaluation.baselines import ego_warp
from world_model.evaluation.forecasting import ROWS, SUBSETS, ForecastResult, forecast_scene, steps_of
from world_model.evaluation.metrics import Confusion
from world_model.evaluation.reconstruction import reconstruct_scene
from world_model.evaluation.streams import scene_poses, scene_tokens, spread
from world_model.forecaster import Forecaster
from world_model.forecaster import tiny as tiny_forecaster
from world_model.geometry import invert_pose
from world_model.tokenizer import Tokenizer
from world_model.tokenizer import tiny as tiny_tokenizer


@pytest.fixture
def index(scenes_root: Path) -> SceneIndex:
    return read_nuscenes(scenes_root)[0]


@pytest.fixture(scope="module")
def models() -> tuple[Tokenizer, Forecaster]:
    torch.manual_seed(0)
    tokenizer = Tokenizer(tiny_tokenizer()).eval()
    return tokenizer, Forecaster(tiny_forecaster(tokenizer.config)).eval()


def run(
    index: SceneIndex, frames: list[int], models: tuple[Tokenizer, Forecaster], **options: object
) -> ForecastResult:
    return forecast_scene(index, 0, frames, tokenizer=models[0], forecaster=models[1], **options)  # type: ignore[arg-type]


def assert_same(one: ForecastResult, other: ForecastResult) -> None:
    """Equal counts: exactly without a model; up to near-tied voxels with one, whose rounding depends on the batch."""
    assert (one.counts[:3] == other.counts[:3]).all()
    assert np.abs(one.counts - other.counts).sum() <= 1e-4 * one.counts.sum()


def test_rows_subsets_and_batches(index: SceneIndex, models: tuple[Tokenizer, Forecaster]) -> None:
    frames = windows(index, "train")
    both = run(index, frames, models)
    assert both.rows == ROWS and both.windows == 2 and both.horizons_s == (1.0, 2.0, 3.0)
    assert both.counts.shape == (6, 3, 2, 18, 18) and both.counts.dtype == np.int64
    voxels = 2 * 40 * 40 * 16
    assert (both.counts[:, :, 0].sum((-1, -2)) == voxels).all()
    inside = both.counts[:, :, 1].sum((-1, -2))
    assert ((inside > 0) & (inside < voxels)).all()
    # All rows are scored against the same ground truth.
    truth = both.counts.sum(-1)
    assert (truth == truth[:1]).all()
    singles = run(index, frames[:1], models) + run(index, frames[1:], models)
    assert_same(both, singles)
    np.testing.assert_allclose(both.ego_error_m, singles.ego_error_m, rtol=1e-5)
    one_by_one = run(index, frames, models, batch=1)
    assert_same(both, one_by_one)
    for subset in SUBSETS:
        assert 0 <= both.score("copy-paste", 0, "iou", subset) <= 1


def test_rows_agree_with_their_definition(index: SceneIndex, models: tuple[Tokenizer, Forecaster]) -> None:
    tokenizer, forecaster = models
    grid, now = tokenizer.config.grid, 4
    result = run(index, [now], models)
    labels = torch.stack([load_frame(index, f, grid) for f in range(12)])
    pose = scene_poses(index, 0)
    with torch.no_grad():
        tokens = torch.stack(list(scene_tokens(tokenizer, labels, pose)))
        state = forecaster.start(tokens[None, : now + 1], pose[None, : now + 1])
        for k in range(6):
            given = (invert_pose(pose[now + k + 1]) @ pose[now + k]).float()[None]
            state, out = forecaster.step(state, torch.tensor([int(index.command[now + k])]), given)
        ceiling, forecast = tokenizer.decode(tokens[now + 6][None])[0], tokenizer.decode(out.token)[0]
    expected = {
        "copy-paste": labels[now],
        "ego warp": ego_warp(labels[now][None], pose[now][None], pose[now + 6][None], grid)[0],
        "tokenizer": ceiling,
        "model gt-ego": forecast,
    }
    for row, labels_expected in expected.items():
        confusion = Confusion()
        confusion.add(labels_expected, labels[now + 6])
        assert (result.confusion(row, 2).counts == confusion.counts).all(), row


def test_pred_ego_error_is_that_of_the_predicted_path(index: SceneIndex, models: tuple[Tokenizer, Forecaster]) -> None:
    tokenizer, forecaster = models

    class TrueMotion:
        """A forecaster whose own motion is the logged one: its ego error must vanish."""

        def __init__(self) -> None:
            self.k = 0

        def start(self, tokens: torch.Tensor, poses: torch.Tensor) -> object:
            self.k = 0
            return forecaster.start(tokens, poses)

        def step(self, state: object, command: torch.Tensor, given: torch.Tensor | None) -> object:
            pose = scene_poses(index, 0)
            motion = (invert_pose(pose[4 + self.k + 1]) @ pose[4 + self.k]).float()[None]
            assert given is None or torch.equal(given, motion)
            self.k += 1
            return forecaster.step(state, command, motion)  # type: ignore[arg-type]

    result = run(index, [4], (tokenizer, TrueMotion()))  # type: ignore[arg-type]
    assert (result.ego_error_m < 1e-3).all()
    assert (result.counts[4] == result.counts[5]).all()
    assert (run(index, [4], models).ego_error_m > 0.1).all()


def test_models_are_optional(index: SceneIndex, models: tuple[Tokenizer, Forecaster]) -> None:
    grid = models[0].config.grid
    bare = forecast_scene(index, 0, [4], grid=grid)
    assert bare.rows == ROWS[:3]
    with_tokenizer = forecast_scene(index, 0, [4], tokenizer=models[0])
    assert with_tokenizer.rows == ROWS[:4]
    assert (with_tokenizer.counts[:3] == bare.counts).all()


def test_moving_subset_scores_only_around_movers(index: SceneIndex, models: tuple[Tokenizer, Forecaster]) -> None:
    index.box_velocity_mps[:] = 0
    result = forecast_scene(index, 0, [4], grid=models[0].config.grid)
    assert result.counts[:, :, 1].sum() == 0
    assert np.isnan(result.score("ego warp", 0, "miou", "moving"))
    assert (result.counts[1] == result.counts[2]).all()  # nothing moves: both warps agree


def test_streaming_ignores_where_evaluation_starts(index: SceneIndex, models: tuple[Tokenizer, Forecaster]) -> None:
    """The tokens of a frame depend on the scene up to it, never on which windows were asked for."""
    alone, together = run(index, [5], models), run(index, [4, 5], models)
    first = run(index, [4], models)
    assert_same(together, first + alone)


def test_reconstruction_counts_every_frame(index: SceneIndex, models: tuple[Tokenizer, Forecaster]) -> None:
    result = reconstruct_scene(models[0], index, 1)
    assert result.frames == 9 and result.confusion.total == 9 * 40 * 40 * 16
    assert ((result + result).counts == 2 * result.counts).all()


def test_horizons_are_steps() -> None:
    assert steps_of((1, 2, 3)) == (2, 4, 6) and steps_of((0.5, 6.0)) == (1, 12)
    for wrong in ((), (0.0,), (1.2,), (2.0, 1.0), (1.0, 1.0), (-1.0,)):
        with pytest.raises(OptionError, match="horizons"):
            steps_of(wrong)


def test_windows_that_leave_the_scene_are_refused(index: SceneIndex, models: tuple[Tokenizer, Forecaster]) -> None:
    with pytest.raises(OptionError, match="scene-9001"):
        run(index, [8], models)


def test_spread_is_even_and_ordered() -> None:
    assert spread(range(10), None) == list(range(10)) == spread(range(10), 10) == spread(range(10), 99)
    assert spread(range(10), 1) == [5]
    assert spread(range(100), 4) == [12, 37, 62, 87]
