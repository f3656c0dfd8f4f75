"""The base presets are the paper's recipe; epochs become iterations by the data set and the whole batch."""

from pathlib import Path

import pytest

from world_model import train_forecaster, train_tokenizer
from world_model.training.distributed import BatchShard, DistributedContext
from world_model.training.optim import OptimConfig, iterations_of

NUSCENES_TRAIN = 28_130
PATHS = {"index": Path("i"), "out": Path("o")}
FORECAST = {**PATHS, "tokens": Path("t"), "tokenizer": Path("k")}


def test_published_tokenizer() -> None:
    train, loss = train_tokenizer.recipe(train_tokenizer.Args(**PATHS, preset="base"), NUSCENES_TRAIN, processes=8)
    shard = train.shard(DistributedContext(device="cpu", rank=3, world_size=8))  # type: ignore[arg-type]
    assert (shard.batch, shard.group, train.batch) == (64, 8, 8)
    assert train.iterations == round(24 * NUSCENES_TRAIN / 64)
    optim = train.optim
    assert (optim.learning_rate, optim.weight_decay, optim.clip_norm, optim.ema) == (5e-4, 1e-2, 5.0, 0.999)
    assert (loss.vq_weight, loss.voxels, loss.revive_every) == (1.0, 0, 0)
    assert train_tokenizer.PARTS["base"] == 2
    rates = [optim.rate(i, train.iterations) for i in range(train.iterations)]
    assert rates[0] == pytest.approx(5e-7) and rates[100] == pytest.approx(5e-4 * 0.5005) and rates[200] == 5e-4
    epoch_20 = 20 * train.iterations / 24
    assert rates[int(epoch_20) - 1] == 5e-4 and rates[int(epoch_20) + 1] == pytest.approx(5e-5) == rates[-1]


def test_a_loss_of_every_voxel_lifts_no_rare_classes_unasked() -> None:
    """The term needs a sample: `--voxels 0` alone must not end in a complaint about a weight that was not given."""
    weights = [train_tokenizer.recipe(train_tokenizer.Args(**PATHS, voxels=v), 1000)[1].rare_weight for v in (-1, 0)]
    assert weights == [2.0, 0.0]


def test_published_forecaster() -> None:
    windows = 20_000
    train, loss = train_forecaster.recipe(train_forecaster.Args(**FORECAST, preset="base"), windows, processes=8)
    assert train.iterations == 48 * windows // 64
    optim = train.optim
    assert (optim.learning_rate, optim.weight_decay, optim.clip_norm, optim.ema) == (1e-3, 1e-2, 5.0, 0.999)
    epoch_36 = 36 * train.iterations // 48
    assert optim.rate(epoch_36 - 1, train.iterations) == 1e-3
    assert optim.rate(epoch_36, train.iterations) == pytest.approx(1e-4)
    assert loss.sampling_rate == 2.5 and loss.step_weights == (1.0, 0.85, 0.7, 0.55, 0.4, 0.25)
    assert loss.through_time and not loss.normalise and loss.occupancy_weight == 0


def test_one_gpu_can_follow_the_eight() -> None:
    """Eight micro-batches on one device are the step of eight devices: as many iterations, samples and groups."""
    eight, _ = train_tokenizer.recipe(train_tokenizer.Args(**PATHS, preset="base"), NUSCENES_TRAIN, processes=8)
    one, _ = train_tokenizer.recipe(train_tokenizer.Args(**PATHS, preset="base", accumulate=8), NUSCENES_TRAIN)
    cpu = DistributedContext(device="cpu")  # type: ignore[arg-type]
    many = DistributedContext(device="cpu", rank=0, world_size=8)  # type: ignore[arg-type]
    assert one.identity(one.shard(cpu)) == eight.identity(eight.shard(many))
    assert str(one.shard(cpu)) == "64 (8 micro-batches), in groups of 8"
    assert str(BatchShard(micro_batch=2)) == "2"


def test_nano_stays_as_the_bundled_checkpoint_was_trained() -> None:
    train, loss = train_tokenizer.recipe(train_tokenizer.Args(**PATHS), 4_800)
    assert (train.iterations, train.batch, loss.voxels, loss.revive_every) == (6_000, 2, 24_000, 20)
    assert train.optim == OptimConfig(learning_rate=1e-3, schedule="cosine", warmup=50, ema=0.995)
    train, forecast = train_forecaster.recipe(train_forecaster.Args(**FORECAST), 3_000)
    assert (train.iterations, train.batch, forecast.occupancy_weight) == (650, 2, 1.0)
    assert train.optim == OptimConfig(schedule="cosine", learning_rate=1e-3, decay_at=0.75, warmup=100, ema=0.99)


def test_epochs() -> None:
    assert iterations_of(2, 100, 8, 7) == 25 and iterations_of(0, 100, 8, 7) == 7 and iterations_of(0.01, 10, 8, 7) == 1
