"""``faithful=`` of the constructors: the checkpoint's own, or the other way where the weights allow it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from small_worlds import TINY

import ii_world_env
from ii_world_env.sb3_vec_env import IIWorldVecEnv
from ii_world_env.task.outcome import Outcome
from world_model.checkpoints.checkpoint import FORECASTER_FILE, TOKENIZER_FILE, save_model, tokens_hash
from world_model.core.errors import OptionError
from world_model.models.forecaster import Forecaster
from world_model.models.forecaster import tiny as tiny_forecaster
from world_model.models.tokenizer import Tokenizer
from world_model.models.tokenizer import tiny as tiny_tokenizer
from world_model.trust import members_of


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that keeps the published mistakes, as imported ones do."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    sizes = replace(tiny_tokenizer(TINY), faithful=True)
    tokenizer = Tokenizer(sizes)
    forecaster = Forecaster(replace(tiny_forecaster(sizes), transport=False, faithful=True))
    save_model(folder / TOKENIZER_FILE, tokenizer, tokenizer.state_dict(), {})
    save_model(
        folder / FORECASTER_FILE, forecaster, forecaster.state_dict(), {"tokens": tokens_hash(tokenizer.state_dict())}
    )
    return folder


def options(data: Path, checkpoint: Path, **others: Any) -> dict[str, Any]:
    settings = {"checkpoint": str(checkpoint), "data_root": str(data), "device": "cpu", "horizon": 4}
    return {**settings, "observation": "tokens", **others}


def metres(outcome: Outcome) -> dict[str, torch.Tensor]:
    return {"metres": outcome.progress_m}


metres.needs_labels = False  # type: ignore[attr-defined]


def drive(data: Path, checkpoint: Path, faithful: bool | None) -> tuple[Any, np.ndarray]:
    # Nothing of what untrained weights decode to ends an episode of this reward.
    env = gym.make(ii_world_env.ENV_ID, **options(data, checkpoint, faithful=faithful, reward=metres))
    env.reset(seed=0)
    for _ in range(2):
        seen = env.step(np.array([0.3, 0.5], np.float32))[0]
    return env.unwrapped.engine.world, seen["tokens"]  # type: ignore[attr-defined]


def test_none_is_the_checkpoints_own_and_the_other_way_is_another_model(tiny_data: Path, published: Path) -> None:
    (own, tokens), (kept, same), (right, other) = (drive(tiny_data, published, way) for way in (None, True, False))
    assert own.tokenizer.config.faithful and kept.forecaster is own.forecaster
    assert not right.tokenizer.config.faithful and not right.forecaster.config.faithful
    assert (tokens == same).all() and not np.allclose(tokens, other, atol=1e-3)


def test_every_constructor_and_an_ensemble_take_it(tiny_data: Path, published: Path) -> None:
    settings = options(tiny_data, published, faithful=False)
    both = {**settings, "checkpoint": [str(published), str(published)]}
    envs = gym.make_vec(ii_world_env.ENV_ID, num_envs=2, **both).unwrapped
    assert all(not one.forecaster.config.faithful for one in envs.engine.world.members)  # type: ignore[attr-defined]
    assert not IIWorldVecEnv(2, **settings).vector.engine.world.tokenizer.config.faithful  # type: ignore[attr-defined]


def test_a_calibration_belongs_to_the_checkpoints_own_way(tiny_data: Path, published: Path) -> None:
    assert len(members_of(drive(tiny_data, published, None)[0], published)) == 2
    assert members_of(drive(tiny_data, published, False)[0], published) == ()


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"world": "small_worlds:Learned", "faithful": False}, "world='small_worlds:Learned'"),
        ({"world": "transport", "faithful": True}, "world='transport'"),
        ({"checkpoint": None, "faithful": False}, "world='geometric'"),
        ({"checkpoint": None, "world": "ii-world", "faithful": True}, r"transport(.|\n)*leave faithful= out"),
        ({"faithful": "yes"}, "None, True or False"),
        ({"faithful": 1}, "None, True or False"),
    ],
)
def test_what_cannot_be_is_refused(tiny_data: Path, published: Path, wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        gym.make(ii_world_env.ENV_ID, **{**options(tiny_data, published), **wrong})
