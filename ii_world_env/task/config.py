"""How episodes run."""

from __future__ import annotations

from dataclasses import dataclass, field

from ii_world_env.ego.actions import ACTION_MODES
from ii_world_env.ego.footprint import FootprintConfig
from world_model.core.errors import ConfigError, OptionError


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How episodes run.

    Args:
        action: name of the action mode, see `ACTION_MODES`.
        horizon: steps of 0.5 s until an episode is truncated.
        footprint: what counts as a contact.
        goal_tolerance_m: the destination counts as reached from this far before it.
        goal_lateral_m: ... and not farther than this beside the route.
        shortest_goal_m: a log that drives less has no destination: the task is to stay safe until the horizon.
        finite_horizon: the horizon terminates an episode: the task is what can be done until then, and no value lies
            beyond it. Else it truncates, and learners estimate the value beyond it.
        least_trust: forecasts below this trust end the episode as "untrusted"; only with a trust function.
    """

    action: str = "kinematic"
    horizon: int = 16
    footprint: FootprintConfig = field(default_factory=FootprintConfig)
    goal_tolerance_m: float = 1.0
    goal_lateral_m: float = 4.0
    shortest_goal_m: float = 5.0
    finite_horizon: bool = False
    least_trust: float = 0.0

    def __post_init__(self) -> None:
        if self.action not in ACTION_MODES:
            raise OptionError(f"action={self.action!r}", f"one of {tuple(ACTION_MODES)}", "choose one of them")
        if isinstance(self.horizon, bool) or not isinstance(self.horizon, int) or self.horizon < 1:
            raise ConfigError(
                f"horizon={self.horizon!r}", "a whole number of steps >= 1", "give for example horizon=16"
            )
        if not isinstance(self.finite_horizon, bool):
            raise ConfigError(f"finite_horizon={self.finite_horizon!r}", "True or False", "leave it out")
