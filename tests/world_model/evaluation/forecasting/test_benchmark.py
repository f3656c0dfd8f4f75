from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_benchmark import forecast, score_scene, tiny_models

from world_model.core.errors import DataError, OptionError
from world_model.core.geometry import invert_pose, warp_voxels
from world_model.data.clips import Clips, load_frame, windows
from world_model.data.formats.nuscenes import read_nuscenes
from world_model.data.index import SceneIndex
from world_model.evaluation.forecasting.benchmark import Benchmark, SceneScore, SceneWork
from world_model.evaluation.forecasting.scene_data import load_scene, with_tokens
from world_model.evaluation.metrics import Confusion
from world_model.evaluation.result import SUBSETS, ForecastResult, steps_of
from world_model.evaluation.windows import spread
from world_model.models.forecaster import Forecaster
from world_model.models.tokenizer import Tokenizer
from world_model.models.tokenizer import tiny as tiny_tokenizer
from world_model.worlds import ReplayWorld, TransportWorld
from world_model.worlds.token import TokenState, TokenWorld

BASELINES = ("copy-paste", "ego warp", "ego warp + CV boxes")
GRID = tiny_tokenizer().grid
ROWS = (*BASELINES, "tokenizer", "ii-world gt-ego", "ii-world pred-ego")


@pytest.fixture
def index(scenes_root: Path) -> SceneIndex:
    return read_nuscenes(scenes_root).to_index()[0]


@pytest.fixture(scope="module")
def models() -> tuple[Tokenizer, Forecaster]:
    return tiny_models()


@pytest.fixture
def benchmark(models: tuple[Tokenizer, Forecaster]) -> Benchmark:
    return Benchmark(grid=GRID, tokenizer=models[0], worlds={"ii-world": TokenWorld(*models)})


def scene_poses(index: SceneIndex, scene: int) -> torch.Tensor:
    """(N, 4, 4) float64 poses of a scene's frames."""
    frames = index.frames(scene)
    return torch.from_numpy(index.ego_to_global[frames.start : frames.stop])


def scene_tokens(tokenizer: Tokenizer, labels: torch.Tensor, poses: torch.Tensor) -> list[torch.Tensor]:
    """(C, Xl, Yl) token maps of the consecutive frames of one scene, starting from an empty memory."""
    memory, tokens = tokenizer.empty_memory(1), []
    for n in range(len(labels)):
        to_previous = (invert_pose(poses[max(n - 1, 0)]) @ poses[n])[None].float()
        encoded = tokenizer.encode(labels[n : n + 1], memory, to_previous, torch.tensor([n == 0]))
        memory = encoded.memory
        tokens.append(encoded.token[0])
    return tokens


def assert_same(one: ForecastResult, other: ForecastResult) -> None:
    assert (one.counts == other.counts).all() and (one.pose_error == other.pose_error).all()
    assert one.windows == other.windows


def test_rows_subsets_and_batches(index: SceneIndex, benchmark: Benchmark) -> None:
    frames = windows(index, "train")
    both = forecast(index, frames, benchmark)
    assert both.rows == ROWS and both.windows == 2 and both.horizons_s == (1.0, 2.0, 3.0)
    assert both.counts.shape == (6, 3, 2, 19, 18) and both.counts.dtype == np.int64
    voxels = 2 * 40 * 40 * 16
    assert (both.counts[:, :, 0].sum((-1, -2)) == voxels).all()
    inside = both.counts[:, :, 1].sum((-1, -2))
    assert ((inside > 0) & (inside < voxels)).all()
    # All rows are scored against the same ground truth.
    truth = both.counts.sum(-1)
    assert (truth == truth[:1]).all()
    assert_same(both, forecast(index, frames[:1], benchmark) + forecast(index, frames[1:], benchmark))
    assert_same(both, forecast(index, frames, replace(benchmark, batch=1)))
    for subset in SUBSETS:
        assert 0 <= both.score("copy-paste", 0, "iou", subset) <= 1


