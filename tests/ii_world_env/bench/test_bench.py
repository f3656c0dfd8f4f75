"""The bench, on small worlds: what it reports and leaves out, never how fast this machine is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_worlds import TINY

from ii_world_env.bench import models as bench_models
from ii_world_env.bench import run as bench_module
from ii_world_env.bench import stopwatch
from ii_world_env.bench.run import Bench, bench, markdown
from ii_world_env.task.outcome import Outcome
from world_model.checkpoints.checkpoint import load_geometric
from world_model.checkpoints.shared import load_world
from world_model.core.errors import OptionError
from world_model.core.geometry import invert_pose, se2_matrix
from world_model.models.forecaster import Forecaster, ForecastState
from world_model.models.forecaster import tiny as tiny_forecaster
from world_model.models.tokenizer import Tokenizer
from world_model.models.tokenizer import tiny as tiny_tokenizer
from world_model.worlds.token import TokenWorld

QUICK: dict[str, Any] = {"steps": 2, "runs": 1}


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call of each stage is enough to see that it works."""
    monkeypatch.setattr(stopwatch, "REPEATS", 1)
    monkeypatch.setattr(stopwatch, "WARM_UP", 0)


@pytest.mark.usefixtures("brief")
def test_figures_come_with_their_circumstances(small_data: Path, tmp_path: Path) -> None:
    options = Bench(world="small_worlds:Transport", index=small_data, batches=(2, 1), out=tmp_path / "b.json", **QUICK)
    figures = bench(options)
    assert [row["batch"] for row in figures["rows"]] == [1, 2], "from small to large, as the memory grows"
    for row in figures["rows"]:
        assert row["steps_per_s"] > row["steps_per_s_with_resets"] > 0 and row["ratio"] > 0
        assert {"forecast", "decode", "reward", "observation", "reset", "render"} == set(row["milliseconds"])
        assert row["latent_frames_per_s"] is None, "there are no tokens in this world"
        assert row["peak_mib"] > 10 and row["plans_per_s"] > 0
    assert json.loads((tmp_path / "b.json").read_text()) == figures
    assert figures["torch"] == torch.__version__ and figures["hardware"] and "synthetic" not in figures["model"]


@pytest.mark.usefixtures("brief")
def test_the_learned_world_has_more_stages(tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = bench(Bench(world="small_worlds:Learned", index=tiny_data, batches=(1,), observation="tokens", **QUICK))
    (row,) = figures["rows"]
    assert "encode" in row["milliseconds"] and row["latent_frames_per_s"] > 0 and row["dtype"] == "float32"
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) == 3 and len({line.count("|") for line in table}) == 1, "a Markdown table of one row"


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("action", ["meta", "waypoints"])
def test_every_kind_of_action_is_driven(small_data: Path, action: str) -> None:
    figures = bench(
        Bench(
            world="small_worlds:Transport", index=small_data, batches=(2,), action=action, observation="state", **QUICK
        )
    )
    assert figures["rows"][0]["steps_per_s"] > 0 and figures["action"] == action


@pytest.mark.usefixtures("brief")
def test_what_decodes_nothing_is_timed_too(tiny_data: Path) -> None:
    figures = bench(
        Bench(
            world="small_worlds:Learned",
            index=tiny_data,
            batches=(1,),
            observation="tokens",
            reward=f"{__name__}:metres",
            **QUICK,
        )
    )
    row = figures["rows"][0]
    assert row["steps_per_s"] > 0 and row["latent_frames_per_s"] is not None


def metres(outcome: Outcome) -> dict[str, torch.Tensor]:
    """A reward that needs no labels."""
    return {"metres": outcome.progress_m}


metres.needs_labels = False  # type: ignore[attr-defined]


@pytest.mark.usefixtures("brief")
def test_what_does_not_fit_is_left_out_and_said(
    small_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"world": "small_worlds:Transport", "index": small_data, **QUICK}
    figures = bench(Bench(batches=(1,), limit_s=1e-6, **options))
    assert not figures["rows"] and "would take" in figures["left_out"]["1"]
    monkeypatch.setattr(bench_module, "_free_mib", lambda: -1.0)
    figures = bench(Bench(batches=(1, 2), **options))
    assert [row["batch"] for row in figures["rows"]] == [1] and "memory" in figures["left_out"]["2"]
    assert "batch 2 left out" in capsys.readouterr().out and "Batch 2 left out" in markdown(figures)


