"""Label files may hold 255 where nothing is known: free to models, left out of every loss and score."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_training import ALONE, config_of, train_forecaster, train_tokenizer, write_data, write_tokens
from street import SMALL, street, write_street
from torch import Tensor

from world_model.core.errors import DataError
from world_model.core.grid import FREE, IGNORE, OCC3D
from world_model.data.clips import load_clips
from world_model.data.index import SceneIndex
from world_model.data.label_styles import LabelStyle, draw_terrain
from world_model.data.labels import read_labels_of
from world_model.evaluate import Evaluate, evaluate
from world_model.evaluation.forecasting.scene_data import load_scene
from world_model.evaluation.trust.samples import collect
from world_model.fidelity import Fidelity, fidelity
from world_model.models.geometric import training
from world_model.models.geometric.config import tiny
from world_model.models.geometric.forecaster import GeometricForecaster
from world_model.models.geometric.training import GeometricLossConfig, GeometricTask
from world_model.models.losses import rare_class_loss, sampled_reconstruction_loss
from world_model.models.voxel_sample import VoxelSample, sample_voxels
from world_model.prepare import Prepare, prepare
from world_model.training.distributed import BatchShard
from world_model.worlds import ReplayWorld

HIDDEN = (slice(80, 120), slice(60, 100), slice(None))
"""Part of a frame that is unknown."""


def rewrite(root: Path, change: Callable[[np.ndarray], dict[str, np.ndarray]]) -> SceneIndex:
    """Write every label file of a folder anew."""
    for path in sorted(root.glob("gts/*/*/labels.npz")):
        with np.load(path) as archive:
            labels = archive["semantics"]
        np.savez_compressed(path, **change(labels))
    return SceneIndex.load(root)


def with_unknown(labels: np.ndarray) -> dict[str, np.ndarray]:
    labels = labels.copy()
    labels[HIDDEN] = IGNORE
    return {"semantics": labels}


def with_mask(labels: np.ndarray) -> dict[str, np.ndarray]:
    """The same knowledge as a mask, and free where it hides something."""
    seen = np.ones_like(labels)
    seen[HIDDEN] = 0
    return {"semantics": np.where(seen > 0, labels, FREE), "mask_camera": seen, "mask_lidar": seen}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same street twice: with 255 in places, and with a mask of these places."""
    unknown = write_street(tmp_path_factory.mktemp("u") / "data", scenes=1, frames=12)
    masked = tmp_path_factory.mktemp("m") / "data"
    shutil.copytree(unknown, masked)
    rewrite(unknown, with_unknown)
    rewrite(masked, with_mask)
    return unknown, masked


@pytest.mark.parametrize(("name", "free", "car"), [("occ3d", 17, 4), ("openocc", 16, 0), ("free0", 0, 4)])
def test_every_convention_may_hold_255(name: str, free: int, car: int, tmp_path: Path) -> None:
    labels = np.full((4, 4, 4), free, np.int32)
    labels[0], labels[1] = car, IGNORE
    np.savez_compressed(tmp_path / "labels.npz", semantics=labels)
    seen = read_labels_of(tmp_path / "labels.npz", name, labels.shape)
    known = read_labels_of(tmp_path / "labels.npz", name, labels.shape, unknown=IGNORE)
    assert seen.dtype == known.dtype == np.uint8
    assert (seen[0] == 4).all() and (seen[1:] == FREE).all()
    assert (known[1] == IGNORE).all() and (known[0] == 4).all() and (known[2:] == FREE).all()


def test_conventions_are_told_apart_by_what_is_known(tmp_path: Path) -> None:
    """Mostly unknown labels are no other convention; those with 16 = free are, whatever else is unknown."""
    mostly = np.full((10, 10, 4), IGNORE, np.uint8)
    mostly[0, 0] = FREE
    np.savez_compressed(tmp_path / "a.npz", semantics=mostly)
    assert (read_labels_of(tmp_path / "a.npz", "occ3d", mostly.shape) == FREE).all()
    mostly[0] = 16
    np.savez_compressed(tmp_path / "b.npz", semantics=mostly)
    with pytest.raises(DataError, match="OpenOcc"):
        read_labels_of(tmp_path / "b.npz", "occ3d", mostly.shape)
    for labels, says in ((np.full((2, 2, 2), IGNORE), "all of semantics"), (np.full((2, 2, 2), 254), "254")):
        np.savez_compressed(tmp_path / "c.npz", semantics=labels)
        with pytest.raises(DataError, match=says):
            read_labels_of(tmp_path / "c.npz", "occ3d", (2, 2, 2))