@pytest.mark.parametrize("slots", [1, 4])
def test_a_scene_scores_the_same_in_any_pieces(index: SceneIndex, benchmark: Benchmark, slots: int) -> None:
    """How many windows are forecast at once, and what else was asked of the scene, changes nothing."""
    short = replace(benchmark, horizons_s=(1.0, 2.0), slots=slots)
    asked = SceneWork(scene=0, frames=(4, 5, 6, 7), reconstruct=True)

    def run(work: SceneWork, batch: int) -> SceneScore:
        benchmark = replace(short, batch=batch)
        return score_scene(index, work, benchmark)

    whole = run(asked, 8)
    assert whole.forecast is not None and whole.reconstruction is not None
    for batch in (1, 3):
        pieces = run(asked, batch)
        assert pieces.forecast is not None and pieces.reconstruction is not None
        assert_same(whole.forecast, pieces.forecast)
        assert (whole.reconstruction.counts == pieces.reconstruction.counts).all()
    forecast_only = run(replace(asked, reconstruct=False), 8).forecast
    rebuilt_only = run(replace(asked, frames=()), 8).reconstruction
    assert forecast_only is not None and rebuilt_only is not None
    assert_same(whole.forecast, forecast_only)
    assert (whole.reconstruction.counts == rebuilt_only.counts).all()


def test_calls_of_several_frames_agree_with_calls_of_one(
    index: SceneIndex, models: tuple[Tokenizer, Forecaster]
) -> None:
    """Frames side by side are encoded as one after the other, but for rounding; so are frames without labels."""
    index.label_path[2] = ""
    scene = load_scene(index, 0, 12, models[0].config.grid)
    with torch.inference_mode():
        one, several = (with_tokens(models[0], scene, slots).tokens for slots in (1, 4))
    assert one is not None and several is not None
    assert torch.allclose(one, several, atol=1e-4) and one[2].abs().max() == 0 and one[3].abs().max() > 0


def test_rows_agree_with_their_definition(
    index: SceneIndex, models: tuple[Tokenizer, Forecaster], benchmark: Benchmark
) -> None:
    tokenizer, forecaster = models
    grid, now = tokenizer.config.grid, 4
    result = forecast(index, [now], benchmark)
    labels = torch.stack([load_frame(index, f, grid) for f in range(12)])
    pose = scene_poses(index, 0)
    with torch.no_grad():
        tokens = torch.stack(scene_tokens(tokenizer, labels, pose))
        state = forecaster.start(tokens[None, : now + 1], pose[None, : now + 1])
        for k in range(6):
            given = (invert_pose(pose[now + k + 1]) @ pose[now + k]).float()[None]
            state, out = forecaster.step(state, torch.tensor([int(index.command[now + k])]), given)
        ceiling, conditioned = tokenizer.decode(tokens[now + 6][None])[0], tokenizer.decode(out.token)[0]
    expected = {
        "copy-paste": labels[now],
        "ego warp": warp_voxels(labels[now][None], (invert_pose(pose[now]) @ pose[now + 6])[None].float(), grid)[0],
        "tokenizer": ceiling,
        "ii-world gt-ego": conditioned,
    }
    for row, labels_expected in expected.items():
        confusion = Confusion()
        confusion.add(labels_expected, labels[now + 6])
        assert (result.confusion(row, 2).counts == confusion.counts).all(), row


def test_reconstruction_streams_every_frame_once(index: SceneIndex, benchmark: Benchmark) -> None:
    work = SceneWork(scene=1, reconstruct=True)
    score = score_scene(index, work, benchmark)
    found = score.reconstruction
    assert score.forecast is None and found is not None and found.frames == 9
    tokenizer, confusion = benchmark.tokenizer, Confusion()
    assert tokenizer is not None
    labels = torch.stack([load_frame(index, f, tokenizer.config.grid) for f in index.frames(1)])
    with torch.no_grad():
        for truth, token in zip(labels, scene_tokens(tokenizer, labels, scene_poses(index, 1)), strict=True):
            confusion.add(tokenizer.decode(token[None])[0], truth)
    assert (found.counts == confusion.table).all()
    assert ((found + found).counts == 2 * found.counts).all()


