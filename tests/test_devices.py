"""All that computes keeps its tensors on one device: tried on a pretended GPU (see `pretend_gpu`)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from pretend_gpu import GPU, DeviceMixed, pretend_gpu
from tiny_scenes import write_scenes

import ii_world_env  # noqa: F401
from world_model import encode_tokens, refine_decoder, train_forecaster, train_geometric, train_occsora, train_tokenizer
from world_model.checkpoints.checkpoint import GEOMETRIC_FILE, load_geometric
from world_model.checkpoints.shared import load_world
from world_model.data.clips import load_clips
from world_model.data.index import SceneIndex
from world_model.evaluate import Evaluate, evaluate
from world_model.prepare import Prepare, prepare
from world_model.worlds import build_world

ENV = "IIWorld-nuScenes-v0"


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + torch.ones(3),
        lambda x: x.numpy(),
        lambda x: np.asarray(x),
        lambda x: torch.ones(3)[x > 0],
        lambda x: torch.rand(3, generator=torch.Generator(), device=x.device),
        lambda x: torch.stack((x, torch.ones(3))),
    ],
)
def test_the_pretended_gpu_refuses_what_a_gpu_refuses(mix: Callable[[torch.Tensor], Any]) -> None:
    with pretend_gpu() as gpu:
        x = torch.zeros(3, device=gpu)
        assert x.device == GPU
        with pytest.raises(DeviceMixed):
            mix(x)


def test_the_pretended_gpu_computes() -> None:
    with pretend_gpu() as gpu:
        x = torch.tensor([1.0, 2.0, 3.0]).to(gpu)
        x[[0, 2]] += 1
        x.mul_(2)
        weight = torch.ones(3, device=gpu, requires_grad=True)
        (x * weight).sum().backward()
        assert weight.grad is not None and weight.grad.device == GPU
        assert x.tolist() == [4.0, 4.0, 8.0] and weight.grad.cpu().tolist() == [4.0, 4.0, 8.0]
        assert (x > 4).nonzero().tolist() == [[2]] and float(x.sum()) == 16.0


@pytest.mark.parametrize("world", ["geometric", "ii-world", "transport", "replay", "simulated"])
def test_environments(world: str) -> None:
    """The same rewards and observations as on the CPU."""
    here = gym.make(ENV, world=world, device="cpu")
    expected = here.reset(seed=3)[0]
    with pretend_gpu() as gpu:
        there = gym.make(ENV, world=world, device=str(gpu), render_mode="rgb_array")
        found = there.reset(seed=3)[0]
        here.action_space.seed(0)
        for _ in range(2):
            same = (found["bev"] == expected["bev"]).mean()
            assert same > 0.999, same
            action = here.action_space.sample()
            expected, reward, *_ = here.step(action)
            found, other, *_ = there.step(action)
            assert reward == pytest.approx(other, abs=1e-3)
        assert there.render().dtype == np.uint8  # type: ignore[union-attr]


@pytest.mark.parametrize("options", [{}, {"world": "ii-world", "observation": "tokens", "action": "waypoints"}])
def test_vector_environments(options: dict[str, Any]) -> None:
    with pretend_gpu() as gpu:
        envs = gym.make_vec(ENV, num_envs=2, device=str(gpu), pessimism=0.5, **options)
        envs.reset(seed=0)
        for _ in range(2):
            _, reward, *_ = envs.step(envs.action_space.sample())
            assert np.isfinite(reward).all()


def test_training_and_evaluation(tmp_path: Path) -> None:
    """The chain of commands, with weights that can be read on the CPU afterwards."""
    data = write_scenes(tmp_path / "data", frames=(13, 12), shape=(200, 200, 16))
    prepare(Prepare(data_root=data))
    tokenizer, tokens, world, refined, geometric = (
        tmp_path / n for n in ("tokenizer", "tokens", "world", "refined", "geo")
    )
    with pretend_gpu() as gpu:
        every: dict[str, Any] = {"index": data, "device": str(gpu)}
        train_tokenizer.main(train_tokenizer.Args(**every, out=tokenizer, preset="tiny", iterations=1, voxels=3000))
        encode_tokens.main(encode_tokens.Args(**every, out=tokens, tokenizer=tokenizer))
        train_forecaster.main(
            train_forecaster.Args(
                **every, out=world, preset="tiny", tokens=tokens, tokenizer=tokenizer, iterations=1
            )
        )  # fmt: skip
        refine_decoder.main(
            refine_decoder.Args(**every, out=refined, checkpoint=world, tokens=tokens, iterations=1, batch=2)
        )
        train_geometric.main(train_geometric.Args(**every, out=geometric, preset="tiny", iterations=1))
        small = train_occsora.SoraLossConfig(frames=1, voxels=1000, revive_every=1, mirror=True)
        sora: dict[str, Any] = {**every, "preset": "tiny", "iterations": 1, "window_step": 8}
        train_occsora.main(train_occsora.Args(**sora, out=tmp_path / "sora", loss=small))
        second = {"stage": "transformer", "tokenizer": tmp_path / "sora", "batch": 2, "history": True}
        train_occsora.main(train_occsora.Args(**sora, **second, out=tmp_path / "occsora"))
        drawn = build_world("occsora", checkpoint=tmp_path / "occsora", device=str(gpu))
        clips = load_clips(SceneIndex.load(data), [4, 5], future=3)
        state = drawn.reset(clips)
        still = torch.eye(4, device=gpu).expand(2, 4, 4)
        assert drawn.occupancy(drawn.step(state, still, torch.full((2,), 2, device=gpu))).device == gpu
        shutil.copy(geometric / GEOMETRIC_FILE, refined)
        evaluate(
            Evaluate(
                **every, checkpoint=refined, out=tmp_path / "evaluation", split="all", max_windows=1, max_scenes=1,
                workers=1, world=("geometric",), regimes=("gt-ego",), models="none",
            )
        )  # fmt: skip
    models = load_world(refined).tokenizer, load_world(refined).forecaster, load_geometric(refined)[0]
    assert all(bool(torch.isfinite(p).all()) for model in models for p in model.parameters())
    assert (tmp_path / "evaluation" / "results.json").exists()