def test_models_see_free_space_and_scores_see_what_is_known(folders: tuple[Path, Path]) -> None:
    index = SceneIndex.load(folders[0])
    assert (index.read_labels(5)[HIDDEN] == FREE).all()
    assert (index.read_truth(5)[HIDDEN] == IGNORE).all()
    clips = load_clips(index, [5], with_future_labels=True)
    assert clips.future_occupancy is not None
    assert (clips.occupancy <= FREE).all() and (clips.future_occupancy[0, 0][HIDDEN] == IGNORE).all()
    world = ReplayWorld()
    state = world.step(world.reset(clips), torch.eye(4)[None], torch.tensor([2]))
    assert (world.occupancy(state) <= FREE).all()
    scene = load_scene(index, 0, 6, OCC3D)
    assert (scene.observed <= FREE).all() and (scene.truth[3][HIDDEN] == IGNORE).all()


def test_scores_are_those_under_a_mask(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """`evaluate` on labels with 255 and with --mask camera on labels that hide the same voxels: the same counts."""
    results = []
    for root, mask in zip(folders, ("none", "camera"), strict=True):
        report = evaluate(
            Evaluate(
                index=root, models="none", world=("transport", "replay"), mask=mask,
                regimes=("gt-ego",), out=tmp_path / mask, device="cpu",
            )
        )  # fmt: skip
        assert report.forecasting is not None
        results.append(report.forecasting)
    unknown, masked = results
    assert unknown.rows == masked.rows and unknown.windows == masked.windows
    np.testing.assert_array_equal(unknown.counts[..., :18, :], masked.counts[..., :18, :])
    assert unknown.counts[..., 18, :].sum() > 0 == masked.counts[..., 18, :].sum()
    for row in unknown.rows:
        for name in ("iou", "miou"):
            assert unknown.score(row, 1, name) == masked.score(row, 1, name)


def test_trust_and_fidelity_leave_them_out(folders: tuple[Path, Path], tmp_path: Path) -> None:
    class Sure(ReplayWorld):
        def trust_figures(self, state: object) -> dict[str, Tensor]:
            return {"nothing": torch.zeros(len(self.occupancy(state)))}  # type: ignore[arg-type]

    class Blind(Sure):
        """Says car wherever nothing is known."""

        def occupancy(self, state: object) -> Tensor:  # type: ignore[override]
            found = super().occupancy(state)  # type: ignore[arg-type]
            found[(slice(None), *HIDDEN)] = 4
            return found

    index = SceneIndex.load(folders[0])
    logged = [samples.iou[~samples.edited] for samples in (collect(w(), index, [5], 3) for w in (Sure, Blind))]
    assert (logged[0] == 1).all() and (logged[1] == 1).all()
    report = fidelity(
        Fidelity(
            index=folders[0], worlds=("replay",), actions=("logged",), horizons_s=(1.0,), out=tmp_path, device="cpu",
            pictures=0,
        )
    )  # fmt: skip
    assert report is not None


def grid_loss(logits: Tensor, labels: Tensor, rare: float = 1.0) -> Tensor:
    sample = sample_voxels(labels, 10**6, torch.Generator().manual_seed(0))
    table = torch.eye(18)
    return sampled_reconstruction_loss(logits.view(-1, 18), table, labels, sample, sample.index, rare)[0]


def test_sampled_losses_do_not_depend_on_the_prediction_there() -> None:
    labels = torch.from_numpy(street(SMALL, 0.0, (10.0,)))[None, ::4, ::4].contiguous()
    logits = torch.randn(*labels.shape, 18, generator=torch.Generator().manual_seed(1))
    hidden = labels.clone()
    hidden[:, 5:12, 4:14] = IGNORE
    moved = torch.where((hidden == IGNORE)[..., None], -3 * logits, logits).requires_grad_(True)
    assert torch.equal(grid_loss(logits, hidden), grid_loss(moved, hidden))
    (gradient,) = torch.autograd.grad(grid_loss(moved, hidden), moved)
    assert (gradient[hidden == IGNORE] == 0).all() and (gradient[hidden != IGNORE] != 0).any()
    # Few of many are drawn: never an unknown one, and they stand for all that are known.
    sample = sample_voxels(hidden, 300, torch.Generator().manual_seed(2))
    known = int((hidden != IGNORE).sum())
    assert (hidden.flatten()[sample.index] != IGNORE).all() and sample.total == known
    assert sample.weight.sum().item() == pytest.approx(known, rel=1e-4)
    assert torch.isfinite(grid_loss(logits, torch.full_like(labels, IGNORE)))
    assert torch.isfinite(rare_class_loss(logits.view(-1, 18)[:0], labels.view(-1)[:0].long(), torch.zeros(0)))


def hide_some(labels: np.ndarray) -> dict[str, np.ndarray]:
    labels = labels.copy()
    labels[5:20, 5:20] = IGNORE
    return {"semantics": labels}


def test_training_reads_them_and_learns_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = rewrite(write_data(tmp_path / "data").root, hide_some)
    for voxels in (0, 400):
        tokenizer = train_tokenizer(index, tmp_path / f"t{voxels}", config_of(2), ALONE, voxels=voxels)
        assert np.isfinite([row["loss"] for row in tokenizer.rows]).all()
    cache = write_tokens(tmp_path / "tokens", index)
    forecaster = train_forecaster(index, cache, tmp_path / "f", config_of(2))
    assert np.isfinite([row["loss"] for row in forecaster.rows]).all()
    loss = GeometricLossConfig(near_steps=2, far_steps=4, voxels=2000, styled_ratio=0.5)
    task = GeometricTask(GeometricForecaster(tiny()), [index], "all", loss, seed=0, shard=BatchShard(micro_batch=4))
    drawn = []

    def sampled(labels: Tensor, count: int, generator: torch.Generator) -> VoxelSample:
        drawn.append((labels, sample_voxels(labels, count, generator)))
        return drawn[-1][1]

    monkeypatch.setattr(training, "sample_voxels", sampled)
    batch = task.read(0, range(4))
    assert (batch.target == IGNORE).any((1, 2, 3)).all() and (batch.observed <= FREE).all()
    found = task.loss(batch, 0)[0]
    assert drawn and all((labels.flatten()[one.index] != IGNORE).all() for labels, one in drawn)
    found.backward()
    assert torch.isfinite(found)
    assert all(torch.isfinite(p.grad).all() for p in task.model.parameters() if p.grad is not None)


def test_a_style_leaves_unknown_voxels_unknown() -> None:
    """They rise with the ground, and nothing else happens to them."""
    labels = street(SMALL, 0.0, (10.0,))
    labels[30:70, 20:60] = IGNORE
    style = LabelStyle(seed=3, thinned=(0.9, 0.9), object_gap=0.5, flicker=0.5, range_m=5.0, ground_gap=(0.5, 0.5))
    drawn = style.draw(labels, np.eye(4), 0, SMALL)
    np.testing.assert_array_equal(drawn == IGNORE, labels == IGNORE)
    plain = LabelStyle(seed=3, thinned=(0.9, 0.9), object_gap=0.5, flicker=0.5, range_m=5.0, ground_gap=(0.5, 0.5))
    free = np.where(labels == IGNORE, FREE, labels).astype(np.uint8)
    known = labels != IGNORE
    np.testing.assert_array_equal(drawn[known], plain.draw(free, np.eye(4), 0, SMALL)[known])
    hilly = LabelStyle(terrain=draw_terrain(np.random.default_rng(1)))
    assert set(np.unique(hilly.draw(labels, np.eye(4), 0, SMALL))) <= {*np.unique(labels).tolist(), FREE}


def test_prepare_says_how_much_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_data(tmp_path).root
    for path in root.glob("gts/*/*/labels.npz"):
        full = np.full(OCC3D.shape, FREE, np.uint8)
        full[:20] = IGNORE
        np.savez_compressed(path, semantics=full)
    prepare(Prepare(data_root=root))
    assert "10.0% of the voxels are unknown (255)" in capsys.readouterr().out
