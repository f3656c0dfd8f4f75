"""A step does not know how its batch was divided: processes, micro-batches or one batch, one loss curve."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_training as small
import torch
from torch import nn

from world_model import encode_tokens
from world_model.core.errors import CheckpointError, ConfigError, OptionError
from world_model.data.index import SceneIndex
from world_model.data.tokens import TokenCache
from world_model.training.batch_norm import group_batch_norm
from world_model.training.distributed import BatchShard, DistributedContext, draws, join

TOLERANCE = 2e-4
"""Relative, of every loss and gradient norm of a curve: floating-point sums are taken in another order."""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SceneIndex:
    return small.write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runs(index: SceneIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of two processes that torchrun started."""
    out = tmp_path_factory.mktemp("two")
    small.write_tokens(out / "tokens", index)
    small.write_tokenizer(out / "model")
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here.parents[1], here.parents[2])))
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*line, str(here / "two_processes.py"), str(index.root), str(out)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return out


def curves_of(folder: Path) -> dict[str, np.ndarray]:
    """Columns of a run's log."""
    head, *rows = (folder / "log.csv").read_text().split()
    return dict(zip(head.split(","), np.array([row.split(",") for row in rows], dtype=float).T, strict=True))


def assert_alike(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], names: tuple[str, ...]) -> None:
    assert len(found["loss"]) == 4 and len(set(found["loss"])) == 4
    for name in ("loss", "grad_norm", *names):
        # Norms of gradients show the order of summation, and so the number of threads, more than losses do.
        rtol = 10 * TOLERANCE if name == "grad_norm" else TOLERANCE
        np.testing.assert_allclose(found[name], expected[name], rtol=rtol, atol=1e-6, err_msg=name)


def assert_same_weights(a: Path, b: Path, *, exactly: bool) -> None:
    first, second = (torch.load(folder / "last.pt", weights_only=True) for folder in (a, b))
    for part in ("model", "average"):
        for name, value in first[part].items():
            if exactly:
                assert torch.equal(value, second[part][name]), name
            else:
                # AdamW's first steps divide by gradients that may be near zero, so tiny ones may differ in size.
                near = torch.isclose(value.float(), second[part][name].float(), rtol=1e-3, atol=2e-4)
                assert near.float().mean() > 0.995, name


def test_two_processes_train_the_tokenizer_as_one(index: SceneIndex, runs: Path, tmp_path: Path) -> None:
    small.train_tokenizer(index, tmp_path, small.config_of(batch=4, group=2))
    assert_alike(curves_of(runs / "tokenizer"), curves_of(tmp_path), ("focal", "lovasz", "vq", "codes_used"))
    assert_same_weights(runs / "tokenizer", tmp_path, exactly=False)


def test_sampled_voxels_belong_to_the_batch_not_to_a_process(index: SceneIndex, runs: Path, tmp_path: Path) -> None:
    small.train_tokenizer(index, tmp_path, small.config_of(batch=4, group=1), voxels=600)
    assert_alike(curves_of(runs / "sampled"), curves_of(tmp_path), ("focal", "lovasz", "iou"))


def test_two_processes_train_the_forecaster_as_one(index: SceneIndex, runs: Path, tmp_path: Path) -> None:
    cache = TokenCache.load(runs / "tokens", index, "all")
    small.train_forecaster(index, cache, tmp_path, small.config_of(batch=4, group=2))
    assert_alike(curves_of(runs / "forecaster"), curves_of(tmp_path), ("token", "trajectory", "rotation", "occupancy"))
    assert_same_weights(runs / "forecaster", tmp_path, exactly=False)


def test_processes_and_micro_batches_combined(index: SceneIndex, runs: Path, tmp_path: Path) -> None:
    """Two processes of two micro-batches of one, with the published objective (group: deviation 14)."""
    cache = TokenCache.load(runs / "tokens", index, "all")
    small.train_forecaster(index, cache, tmp_path, small.config_of(batch=4, group=1), faithful=True)
    assert_alike(curves_of(runs / "faithful"), curves_of(tmp_path), ("token", "trajectory", "rotation"))


def test_two_processes_share_the_scenes_to_encode(index: SceneIndex, runs: Path, tmp_path: Path) -> None:
    options = {"index": index.root, "tokenizer": runs / "model", "batch": 1}
    encode_tokens.main(encode_tokens.Args(out=tmp_path, **options))
    one, two = (TokenCache.load(folder, index, "all") for folder in (tmp_path, runs / "encoded"))
    assert two.meta == one.meta and two.done == {0, 1}
    for scene in index.scenes("all"):
        frames = index.frames(scene)
        pair = [cache.rows(frames.start, frames.stop).astype(np.float32) for cache in (one, two)]
        assert np.isclose(*pair, atol=2e-2).mean() > 0.99  # near-tied codes may fall either way


def test_interrupted_processes_resume_exactly(runs: Path) -> None:
    """One of two processes got a signal; both stopped together, and went on as if nothing had happened."""
    assert len(curves_of(runs / "interrupted")["loss"]) == 2
    assert_same_weights(runs / "resumed", runs / "tokenizer", exactly=True)


