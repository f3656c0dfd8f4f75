"""The geometry-first forecaster: a sensible start, sparse parts that equal dense ones, training, and its checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_training import config_of, write_data
from torch import Tensor

from world_model.checkpoints.checkpoint import GEOMETRIC_FILE, load_geometric, save_model
from world_model.core.errors import CheckpointError, ConfigError, DataError
from world_model.core.geometry import se2_matrix, warp_voxels
from world_model.core.grid import FREE, NUM_CLASSES
from world_model.data.index import SceneIndex
from world_model.models.geometric import GeometricConfig, GeometricForecaster, tiny
from world_model.models.geometric.evidence import UNKNOWN, gather_evidence
from world_model.models.geometric.moments import box_velocities
from world_model.models.geometric.motion import rigid
from world_model.models.geometric.training import GeometricLossConfig, GeometricTask, Learn, rotate
from world_model.models.layers import LabelStem, from_cells, to_cells
from world_model.training.distributed import BatchShard
from world_model.training.loop import Trainer

CONFIG = tiny()
GRID = CONFIG.grid


def street(batch: int = 2, seed: int = 0) -> Tensor:
    """Five frames of blocks on a road."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice([4, 15, FREE], size=(batch, 5, 10, 10, 4), p=[0.05, 0.1, 0.85]).astype(np.uint8)
    labels = blocks.repeat(4, 2).repeat(4, 3).repeat(4, 4)
    labels[..., 2] = 11
    return torch.from_numpy(labels)


def model(seed: int = 0) -> GeometricForecaster:
    torch.manual_seed(seed)
    return GeometricForecaster(CONFIG).eval()


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SceneIndex:
    return write_data(tmp_path_factory.mktemp("data"))


def task(index: SceneIndex, shard: BatchShard | None = None) -> GeometricTask:
    torch.manual_seed(0)
    loss = GeometricLossConfig(near_steps=2, far_steps=4, voxels=2000)
    shard = shard or BatchShard(micro_batch=4)
    return GeometricTask(GeometricForecaster(CONFIG), [index], "all", loss, seed=0, shard=shard)


