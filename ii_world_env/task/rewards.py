"""Rewards: named terms that sum to the reward, made of the facts of a step (`Outcome`) and nothing else.

A user's own reward is any callable from an `Outcome` to a dict of (B,) float tensors. One that reads nothing of
`Contact` may have an attribute ``needs_occupancy = False`` (earlier name: ``needs_labels``): then no occupancy is
decoded for it, and no episode ends by a collision or off the road.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ii_world_env.task.outcome import Outcome
from world_model.core.errors import OptionError
from world_model.core.plugins import import_object

RewardFunction = Callable[[Outcome], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class WeightedReward:
    """A weighted sum; the weights carry the signs.

    Args:
        progress: for driving the whole route to the destination, paid in parts as the ego gets on.
        destination: once, at the destination.
        collision: once, for an at-fault collision.
        off_road: once, for leaving the drivable ground.
        ttc: per step with a collision ahead: full at 0.3 s, two thirds at 0.6 s, a third at 0.9 s.
        comfort: per step and exceeded limit of comfort.
        route: per step and metre beside the route, up to 4 m.
        plan: per step with a plan that hits something or leaves the road, times the share of the plan behind that
            place; only where actions are plans.
    """

    progress: float = 10.0
    destination: float = 2.0
    collision: float = -10.0
    off_road: float = -5.0
    ttc: float = -0.3
    comfort: float = -0.1
    route: float = -0.02
    plan: float = -0.5

    def __call__(self, outcome: Outcome) -> dict[str, Tensor]:
        near = ((1.2 - outcome.time_to_collision_s) / 0.9).clamp(min=0.0)
        terms = {
            "progress": self.progress * outcome.progress_m / outcome.goal_m.clamp(min=10.0),
            "destination": self.destination * outcome.destination.float(),
            "collision": self.collision * outcome.collision.float(),
            "off_road": self.off_road * outcome.off_road.float(),
            "ttc": self.ttc * near,
            "comfort": self.comfort * outcome.discomfort.float().sum(-1),
            "route": self.route * outcome.lateral_m.abs().clamp(max=4.0),
        }
        if outcome.plan_risk is not None:
            terms["plan"] = self.plan * outcome.plan_risk
        return terms


def default() -> WeightedReward:
    """Dense: progress, with penalties for everything a driver should not do."""
    return WeightedReward()


def sparse() -> WeightedReward:
    """+1 at the destination, -1 for a collision or for leaving the road, else 0."""
    return WeightedReward(
        progress=0.0, destination=1.0, collision=-1.0, off_road=-1.0, ttc=0.0, comfort=0.0, route=0.0, plan=0.0
    )


@dataclass(frozen=True, kw_only=True)
class PDMScore:
    """The gated score of NAVSIM (Dauner et al., 2024) per step: NC · DAC · (5 TTC + 5 EP + 2 C) / 12, in [0, 1].

    Arriving early pays the remaining steps in full, otherwise slow drivers would collect more. Where actions are plans,
    a plan that hits something or leaves the road counts as a collision ahead.
    """

    def __call__(self, outcome: Outcome) -> dict[str, Tensor]:
        gate = (~outcome.collision & ~outcome.off_road).float()
        clear = torch.isinf(outcome.time_to_collision_s)
        if outcome.plan_risk is not None:
            clear = clear & (outcome.plan_risk == 0)
        comfortable = (~outcome.discomfort.any(-1)).float()
        return {
            "ttc": gate * clear.float() * 5 / 12,
            "progress": gate * outcome.progress_ratio * 5 / 12,
            "comfort": gate * comfortable * 2 / 12,
            "destination": gate * outcome.destination.float() * outcome.steps_left,
        }


class PDMLoss:
    """What each step lacks of a full `PDMScore`, as a penalty: the same preferences, but for discounting.

    A good driver's return is near 0 whatever time is left, so that a value function has little to learn. A failure
    costs the steps that are left, too; arriving costs nothing more.
    """

    def __call__(self, outcome: Outcome) -> dict[str, Tensor]:
        gained = PDMScore()(outcome)
        failed = (outcome.collision | outcome.off_road).float()
        return {
            "ttc": gained["ttc"] - 5 / 12,
            "progress": gained["progress"] - 5 / 12,
            "comfort": gained["comfort"] - 2 / 12,
            "failure": -failed * outcome.steps_left,
        }


PRESETS: dict[str, Callable[[], RewardFunction]] = {
    "default": default,
    "pdms": PDMScore,
    "pdms_loss": PDMLoss,
    "sparse": sparse,
}


def reward_needs_occupancy(reward: RewardFunction) -> bool:
    """Whether the occupancy has to be decoded at every step for a reward; True unless it says otherwise.

    Raises:
        OptionError: its ``needs_occupancy`` (earlier: ``needs_labels``) is neither True nor False.
    """
    name = "needs_occupancy" if hasattr(reward, "needs_occupancy") else "needs_labels"
    value = getattr(reward, name, True)
    if not isinstance(value, bool):
        raise OptionError(f"a reward with {name}={value!r}", "True or False", "set the attribute, or leave it out")
    return value


def check_terms(terms: dict[str, Tensor], batch: int) -> None:
    """Refuse what is no reward.

    Raises:
        OptionError: anything but named (B,) tensors.
    """
    expected = f"a dict of names to tensors of shape ({batch},), one entry for each environment"
    if not isinstance(terms, dict) or not terms:
        raise OptionError(f"a reward that returned {terms!r}", expected, "see `ii_world_env.task.rewards`")
    for name, term in terms.items():
        if not isinstance(term, Tensor) or term.shape != (batch,):
            found = f"shape {tuple(term.shape)}" if isinstance(term, Tensor) else f"type {type(term).__name__}"
            raise OptionError(f"the reward term {name!r} of {found}", expected, "compute it from the outcome's tensors")


def check_finite(name: str, term: NDArray[Any]) -> None:
    """Refuse a term (N,) of the reward that is no number.

    Raises:
        OptionError: NaN or infinite; names the environments.
    """
    bad = np.flatnonzero(~np.isfinite(term))
    if len(bad):
        where = "" if len(term) == 1 else f" in environment {', '.join(map(str, bad))}"
        raise OptionError(
            f"the reward term {name!r} is {term[bad].tolist()}{where}",
            "finite numbers",
            "look for a division by zero, or a time or distance that is infinite, in the reward",
        )


def reward_function(reward: str | RewardFunction) -> RewardFunction:
    """A reward by preset name, by import path "package.module:function", or as a callable itself.

    Raises:
        OptionError: there is no such reward.
    """
    if callable(reward):
        return reward
    if isinstance(reward, str) and reward in PRESETS:
        return PRESETS[reward]()
    expected = f"one of {tuple(PRESETS)}, a callable, or 'package.module:function'"
    found: RewardFunction = import_object("reward", reward, expected)
    return found
