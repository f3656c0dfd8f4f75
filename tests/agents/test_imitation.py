"""Behaviour cloning and DAgger, very short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.evaluate import Evaluate, evaluate
from agents.imitation import Imitate, imitate
from world_model.core.errors import OptionError

SIZE: dict[str, Any] = {"steps": 64, "num_envs": 4, "horizon": 6, "split": "all", "device": "cpu"}


@pytest.mark.parametrize(
    ("action", "observation", "prior"),
    [("kinematic", "traffic", None), ("waypoints", "state", "idm"), ("meta", "bev", None)],
)
def test_a_policy_learns_from_a_teacher_and_is_judged(
    small_data: Path, tmp_path: Path, action: str, observation: str, prior: str | None
) -> None:
    shared: dict[str, Any] = {"world": "small_worlds:Transport", "index": small_data, "action": action}
    out = tmp_path / "run"
    options = Imitate(
        teacher="idm+comfort", observation=observation, prior=prior, rounds=2, epochs=10, out=out, held_out_every=2,
        held_out=1, held_out_split="all", **SIZE, **shared,
    )  # fmt: skip
    imitate(options)
    curve = np.genfromtxt(out / "curve.csv", delimiter=",", names=True)
    assert list(curve["samples"]) == [64, 128] and np.isfinite(curve["loss"]).all()
    looks = np.genfromtxt(out / "held_out.csv", delimiter=",", names=True)
    assert float(looks["round"]) == 1 and 0 <= float(looks["pdms"]) <= 1
    drive = Evaluate(
        planners=(f"ppo:{out / 'policy.safetensors'}",), split="all", per_scene=1, horizon=4, out=tmp_path / "e",
        device="cpu", **shared,
    )  # fmt: skip
    (episodes,) = evaluate(drive).values()
    assert all(episode.steps >= 1 for episode in episodes)
    with pytest.raises(OptionError, match="exists"):
        imitate(options)