def test_one_process_goes_on_where_two_stopped(index: SceneIndex, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes((runs / "interrupted" / "last.pt").read_bytes())
    small.train_tokenizer(index, tmp_path, small.config_of(batch=2, accumulate=2))
    assert_alike(curves_of(tmp_path), curves_of(runs / "tokenizer"), ())
    with pytest.raises(CheckpointError, match="group: 2"):
        small.train_tokenizer(index, tmp_path, small.config_of(batch=4))


def test_accumulating_micro_batches_is_a_larger_batch(index: SceneIndex, runs: Path, tmp_path: Path) -> None:
    cache = TokenCache.load(runs / "tokens", index, "all")
    whole, added = small.config_of(batch=4, group=2), small.config_of(batch=2, accumulate=2)
    for name, config in (("whole", whole), ("added", added)):
        small.train_tokenizer(index, tmp_path / name, config)
        small.train_forecaster(index, cache, tmp_path / f"f-{name}", config)
    assert_alike(curves_of(tmp_path / "added"), curves_of(tmp_path / "whole"), ("lovasz", "codes_used"))
    assert_alike(curves_of(tmp_path / "f-added"), curves_of(tmp_path / "f-whole"), ("token", "occupancy"))
    assert_same_weights(tmp_path / "f-added", tmp_path / "f-whole", exactly=False)


def test_groups_matter(index: SceneIndex, runs: Path, tmp_path: Path) -> None:
    """Without equal groups the curves differ: the tests above compare what is really coupled."""
    cache = TokenCache.load(runs / "tokens", index, "all")
    small.train_forecaster(index, cache, tmp_path, small.config_of(batch=4))
    found, expected = curves_of(tmp_path)["loss"], curves_of(runs / "forecaster")["loss"]
    assert np.abs(found / expected - 1).max() > 20 * TOLERANCE


@pytest.mark.parametrize(
    ("processes", "accumulate", "micro_batch", "group"), [(1, 1, 6, 3), (3, 2, 4, 2), (2, 3, 1, 1)]
)
def test_shards_hold_every_sample_and_group_once(processes: int, accumulate: int, micro_batch: int, group: int) -> None:
    options = {"micro_batch": micro_batch, "accumulate": accumulate, "group": group, "world_size": processes}
    shards = [BatchShard(rank=rank, **options) for rank in range(processes)]
    samples = [i for shard in shards for k in range(accumulate) for i in shard.samples(k)]
    groups = [i for shard in shards for k in range(accumulate) for i in shard.groups(k)]
    assert samples == list(range(shards[0].batch)) and groups == list(range(len(samples) // group))


def test_groups_must_fit() -> None:
    with pytest.raises(ConfigError, match="whole groups"):
        BatchShard(micro_batch=4, group=3)
    with pytest.raises(ConfigError, match="accumulate 0"):
        small.config_of(accumulate=0)


def test_draws_differ_from_place_to_place() -> None:
    places = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, -1), (0, 0, -2)]
    first = [torch.rand(4, generator=draws(*place)).tolist() for place in places]
    assert len({tuple(row) for row in first}) == len(places)
    assert torch.rand(4, generator=draws(0, 1, 0)).tolist() == first[2]


def test_grouped_batch_norm_equals_one_group_at_a_time() -> None:
    """The slow twin: an ordinary BatchNorm per group, running statistics averaged by hand."""
    torch.manual_seed(0)
    x = torch.randn(6, 5, 4, 3)
    plain = nn.Sequential(nn.BatchNorm2d(5))
    nn.init.uniform_(plain[0].weight)
    twin = [nn.BatchNorm2d(5) for _ in range(3)]
    for layer in twin:
        layer.load_state_dict(plain[0].state_dict())
    expected = torch.cat([layer(part) for layer, part in zip(twin, x.split(2), strict=True)])
    group_batch_norm(plain, 2)
    torch.testing.assert_close(plain(x), expected)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(layer, name) for layer in twin]).mean(0)
        torch.testing.assert_close(getattr(plain[0], name), mean)
    torch.testing.assert_close(plain.eval()(x), nn.functional.batch_norm(x, plain[0].running_mean, plain[0].running_var,
                                                                        plain[0].weight, plain[0].bias))  # fmt: skip


def test_alone_nothing_is_exchanged() -> None:
    alone, value = DistributedContext(device=torch.device("cpu")), torch.arange(3.0)
    assert torch.equal(alone.mean(value), value) and torch.equal(alone.gather(value), value)
    assert alone.any(True) and not alone.any(False) and alone.agree(7) and alone.first


@pytest.mark.parametrize("size", ["2", "two"])
def test_half_of_what_torchrun_sets_is_one_message(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", size)
    for name in ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OptionError, match=r"RANK is 0|WORLD_SIZE") as caught, join("cpu"):
        pass
    assert "unset" in caught.value.remedy
