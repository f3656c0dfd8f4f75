"""Both stages of OccSora on a tiny data set: they learn, resume to the same weights, and refuse what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_scenes import write_scenes

from world_model import train_occsora
from world_model.checkpoints.checkpoint import SORA_TOKENIZER_FILE, SORA_TRANSFORMER_FILE
from world_model.checkpoints.occsora import load_sora_tokenizer, load_sora_transformer, shared_occsora
from world_model.core.errors import CheckpointError, ConfigError, DataError, OptionError
from world_model.core.geometry import invert_pose
from world_model.data.index import SceneIndex
from world_model.models.occsora import SoraTokenizer, SoraTransformerConfig, tiny
from world_model.models.occsora.trajectory import encode_trajectory
from world_model.models.occsora.windows import carried, places, read_drive, read_window
from world_model.prepare import Prepare, prepare
from world_model.training.batch_norm import group_batch_norm
from world_model.training.loop import Trainer

SMALL_LOSS = train_occsora.SoraLossConfig(frames=2, voxels=1000, rare_weight=2.0, revive_every=2, mirror=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_scenes(tmp_path_factory.mktemp("data"), frames=(12, 10), shape=(200, 200, 16))
    prepare(Prepare(data_root=root))
    return root


def args(data: Path, out: Path, **changes: object) -> train_occsora.Args:
    options = {"index": data, "out": out, "preset": "tiny", "iterations": 3, "log_every": 1, "loss": SMALL_LOSS}
    return train_occsora.Args(**{**options, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    train_occsora.main(args(data, out / "tokenizer"))
    train_occsora.main(second(data, out / "tokenizer", out / "world"))
    return out


def second(data: Path, tokenizer: Path, out: Path, **changes: object) -> train_occsora.Args:
    options = {"stage": "transformer", "tokenizer": tokenizer, "batch": 2, "split": "all", **changes}
    return args(data, out, **options)


def test_the_chain_makes_a_checkpoint(trained: Path) -> None:
    tokenizer, own = load_sora_tokenizer(trained / "world")
    transformer, card = load_sora_transformer(trained / "world")
    assert transformer.config.fits(tokenizer.config) and card["tokens"] == own["weights"]
    assert card["data_source"] == "synthetic" and card["iterations"] == 3
    assert shared_occsora(trained / "world")[1].config == transformer.config
    # The latents that it learned have about unit size.
    assert transformer.config.latent_scale != 10


@pytest.mark.parametrize("stage", ["tokenizer", "transformer"])
def test_a_run_resumes_to_the_same_weights(
    data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    wanted = args(data, tmp_path) if stage == "tokenizer" else second(data, trained / "tokenizer", tmp_path)
    whole = Trainer.step

    def step(self: Trainer, batch: object) -> dict[str, torch.Tensor]:
        if self.iteration == 2:
            raise MemoryError
        return whole(self, batch)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Trainer, "step", step)
        train_occsora.main(replace(wanted, save_every=1))
    train_occsora.main(wanted)
    load = load_sora_tokenizer if stage == "tokenizer" else load_sora_transformer
    resumed = load(tmp_path)[0].state_dict()
    reference = load(trained / ("tokenizer" if stage == "tokenizer" else "world"))[0].state_dict()
    assert all(torch.equal(value, reference[name]) for name, value in resumed.items())


def test_history_goes_on_from_a_model_without(data: Path, trained: Path, tmp_path: Path) -> None:
    train_occsora.main(
        second(data, trained / "tokenizer", tmp_path, history=True, init=trained / "world", half=True, iterations=1)
    )
    model, card = load_sora_transformer(tmp_path)
    assert model.config.history and card["history"]
    assert card["init"] == load_sora_transformer(trained / "world")[1]["weights"]
    sizes = [(folder / SORA_TRANSFORMER_FILE).stat().st_size for folder in (tmp_path, trained / "world")]
    assert sizes[0] < 0.8 * sizes[1]


def test_mirrored_windows_drive_mirrored(data: Path) -> None:
    index, (tokenizer, _) = SceneIndex.load(data), tiny()
    grid = train_occsora.PRESETS["tiny"]()[0].grid
    config = SoraTransformerConfig(frames=8)
    plain, other = (read_window(index, 0, 8, grid, mirrored) for mirrored in (False, True))
    assert torch.equal(other.labels, plain.labels.flip(3))
    numbers, mirrored = (encode_trajectory(config, w.ego_to_global, w.command).view(8, 2) for w in (plain, other))
    torch.testing.assert_close(mirrored, numbers * torch.tensor([-1.0, 1.0]), atol=1e-5, rtol=1e-5)
    assert torch.equal(read_drive(index, 0, 8)[0], plain.ego_to_global[0])
    assert len(places(index, "all", 8, 2, mirror=True)[0]) == 2 * 3 and tokenizer.frames == 8
    # What is carried lies where it was, seen from each pose.
    seen = carried(plain.labels[:, 0], plain.ego_to_global, grid)
    assert torch.equal(seen[:, 0], plain.labels[:, 0])
    back = invert_pose(plain.ego_to_global[:, :1]) @ plain.ego_to_global
    assert not torch.equal(back[0, 7], back[0, 0]) and not torch.equal(seen[0, 7], seen[0, 0])


def test_the_base_recipe_is_the_published_one(data: Path) -> None:
    first = train_occsora.recipe(args(data, data, preset="base", iterations=0), 700, processes=8)
    assert first.iterations == round(200 * 5 * 700 / 8) and first.batch == 1
    assert (first.optim.learning_rate, first.optim.weight_decay, first.optim.clip_norm) == (1e-3, 0.01, 35.0)
    assert first.optim.rate(first.iterations, first.iterations) == pytest.approx(1e-6)
    options = {"stage": "transformer", "tokenizer": data, "preset": "base", "iterations": 0}
    last = train_occsora.recipe(args(data, data, **options), 700, processes=8)
    assert last.iterations == 1_200_000 and last.batch == 2
    rates = {last.optim.rate(i, last.iterations) for i in (0, 1, 600_000, 1_199_999)}
    assert rates == {1e-5} and last.optim.ema == 0.9999 and last.optim.weight_decay == 0


def test_what_does_not_fit_is_refused(data: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="longest scene has 12 keyframes"):
        train_occsora.main(args(data, tmp_path, preset="nano"))
    with pytest.raises(OptionError, match="without a tokenizer"):
        train_occsora.main(args(data, tmp_path, stage="transformer"))
    with pytest.raises(OptionError, match="--stage transformer"):
        train_occsora.main(args(data, tmp_path, tokenizer=trained))
    with pytest.raises(ConfigError, match="the same preset"):
        train_occsora.main(second(data, trained / "tokenizer", tmp_path, preset="nano"))
    (tmp_path / SORA_TOKENIZER_FILE).write_bytes((trained / "world" / SORA_TRANSFORMER_FILE).read_bytes())
    with pytest.raises(CheckpointError, match="holds a SoraTransformer"):
        train_occsora.main(second(data, tmp_path, tmp_path / "out"))
    with pytest.raises(CheckpointError, match="without a transformer"):
        shared_occsora(trained / "tokenizer")
    with pytest.raises(DataError, match="holds latents of"):
        train_occsora.main(second(data, trained / "tokenizer", trained / "world", window_step=2))


def test_statistics_do_not_depend_on_how_a_batch_is_divided() -> None:
    torch.manual_seed(0)
    model, clips = SoraTokenizer(tiny()[0]), torch.randint(0, 18, (4, 8, 40, 40, 16), dtype=torch.uint8)
    expected = torch.cat([model.latent(clips[n : n + 2]) for n in (0, 2)])
    group_batch_norm(model, 2)
    torch.testing.assert_close(model.latent(clips), expected)
