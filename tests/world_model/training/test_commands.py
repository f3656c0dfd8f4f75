"""The training commands on a tiny data set: they learn, resume to the same weights, and refuse what does not fit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_scenes import write_scenes

from world_model import encode_tokens, refine_decoder, train_forecaster, train_tokenizer
from world_model.checkpoints.checkpoint import load_tokenizer
from world_model.checkpoints.shared import load_world
from world_model.core.errors import CheckpointError, DataError
from world_model.data.augment import Flip
from world_model.data.index import INDEX_NAME, SceneIndex
from world_model.data.streams import StreamPlan
from world_model.data.tokens import TokenCache
from world_model.prepare import Prepare, prepare
from world_model.training.loop import Trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short scenes on the full grid, prepared."""
    root = write_scenes(tmp_path_factory.mktemp("data"), frames=(13, 12), shape=(200, 200, 16))
    prepare(Prepare(data_root=root))
    return root


def tokenizer_args(data: Path, out: Path, **changes: object) -> train_tokenizer.Args:
    options = {"index": data, "out": out, "preset": "tiny", "iterations": 4, "log_every": 2, "voxels": 3000, **changes}
    return train_tokenizer.Args(**options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, its tokens and a forecaster, each after a few iterations."""
    out = tmp_path_factory.mktemp("runs")
    train_tokenizer.main(tokenizer_args(data, out / "tokenizer"))
    encode_tokens.main(encode_tokens.Args(index=data, tokenizer=out / "tokenizer", out=out / "tokens"))
    train_forecaster.main(forecaster_args(data, out, out / "world"))
    return out


def forecaster_args(data: Path, runs: Path, out: Path, **changes: object) -> train_forecaster.Args:
    options = {
        **{"index": data, "tokens": runs / "tokens", "tokenizer": runs / "tokenizer", "out": out},
        **{"preset": "tiny", "iterations": 3, "batch": 2, "log_every": 1, **changes},
    }
    return train_forecaster.Args(**options)  # type: ignore[arg-type]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_tokenizer(path)[0].state_dict()


def test_the_chain_makes_a_checkpoint(data: Path, trained: Path) -> None:
    world = load_world(trained / "world")
    assert world.card["data_source"] == "synthetic" and world.card["iterations"] == 3
    assert (trained / "world" / "log.csv").read_text().startswith("iteration,rate,seconds,loss")


@pytest.mark.parametrize("death", ["signal", "crash"])
def test_a_run_resumes_to_the_same_weights(
    data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: str
) -> None:
    """Ended in the third of four iterations, politely or without warning, a run goes on as if nothing happened."""
    whole = Trainer.step

    def step(self: Trainer, batch: object) -> dict[str, torch.Tensor]:
        if self.iteration == 2 and death == "crash":
            raise MemoryError
        logs = whole(self, batch)
        if self.iteration == 2 and death == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        return logs

    with monkeypatch.context() as patch, pytest.raises(SystemExit if death == "signal" else MemoryError):
        patch.setattr(Trainer, "step", step)
        train_tokenizer.main(tokenizer_args(data, tmp_path, save_every=2))
    assert (tmp_path / "last.pt").exists() and not (tmp_path / "tokenizer.safetensors").exists()
    train_tokenizer.main(tokenizer_args(data, tmp_path))
    resumed = weights(tmp_path)
    for name, value in weights(trained / "tokenizer").items():
        assert torch.equal(resumed[name], value), name


def test_refining_the_decoder_keeps_tokens_and_forecaster(data: Path, trained: Path, tmp_path: Path) -> None:
    refine_decoder.main(
        refine_decoder.Args(
            index=data, tokens=trained / "tokens", checkpoint=trained / "world", out=tmp_path, iterations=2, batch=2
        )
    )
    before, after = weights(trained / "world"), weights(tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    load_world(tmp_path)  # the forecaster still belongs to it


def test_the_card_tells_every_refinement(data: Path, trained: Path, tmp_path: Path) -> None:
    """A second one goes on from the first, with its own weight of the rare classes, and the card lists both."""
    before = trained / "world"
    for weight, out in ((2.0, tmp_path / "first"), (0.0, tmp_path / "second")):
        refine_decoder.main(
            refine_decoder.Args(
                index=data, tokens=trained / "tokens", checkpoint=before, out=out, iterations=1, batch=2,
                rare_weight=weight,
            )
        )  # fmt: skip
        before = out
    _, card = load_tokenizer(before)
    assert [entry["rare_weight"] for entry in card["decoder_refined"]] == [2.0, 0.0]
    assert "rare" in (tmp_path / "first" / "log.csv").read_text().splitlines()[0]
    assert "rare" not in (tmp_path / "second" / "log.csv").read_text().splitlines()[0]


def test_other_options_do_not_resume(data: Path, trained: Path) -> None:
    with pytest.raises(CheckpointError, match="seed"):
        train_tokenizer.main(tokenizer_args(data, trained / "tokenizer", seed=1))


def test_damaged_resume_file(data: Path, tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        train_tokenizer.main(tokenizer_args(data, tmp_path))
    assert (tmp_path / "last.pt").read_bytes() == b"not a checkpoint"


def test_tokens_do_not_depend_on_the_batch(data: Path, trained: Path, tmp_path: Path) -> None:
    index = SceneIndex.load(data)
    encode_tokens.main(encode_tokens.Args(index=data, tokenizer=trained / "tokenizer", out=tmp_path, batch=1))
    caches = [TokenCache.load(folder, index, "all") for folder in (tmp_path, trained / "tokens")]
    singles, pairs = (np.concatenate([cache.rows(0, 13), cache.rows(13, 25)]) for cache in caches)
    near = np.isclose(singles.astype(np.float32), pairs.astype(np.float32), atol=2e-2)
    assert near.mean() > 0.99  # near-tied codes may fall either way


def test_encoding_goes_on_where_it_stopped(
    data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = encode_tokens.Args(index=data, tokenizer=trained / "tokenizer", out=tmp_path, split="train")
    encode_tokens.main(args)
    with pytest.raises(DataError, match="lacks 1 scenes"):
        TokenCache.load(tmp_path, SceneIndex.load(data), "all")
    capsys.readouterr()
    encode_tokens.main(encode_tokens.Args(index=data, tokenizer=trained / "tokenizer", out=tmp_path))
    assert "[12/12]" in capsys.readouterr().out  # only the other scene


def test_tokens_of_another_tokenizer_are_refused(data: Path, trained: Path, tmp_path: Path) -> None:
    train_tokenizer.main(tokenizer_args(data, tmp_path / "other", seed=3, iterations=1))
    with pytest.raises(DataError, match="made by tokenizer"):
        train_forecaster.main(forecaster_args(data, trained, tmp_path / "w", tokenizer=tmp_path / "other"))


def test_missing_index_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"world_model\.prepare"):
        train_tokenizer.main(tokenizer_args(tmp_path, tmp_path / "out"))


def test_streams_are_a_function_of_the_iteration(data: Path) -> None:
    index = SceneIndex.load(data / INDEX_NAME)
    first, again = (StreamPlan(index, "train", 2, seed=3) for _ in range(2))
    ahead = [again.slots(i) for i in (9, 4, 0)]
    assert [first.slots(i) for i in (9, 4, 0)] == ahead
    assert first.slots(0)[0].start
    for before, after in zip(first.slots(0), first.slots(1), strict=True):
        assert after.start or after.frame == before.frame + 1


def test_flipped_streams_stay_consistent(data: Path) -> None:
    """A mirrored frame warped by the mirrored motion is the mirrored warp."""
    from world_model.core.geometry import warp_voxels

    index = SceneIndex.load(data)
    plain = StreamPlan(index, "train", 1, seed=0, flips="none")
    slot = plain.slots(1)[0]
    straight = plain.read([slot])
    for flip_x, flip_y in ((True, False), (False, True), (True, True)):
        flip = Flip(flip_x, flip_y)
        mirrored = plain.read([type(slot)(frame=slot.frame, start=False, flip=flip, memory_flip=flip)])
        dims = [d for d, flip in ((1, flip_x), (2, flip_y)) if flip]
        torch.testing.assert_close(mirrored.labels, straight.labels.flip(dims))
        a = warp_voxels(straight.labels, straight.curr_to_prev).flip(dims)
        b = warp_voxels(mirrored.labels, mirrored.curr_to_prev)
        assert (a == b).float().mean() > 0.995  # voxels on an edge may round to either side


@pytest.mark.slow
def test_torchrun_runs_the_commands(data: Path, tmp_path: Path) -> None:
    """Two processes from a terminal: the same losses as one command with the whole batch, and a complete checkpoint."""

    def torchrun(module: str, **options: object) -> None:
        words = [w for name, value in options.items() for w in (f"--{name.replace('_', '-')}", str(value))]
        line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", module]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
        subprocess.run([*line, *words], env=environment, check=True, timeout=300)

    short = {"preset": "tiny", "batch": 1, "log_every": 1}
    tokenizer, tokens, world = (tmp_path / name for name in ("tokenizer", "tokens", "world"))
    torchrun("world_model.train_tokenizer", index=data, out=tokenizer, iterations=4, voxels=3000, **short)
    torchrun("world_model.encode_tokens", index=data, tokenizer=tokenizer, out=tokens)
    inputs = {"index": data, "tokens": tokens, "tokenizer": tokenizer}
    torchrun("world_model.train_forecaster", out=world, iterations=3, **inputs, **short)
    assert load_world(world).card["processes"] == 2
    train_tokenizer.main(tokenizer_args(data, tmp_path / "one", batch=2, group=1, log_every=1))
    train_forecaster.main(forecaster_args(data, tmp_path, tmp_path / "one_world", batch=2, group=1))
    for two, one in ((tokenizer, tmp_path / "one"), (world, tmp_path / "one_world")):
        columns = [np.genfromtxt(folder / "log.csv", delimiter=",", names=True) for folder in (two, one)]
        for name in ("loss", "grad_norm"):
            np.testing.assert_allclose(columns[0][name], columns[1][name], rtol=1e-3)
