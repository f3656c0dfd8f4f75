"""Rewards are made of facts, and of nothing else."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ii_world_env.env import IIWorldEnv
from ii_world_env.task.outcome import COMFORT_LIMITS, Contact, Outcome, discomfort
from ii_world_env.task.rewards import PRESETS, PDMScore, reward_function, sparse
from world_model.core.errors import OptionError


def calm(**changes: torch.Tensor) -> Outcome:
    """A perfect step, but for some facts of `Outcome` or `Contact`."""
    no = torch.tensor([False])
    seen = {f.name: changes.pop(f.name) for f in fields(Contact) if f.name in changes}
    contact = Contact(collision=no, off_road=no, time_to_collision_s=torch.tensor([math.inf]))
    outcome = Outcome(
        contact=replace(contact, **seen),
        destination=no,
        progress_m=torch.tensor([3.0]),
        progress_ratio=torch.ones(1),
        goal_m=torch.tensor([30.0]),
        lateral_m=torch.zeros(1),
        discomfort=torch.zeros(1, len(COMFORT_LIMITS), dtype=torch.bool),
        steps_left=torch.tensor([5.0]),
    )
    return replace(outcome, **changes)


YES = torch.tensor([True])
FAULTS = {
    "collision": YES,
    "off_road": YES,
    "time_to_collision_s": torch.tensor([0.3]),
    "discomfort": torch.ones(1, len(COMFORT_LIMITS), dtype=torch.bool),
}


def total(preset: str, outcome: Outcome) -> float:
    return float(torch.stack(list(PRESETS[preset]()(outcome).values())).sum())


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_terms_are_finite_and_every_fault_costs(preset: str) -> None:
    assert all(torch.isfinite(v).all() and v.shape == (1,) for v in PRESETS[preset]()(calm()).values())
    ignored = {"time_to_collision_s", "discomfort"} if preset == "sparse" else set()
    for name, value in FAULTS.items():
        lost = total(preset, calm()) - total(preset, calm(**{name: value}))
        assert lost == 0 if name in ignored else lost > 0.05, name


def test_a_bad_plan_costs_where_actions_are_plans() -> None:
    good, bad = (calm(plan_risk=torch.tensor([risk])) for risk in (0.0, 0.4))
    assert "plan" not in PRESETS["default"]()(calm())
    assert total("default", good) - total("default", bad) == pytest.approx(0.5 * 0.4)
    assert total("pdms", good) == pytest.approx(1.0) and total("pdms", bad) == pytest.approx(7 / 12)
    assert total("sparse", good) == total("sparse", bad) == 0


def test_pdm_score_is_gated_and_weighted() -> None:
    assert total("pdms", calm()) == pytest.approx(1.0)
    assert total("pdms", calm(collision=YES)) == 0 and total("pdms", calm(off_road=YES)) == 0
    assert total("pdms", calm(time_to_collision_s=torch.tensor([0.9]))) == pytest.approx(7 / 12)
    assert total("pdms", calm(progress_ratio=torch.tensor([0.5]))) == pytest.approx(9.5 / 12)
    assert total("pdms", calm(discomfort=FAULTS["discomfort"])) == pytest.approx(10 / 12)


def test_arriving_early_pays_what_a_slow_driver_would_still_collect() -> None:
    assert total("pdms", calm(destination=YES)) == pytest.approx(1.0 + 5.0)
    assert PDMScore()(calm())["destination"].item() == 0


def test_sparse_speaks_only_at_the_end() -> None:
    assert total("sparse", calm()) == 0
    assert total("sparse", calm(destination=YES)) == 1
    assert total("sparse", calm(collision=YES)) == -1
    assert set(sparse()(calm())) == set(PRESETS["default"]()(calm()))


def test_each_limit_of_comfort_is_felt() -> None:
    zero = torch.zeros(1)

    def limits(
        accel: float = 0, lateral: float = 0, yaw_rate: float = 0, before: tuple[float, float, float] = (0, 0, 0)
    ) -> set[str]:
        now = (torch.tensor([v]) for v in (accel, lateral, yaw_rate))
        then = (zero + before[0], zero + before[1], zero + before[2])
        return {name for name, over in zip(COMFORT_LIMITS, discomfort(*now, then, 0.5)[0], strict=True) if over}

    assert limits() == set()
    assert limits(accel=2.5, before=(2.5, 0, 0)) == {"forward_accel"}
    assert limits(accel=-4.2, before=(-4.2, 0, 0)) == {"braking"}
    assert limits(lateral=5.0, before=(0, 5, 0)) == {"lateral_accel"}
    assert limits(accel=2.2) == {"forward_jerk"}
    assert limits(lateral=4.5) == {"jerk"}
    assert limits(yaw_rate=1.0, before=(0, 0, 1)) == {"yaw_rate"}
    assert limits(yaw_rate=0.9, before=(0, 0, -0.1)) == {"yaw_accel"}


def own_reward(outcome: Outcome) -> dict[str, torch.Tensor]:
    return {"metres": outcome.progress_m}


def test_own_rewards_plug_in() -> None:
    assert reward_function(own_reward) is own_reward
    assert reward_function(f"{__name__}:own_reward")(calm())["metres"].item() == 3.0


@pytest.mark.parametrize("name", ["greedy", f"{__name__}:missing", "no_such_module:f", f"{__name__}:FAULTS"])
def test_unknown_rewards_are_named(name: str) -> None:
    with pytest.raises(OptionError, match="reward="):
        reward_function(name)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (lambda outcome: 3, "returned 3"),
        (lambda outcome: {}, "returned {}"),
        (lambda outcome: {"metres": 1.0}, "'metres' of type float"),
        (lambda outcome: {"metres": outcome.progress_m.sum()}, r"'metres' of shape \(\)"),
        (lambda outcome: {"metres": outcome.progress_m / 0 - outcome.progress_m / 0}, "'metres' is .*nan"),
        (lambda outcome: {"metres": outcome.progress_m.abs() + float("inf")}, "'metres' is .*inf"),
    ],
)
def test_rewards_that_are_none_are_named_and_the_step_is_not_taken(tiny_data: Path, wrong: Any, found: str) -> None:
    env = IIWorldEnv(data_root=str(tiny_data), world="small_worlds:Learned", horizon=6, device="cpu", reward=wrong)
    env.reset(seed=0)
    before = env.state
    with pytest.raises(OptionError, match=found):
        env.step(np.zeros(2, np.float32))
    assert env.state is before


@pytest.mark.parametrize("change", [{}, {"destination": YES}, *({name: value} for name, value in FAULTS.items())])
def test_pdm_loss_is_what_the_score_lacks(change: dict[str, torch.Tensor]) -> None:
    step = calm(**change)
    ended = float(step.destination | step.collision | step.off_road)
    assert total("pdms_loss", step) == pytest.approx(total("pdms", step) - 1 - ended * float(step.steps_left))