def test_pred_ego_error_is_that_of_the_predicted_path(
    index: SceneIndex, models: tuple[Tokenizer, Forecaster], benchmark: Benchmark
) -> None:
    class TrueMotion(TokenWorld):
        """A world whose own motion is the logged one: its ego error must vanish."""

        def begin(self, tokens: torch.Tensor, ego_to_global: torch.Tensor) -> TokenState:
            self.now = 4
            return super().begin(tokens, ego_to_global)

        def drive(self, state: TokenState, command: torch.Tensor) -> tuple[TokenState, torch.Tensor]:
            pose = scene_poses(index, 0)
            motion = (invert_pose(pose[self.now + 1]) @ pose[self.now]).float()[None]
            self.now += 1
            return self.step(state, motion, command), motion

    result = forecast(index, [4], Benchmark(grid=GRID, tokenizer=models[0], worlds={"ii-world": TrueMotion(*models)}))
    assert (result.ego_error("ii-world pred-ego") < 1e-3).all()
    assert (result.counts[4] == result.counts[5]).all()
    own = forecast(index, [4], benchmark).ego_error("ii-world pred-ego")
    assert (own[:, 0] > 0.1).all() and (own[:, 1] > 1e-3).all()
    assert (forecast(index, [4], benchmark).ego_error("ii-world gt-ego") < 1e-5).all()


def test_models_are_optional(index: SceneIndex, models: tuple[Tokenizer, Forecaster]) -> None:
    bare = forecast(index, [4], Benchmark(grid=GRID))
    assert bare.rows == BASELINES
    with_tokenizer = forecast(index, [4], Benchmark(grid=GRID, tokenizer=models[0]))
    assert with_tokenizer.rows == ROWS[:4]
    assert (with_tokenizer.counts[:3] == bare.counts).all()


def test_moving_subset_scores_only_around_movers(index: SceneIndex, models: tuple[Tokenizer, Forecaster]) -> None:
    index.box_velocity_mps[:] = 0
    result = forecast(index, [4], Benchmark(grid=GRID))
    assert result.counts[:, :, 1].sum() == 0
    assert np.isnan(result.score("ego warp", 0, "miou", "moving"))
    assert (result.counts[1] == result.counts[2]).all()  # nothing moves: both warps agree


def test_other_worlds_by_the_same_protocol(index: SceneIndex, models: tuple[Tokenizer, Forecaster]) -> None:
    grid = models[0].config.grid
    worlds = {"transport": TransportWorld(grid), "replay": ReplayWorld(grid)}
    # On flat ground: the replay is planar.
    flat = index.translation_m * (1, 1, 0)
    planar = index.rotation * (1, 0, 0, 1)
    index = replace(index, translation_m=flat, rotation=planar)
    result = forecast(index, [4, 5], Benchmark(worlds=worlds, grid=grid, batch=1))
    assert result.rows == (*BASELINES, "transport gt-ego", "replay gt-ego")
    # A still world moved by the true ego motion is the ego warp, and the recording is right.
    warp, transport = (result.score(row, 2, "iou") for row in ("ego warp", "transport gt-ego"))
    assert abs(warp - transport) < 0.02
    assert result.score("replay gt-ego", 2, "iou") > 0.97 > warp

    class Wrong(TransportWorld):
        def occupancy(self, state: object) -> torch.Tensor:
            return torch.zeros(1, 2, 3, 4, dtype=torch.uint8)

    with pytest.raises(DataError, match="Wrong made occupancy"):
        forecast(index, [4], Benchmark(worlds={"wrong": Wrong(grid)}, grid=grid))


def test_worlds_get_the_window_and_no_more(index: SceneIndex, models: tuple[Tokenizer, Forecaster]) -> None:
    grid, seen = models[0].config.grid, []

    class Curious(TransportWorld):
        def reset(self, clips: Clips) -> object:  # type: ignore[override]
            seen.append(clips)
            return super().reset(clips)

    forecast(index, [5], Benchmark(worlds={"curious": Curious(grid)}, grid=grid))
    (clips,) = seen
    assert clips.future_occupancy is None and clips.frame == [5] and clips.scene == [0] and clips.past == 4
    assert torch.equal(clips.occupancy[0], torch.stack([load_frame(index, f, grid) for f in range(1, 6)]))