def test_a_preset_is_a_loadable_model_with_random_weights(tmp_path: Path) -> None:
    folder = bench_models.write_random("tiny", tmp_path)
    assert "random" in load_world(folder).card["data_source"]
    assert load_geometric(folder)[0].config.width == 8
    with pytest.raises(OptionError, match="huge"):
        bench_models.write_random("huge", tmp_path)


def test_a_compiler_that_fails_leaves_the_world_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    world, frame = tiny_world(), torch.zeros(1, 16, *tiny_tokenizer(TINY).latent_shape)
    kept = world.tokenizer, world.forecaster

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", broken)
    assert "no C++ compiler" in bench_models.try_compiled(world, lambda: None)
    assert (world.tokenizer, world.forecaster) == kept
    # One that only fails when the code runs.
    monkeypatch.setattr(torch, "compile", lambda function, **_: broken)
    assert "no C++ compiler" in bench_models.try_compiled(world, lambda: world.tokenizer.decode(frame))
    assert (world.tokenizer, world.forecaster) == kept and world.tokenizer.decode(frame).shape == (1, *TINY.shape)
    # One that works is used, and other worlds of the same networks do not notice.
    calls: list[str] = []

    def noting(function: Any, **_: object) -> Any:
        return lambda *values: (calls.append("used"), function(*values))[1]

    monkeypatch.setattr(torch, "compile", noting)
    assert bench_models.try_compiled(world, lambda: world.tokenizer.decode(frame)) == "compiled" and calls
    assert world.tokenizer is not kept[0]
    calls.clear()
    kept[0].decode(frame)
    assert not calls


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"batches": (0,)}, {"limit_s": 0.0}, {"preset": "tiny", "checkpoint": "x"}]
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        Bench(**wrong)


@pytest.mark.parametrize("published", [False, True])
def test_following_a_given_motion_is_the_same_to_the_bit_without_the_ego_head(published: bool) -> None:
    """The short way that the learned world takes, against the whole step."""
    model = tiny_forecaster(tiny_tokenizer(TINY))
    if published:
        model = type(model)(**{**vars(model), "transport": False, "faithful": True})
    torch.manual_seed(0)
    forecaster = Forecaster(model).eval()
    if not published:
        torch.nn.init.normal_(forecaster.change.weight)  # else the forecast is the moved token alone
    poses = torch.eye(4).repeat(2, 3, 1, 1)
    poses[:, :, 0, 3] = torch.arange(3.0)
    motion = invert_pose(se2_matrix(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.2]), torch.tensor([0.1, -0.1])))
    with torch.inference_mode():
        state = forecaster.start(torch.randn(2, 3, model.width, *model.latent_shape), poses)
        short, long = state, state
        for _ in range(3):
            short = forecaster.follow(short, torch.tensor([0, 2]), motion)
            long = forecaster.step(long, torch.tensor([0, 2]), motion)[0]
    assert not torch.equal(short.token, state.token)
    assert same(short, long)


def test_a_clip_is_encoded_as_frame_after_frame() -> None:
    """Side by side through the networks, one after the other through the memory."""
    world, (streams, count) = tiny_world(), (3, 5)
    tokenizer = world.tokenizer
    labels = torch.randint(0, 18, (streams, count, *TINY.shape), dtype=torch.uint8)
    motion = se2_matrix(torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0.0, 0.2, 0.0]), torch.tensor([0.1, -0.1, 0.5]))
    to_previous = motion[:, None].repeat(1, count - 1, 1, 1)
    with torch.inference_mode():
        together = tokenizer.encode_clip(labels, to_previous)
        memory, tokens = tokenizer.empty_memory(streams), []
        for frame in range(count):
            start = torch.full((streams,), frame == 0)
            encoded = tokenizer.encode(labels[:, frame], memory, motion, start)
            memory = encoded.memory
            tokens.append(encoded.token)
        unmoved = tokenizer.encode_clip(labels, torch.eye(4).repeat(streams, count - 1, 1, 1))
    assert (together - torch.stack(tokens, 1)).abs().max() < 1e-5
    assert (together - unmoved).abs().max() > 1e-3, "the memory has to move with the ego"


def tiny_world() -> TokenWorld:
    torch.manual_seed(0)
    config = tiny_tokenizer(TINY)
    return TokenWorld(Tokenizer(config), Forecaster(tiny_forecaster(config)))


def same(a: ForecastState, b: ForecastState) -> bool:
    tensors = torch.equal(a.tokens, b.tokens) and torch.equal(a.poses, b.poses) and torch.equal(a.motions, b.motions)
    return tensors and (a.ego is None) == (b.ego is None)
