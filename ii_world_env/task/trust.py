"""Forecast trust in the environment: which figure belongs to a world, and what mistrust costs.

The figure itself is made in `world_model.trust`; docs/results/trust.md says what it means and
how well it ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ii_world_env.task.outcome import Outcome
from ii_world_env.task.rewards import RewardFunction, reward_needs_occupancy
from world_model.core.errors import OptionError
from world_model.trust import calibrated_trust
from world_model.worlds import World, WorldState

TrustFunction = Callable[[WorldState], Tensor]
"""State of a world -> (B,) trust in its forecast, in [0, 1]."""


def trust_of(world: World, checkpoint: str | Path | Sequence[str | Path] | None = None) -> TrustFunction | None:
    """The trust function of a world.

    Args:
        world: a world with a method ``trust(state) -> (B,)`` of its own, or a learned one whose checkpoint was
            calibrated with `python -m world_model.calibrate_trust`.
        checkpoint: what the learned world was built from.

    Returns:
        None where there is no such figure.

    Raises:
        CheckpointError: the calibration is damaged, or belongs to other weights.
    """
    own: TrustFunction | None = getattr(world, "trust", None)
    if callable(own):
        return own
    return calibrated_trust(world, checkpoint)


def check_pessimism(pessimism: float, least_trust: float, trust: TrustFunction | None) -> None:
    """Refuse a penalty or an end that could never come.

    Raises:
        OptionError: not a number in its range, or the world has no trust.
    """
    for name, value, high in (("pessimism", pessimism, float("inf")), ("least_trust", least_trust, 1.0)):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= value <= high or value == float("inf"):
            expected = "a number >= 0" if high > 1 else "a number in [0, 1]"
            raise OptionError(f"{name}={value!r}", expected, "0 turns it off")
        if value and trust is None:
            raise OptionError(
                f"{name}={value!r} in a world without forecast trust",
                "a calibrated learned world (trust_*.json in its checkpoint), or a world with a method trust(state)",
                "run `python -m world_model.calibrate_trust --checkpoint ...`, or leave it at 0",
            )


@dataclass(frozen=True, kw_only=True)
class Pessimistic:
    """A reward that charges for mistrust: another term, ``pessimism``, of -pessimism · (1 - trust) per step.

    After MOPO (Yu et al., NeurIPS 2020), which subtracts a multiple of the model's uncertainty from the reward.

    Args:
        reward: all other terms.
        pessimism: what a step without any trust costs.
    """

    reward: RewardFunction
    pessimism: float

    @property
    def needs_occupancy(self) -> bool:
        """Whether the other terms do."""
        return reward_needs_occupancy(self.reward)

    def __call__(self, outcome: Outcome) -> dict[str, Tensor]:
        terms = dict(self.reward(outcome))
        if outcome.trust is not None:
            terms["pessimism"] = -self.pessimism * (1 - outcome.trust)
        return terms