def test_scores_are_against_the_truth_where_labels_are_predictions(
    index: SceneIndex, benchmark: Benchmark, models: tuple[Tokenizer, Forecaster], tmp_path: Path
) -> None:
    """The observed labels go in; the true ones are all that a forecast is compared with."""
    grid = models[0].config.grid
    observed = []
    for frame, path in enumerate(index.label_path):
        labels = index.read_labels(frame, grid.shape).copy()
        labels[:, :20] = 17  # a perception model that is blind on one side
        (index.root / "predicted" / path).parent.mkdir(parents=True)
        np.savez_compressed(index.root / "predicted" / path, semantics=labels)
        observed.append(f"predicted/{path}")
    blind = replace(index, label_path=np.array(observed), truth_path=index.label_path)
    found, expected = forecast(blind, [4], benchmark), Confusion()
    expected.add(load_frame(blind, 4, grid), load_frame(index, 6, grid))
    assert (found.confusion("copy-paste", 0).counts == expected.counts).all()
    assert found.score("copy-paste", 0, "iou") < forecast(index, [4], benchmark).score("copy-paste", 0, "iou")
    # The same ground truth in every row, and that of the true labels.
    seeing = forecast(index, [4], benchmark)
    assert (found.counts.sum(-1) == seeing.counts.sum(-1)).all()


def test_frames_without_labels_are_passed_over(index: SceneIndex, benchmark: Benchmark) -> None:
    index.label_path[2] = ""
    work = SceneWork(scene=0, frames=(7,), reconstruct=True)
    benchmark = replace(benchmark, horizons_s=(1.0, 2.0))
    score = score_scene(index, work, benchmark)
    assert score.reconstruction is not None and score.reconstruction.frames == 11
    assert score.forecast is not None and score.forecast.windows == 1


def test_streaming_ignores_where_evaluation_starts(index: SceneIndex, benchmark: Benchmark) -> None:
    """The tokens of a frame depend on the scene up to it, never on which windows were asked for."""
    alone, together = forecast(index, [5], benchmark), forecast(index, [4, 5], benchmark)
    assert_same(together, forecast(index, [4], benchmark) + alone)


def test_means_are_rounded_as_published_on_request(index: SceneIndex, models: tuple[Tokenizer, Forecaster]) -> None:
    result = forecast(index, [4], Benchmark(grid=GRID))
    scores = [100 * result.score("ego warp", h, "miou_published") for h in range(3)]
    assert result.mean("ego warp", "miou_published") == pytest.approx(np.mean(scores) / 100, abs=1e-12)
    published = round(float(np.mean([round(s, 2) for s in scores])), 2)
    assert 100 * result.mean("ego warp", "miou_published", faithful=True) == pytest.approx(published, abs=1e-9)
    assert published != pytest.approx(np.mean(scores), abs=1e-9)


def test_results_of_other_rows_do_not_add_up(index: SceneIndex, models: tuple[Tokenizer, Forecaster]) -> None:
    grid = models[0].config.grid
    one = forecast(index, [4], Benchmark(grid=grid))
    with pytest.raises(OptionError, match="same rows"):
        one + forecast(index, [4], Benchmark(grid=GRID, tokenizer=models[0]))


def test_horizons_are_steps() -> None:
    assert steps_of((1, 2, 3)) == (2, 4, 6) and steps_of((0.5, 6.0)) == (1, 12)
    for wrong in ((), (0.0,), (1.2,), (2.0, 1.0), (1.0, 1.0), (-1.0,)):
        with pytest.raises(OptionError, match="horizons"):
            steps_of(wrong)


def test_windows_that_leave_the_scene_are_refused(index: SceneIndex, benchmark: Benchmark) -> None:
    with pytest.raises(OptionError, match="scene-9001"):
        forecast(index, [8], benchmark)


def test_spread_is_even_and_ordered() -> None:
    assert spread(range(10), None) == list(range(10)) == spread(range(10), 10) == spread(range(10), 99)
    assert spread(range(10), 1) == [5]
    assert spread(range(100), 4) == [12, 37, 62, 87]