class TestNetwork:
    def test_cells_are_a_bijection(self) -> None:
        labels = street()[:, 0]
        assert torch.equal(from_cells(to_cells(labels, 2), 2, GRID), labels)

    def test_the_stem_equals_a_dense_embedding(self) -> None:
        torch.manual_seed(0)
        stem, cells = LabelStem(CONFIG.slots, 8), to_cells(street()[:, 0], 2)
        one_hot = torch.nn.functional.one_hot(cells.long(), NUM_CLASSES).float()
        one_hot[..., FREE] = 0
        dense = one_hot.flatten(3) @ stem.rows
        torch.testing.assert_close(stem(cells), dense)

    @torch.no_grad()
    def test_before_training_it_is_the_ego_warp(self) -> None:
        forecaster, labels = model(), street()
        still = torch.eye(4).expand(2, 5, 4, 4)
        seen = forecaster.observe(forecaster.align(labels[:, -1:].expand(-1, 5, -1, -1, -1), still))
        ahead = se2_matrix(torch.full((2,), 1.7), torch.full((2,), 0.3), torch.full((2,), 0.1))
        forecast, _ = forecaster.fusion.forecast(gather_evidence(seen, ahead, torch.full((2,), 0.5), GRID))
        warped = warp_voxels(labels[:, -1], ahead, GRID)
        assert (forecast == warped).float().mean() > 0.999

    @torch.no_grad()
    def test_labels_are_the_most_probable_ones(self) -> None:
        forecaster, labels = model(), street()
        seen = forecaster.observe(forecaster.align(labels, torch.eye(4).expand(2, 5, 4, 4)))
        fusion = forecaster.fusion
        fusion.scores.weight.mul_(40)
        fused = fusion(gather_evidence(seen, torch.eye(4).expand(2, 4, 4), torch.full((2,), 0.5), GRID))
        everything = torch.arange(fused.labels.numel())
        log_p = fusion.log_probabilities(fused, everything)
        torch.testing.assert_close(log_p.exp().sum(1), torch.ones(len(everything)))
        occupied = log_p[:, FREE] < np.log(0.5)
        want = torch.where(occupied, log_p[:, :FREE].argmax(1), FREE).to(torch.uint8)
        assert 0 < int(occupied.sum()) < len(everything)
        assert torch.equal(to_cells(fusion.labels(fused), 2).reshape(-1), want)

    @torch.no_grad()
    def test_a_batch_equals_single_forecasts(self) -> None:
        forecaster, labels = model(), street(3)
        seen = forecaster.observe(forecaster.align(labels, torch.eye(4).expand(3, 5, 4, 4)))
        ahead = se2_matrix(
            torch.tensor([0.5, 1.7, 3.0]), torch.tensor([0.3, 0.0, -0.4]), torch.tensor([0.1, 0.0, -0.2])
        )
        evidence = gather_evidence(seen, ahead, torch.full((3,), 0.5), GRID)
        singles = [forecaster.fusion.forecast(evidence.index(row))[0] for row in range(3)]
        # Batched arithmetic may round differently.
        assert (forecaster.fusion.forecast(evidence)[0] == torch.cat(singles)).float().mean() > 0.9999

    @torch.no_grad()
    def test_beyond_the_observed_it_forecasts_from_itself(self) -> None:
        forecaster, labels = model(), street()
        seen = forecaster.observe(forecaster.align(labels, torch.eye(4).expand(2, 5, 4, 4)))
        far = se2_matrix(torch.full((2,), 100.0), torch.zeros(2), torch.zeros(2))
        evidence = gather_evidence(seen, far, torch.full((2,), 8.0), GRID)
        labels, certainty = forecaster.fusion.forecast(evidence)
        assert (evidence.visibility == UNKNOWN).all() and (certainty.unseen == 1).all()
        assert labels.shape == (2, *GRID.shape)

    def test_other_sizes_are_refused(self) -> None:
        with pytest.raises(DataError, match="observed labels"):
            model().align(street()[:, :3], torch.eye(4).expand(2, 3, 4, 4))
        with pytest.raises(ConfigError, match="divisible"):
            GeometricConfig(grid=replace(GRID, shape=(42, 40, 16)))
        with pytest.raises(ConfigError, match="width"):
            GeometricConfig(width=48)


@pytest.mark.parametrize("axis", [1, 2])
def test_mirrored_frames_have_mirrored_velocities(axis: int) -> None:
    """Whatever the weights: the network sees the scene from all four sides."""
    net, frames = model().motion, street()
    with torch.no_grad():
        assert net.out.bias is not None
        net.out.bias[2] = 1.0  # an untrained network says that nothing moves
        there = net.velocity(frames)
        mirrored = net.velocity(frames.flip(axis + 1)).flip(axis)
    mirrored[..., axis - 1] *= -1
    assert (there != 0).any()
    torch.testing.assert_close(mirrored, there, atol=1e-4, rtol=1e-4)


def test_movers_that_touch_move_as_one() -> None:
    mover = torch.zeros(1, 1, 40, 40)
    mover[0, 0, 10:14, 10:12] = mover[0, 0, 30, 30] = 1
    noise = torch.randn(1, 2, 40, 40, generator=torch.Generator().manual_seed(0))
    field = torch.tensor((4.0, -1.0)).view(1, 2, 1, 1) + noise
    found = rigid(field, mover)
    together = field[0, :, 10:14, 10:12].mean((1, 2))
    torch.testing.assert_close(found[0, :, 10:14, 10:12], together[:, None, None].expand(2, 4, 2))
    torch.testing.assert_close(found[0, :, 30, 30], field[0, :, 30, 30])
    assert (found * (1 - mover) == 0).all()


