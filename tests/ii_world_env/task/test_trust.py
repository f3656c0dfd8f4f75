"""Trust in the environment: reported, charged for, and an end of episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import small_worlds
import torch
from street import SMALL, write_street

import ii_world_env  # noqa: F401 (registers)
from ii_world_env.task.trust import Pessimistic, check_pessimism, trust_of
from world_model.core.errors import OptionError
from world_model.worlds import TransportWorld


class Doubtful(small_worlds.Transport):
    """The static world, which believes itself less with every step."""

    def trust(self, state: Any) -> torch.Tensor:
        """1, and a fifth less for each metre driven, down to 0."""
        driven = state.ego_to_start[:, 0, 3] if hasattr(state, "ego_to_start") else torch.zeros(len(state.labels))
        return (1 - driven.abs() / 20).clamp(0, 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_street(tmp_path_factory.mktemp("street"), grid=SMALL)


def make(data: Path, **options: Any) -> gym.Env:
    return gym.make("IIWorld-nuScenes-v0", data_root=str(data), world=f"{__name__}:Doubtful", **options)


def drive(env: gym.Env, steps: int = 4) -> list[tuple[float, bool, dict[str, Any]]]:
    env.reset(seed=0)
    found = []
    for _ in range(steps):
        _, reward, terminated, truncated, info = env.step(np.array([0.0, 0.0], np.float32))
        found.append((float(reward), bool(truncated), info))
        if terminated or truncated:
            break
    return found


def test_trust_is_reported_and_free_by_default(data: Path) -> None:
    steps = drive(make(data))
    assert all(0 <= info["trust"] <= 1 and "pessimism" not in info["reward_terms"] for _, _, info in steps)


def test_mistrust_costs_what_pessimism_says(data: Path) -> None:
    plain, charged = drive(make(data)), drive(make(data, pessimism=2.0))
    for (free, _, _), (paid, _, info) in zip(plain, charged, strict=True):
        cost = -2.0 * (1 - info["trust"])
        assert info["reward_terms"]["pessimism"] == pytest.approx(cost, abs=1e-6)
        assert paid == pytest.approx(free + cost, abs=1e-5)
        assert paid == pytest.approx(sum(info["reward_terms"].values()))
    assert charged[-1][2]["trust"] < charged[0][2]["trust"] < 1


def test_episodes_end_when_the_forecast_is_no_longer_trusted(data: Path) -> None:
    *before, (_, truncated, info) = drive(make(data, least_trust=0.6), steps=12)
    assert truncated and info["end"] == "untrusted" and info["trust"] < 0.6
    assert before and all(not ended and seen["trust"] >= 0.6 for _, ended, seen in before)


@pytest.mark.parametrize(("world", "named"), [("learned", "geometric"), ("ii-world", "ii-world")])
def test_the_bundled_models_have_a_trust(world: str, named: str) -> None:
    env = gym.make("IIWorld-nuScenes-v0", world=world, pessimism=0.5, disable_env_checker=True)
    steps = drive(env, 3)
    assert all(0 < info["trust"] < 1 and info["reward_terms"]["pessimism"] < 0 for _, _, info in steps)
    assert all(info["world"] == named for _, _, info in steps)


def test_worlds_without_a_trust_say_so(data: Path) -> None:
    plain = gym.make("IIWorld-nuScenes-v0", data_root=str(data), world="small_worlds:Transport")
    assert all("trust" not in info for _, _, info in drive(plain))
    for option in ("pessimism", "least_trust"):
        with pytest.raises(OptionError, match="without forecast trust"):
            gym.make("IIWorld-nuScenes-v0", data_root=str(data), world="small_worlds:Transport", **{option: 0.5})


def test_bad_figures_are_refused() -> None:
    def sure(state: Any) -> torch.Tensor:
        return torch.ones(1)

    check_pessimism(0, 0, None)
    check_pessimism(3, 0.5, sure)
    for pessimism, least in ((-1, 0), (float("nan"), 0), (float("inf"), 0), ("1", 0), (True, 0), (0, 1.5), (0, -0.1)):
        with pytest.raises(OptionError, match="least_trust" if least else "pessimism"):
            check_pessimism(pessimism, least, sure)  # type: ignore[arg-type]
    assert trust_of(TransportWorld()) is None


def test_pessimism_leaves_other_terms_alone() -> None:
    class Seen:
        trust = torch.tensor([1.0, 0.25])

    terms = Pessimistic(reward=lambda outcome: {"a": torch.ones(2)}, pessimism=4.0)(Seen())  # type: ignore[arg-type]
    assert terms["a"].tolist() == [1, 1] and terms["pessimism"].tolist() == [0, -3]
    Seen.trust = None  # type: ignore[assignment]
    assert list(Pessimistic(reward=lambda outcome: {}, pessimism=4.0)(Seen())) == []  # type: ignore[arg-type]