class TestTraining:
    def test_boxes_say_how_fast_columns_move(self, index: SceneIndex) -> None:
        frame = 6
        field, known = box_velocities(index, frame, GRID)
        boxes = index.boxes(frame)
        mover = int(np.linalg.norm(boxes.velocity_mps, axis=1).argmax())
        moved = field.norm(dim=-1) > 0
        assert known and moved.any()
        np.testing.assert_allclose(field[moved].mean(0), boxes.velocity_mps[mover], rtol=1e-5)

    def test_it_learns_and_resumes_to_the_bit(self, index: SceneIndex, tmp_path: Path) -> None:
        config = replace(config_of(12), optim=replace(config_of().optim, learning_rate=5e-3))
        whole = Trainer(task(index), config, tmp_path / "whole", {})
        whole.run()
        losses = [row["loss"] for row in whole.rows]
        assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
        first = Trainer(task(index), config, tmp_path / "parts", {})
        for batch in first.task.batches(0, 5):
            first.step(iter([batch]))
        first.save()
        second = Trainer(task(index), config, tmp_path / "parts", {})
        second.run()
        for name, value in whole.task.model.state_dict().items():
            assert torch.equal(value, second.task.model.state_dict()[name]), name

    @pytest.mark.parametrize("learn", ["motion", "fusion"])
    def test_one_network_learns_while_the_other_stays(self, index: SceneIndex, tmp_path: Path, learn: Learn) -> None:
        loss, shard = GeometricLossConfig(learn=learn, voxels=500), BatchShard(micro_batch=2)
        trained = GeometricTask(model(4), [index], "all", loss, seed=0, shard=shard)
        before = {k: v.clone() for k, v in trained.model.state_dict().items()}
        Trainer(trained, config_of(2), tmp_path, {}).run()
        changed = {k.split(".")[0] for k, v in trained.model.state_dict().items() if not torch.equal(v, before[k])}
        assert changed == {learn}

    def test_it_learns_from_movers_that_stay_whole(self, index: SceneIndex, tmp_path: Path) -> None:
        loss, shard = GeometricLossConfig(learn="fusion", whole_ratio=1.0, voxels=500), BatchShard(micro_batch=2)
        trained = GeometricTask(model(4), [index], "all", loss, seed=0, shard=shard)
        before = trained.model.fusion.scores.weight.clone()
        Trainer(trained, config_of(2), tmp_path, {}).run()
        assert not torch.equal(trained.model.fusion.scores.weight, before)

    def test_turned_worlds_move_as_their_boxes_say(self) -> None:
        """What stands at p and moves with v stands, in the turned world, at T p and moves with T v."""
        x, y, speed = 11, 29, torch.tensor((3.0, -2.0))
        frames, velocity = torch.full((8, 2, *GRID.shape), FREE, dtype=torch.uint8), torch.zeros(8, 40, 40, 2)
        frames[:, 0, x, y], velocity[:, x, y] = 4, speed
        how = torch.tensor([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]).bool()
        rotated, moved = rotate(frames, velocity, how)
        for n, (flip_x, flip_y, swap) in enumerate(how.tolist()):
            place = [39 - x if flip_x else x, 39 - y if flip_y else y]
            wanted = torch.tensor((-3.0 if flip_x else 3.0, 2.0 if flip_y else -2.0))
            if swap:
                place, wanted = place[::-1], wanted.flip(0)
            assert (rotated[n, 0] != FREE).any(-1).nonzero().tolist() == [place]
            torch.testing.assert_close(moved[n, place[0], place[1]], wanted)

    def test_a_step_does_not_know_how_its_batch_was_divided(self, index: SceneIndex) -> None:
        whole = task(index, BatchShard(micro_batch=4, group=2))
        (batch,) = whole.batches(0, 1)
        want, _ = whole.loss(batch, 0)
        parts = []
        for rank in (0, 1):
            apart = task(index, BatchShard(micro_batch=2, rank=rank, world_size=2))
            (half,) = apart.batches(0, 1)
            parts.append(apart.loss(half, 0)[0])
        torch.testing.assert_close(torch.stack(parts).mean(), want)

    def test_too_short_scenes_are_refused(self, index: SceneIndex) -> None:
        forecaster = GeometricForecaster(replace(CONFIG, observed=30))
        with pytest.raises(DataError, match="no scene of more than"):
            GeometricTask(forecaster, [index], "all", GeometricLossConfig(), seed=0, shard=BatchShard(micro_batch=1))


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    written = model(3)
    save_model(tmp_path / GEOMETRIC_FILE, written, written.state_dict(), {"data_source": "synthetic"})
    read, card = load_geometric(tmp_path)
    assert card["data_source"] == "synthetic" and read.config == CONFIG
    for name, value in written.state_dict().items():
        assert torch.equal(value, read.state_dict()[name])
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_geometric(tmp_path / "nowhere")
