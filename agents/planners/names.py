"""Scripted planners by name, alone or behind the comfort limiter."""

from __future__ import annotations

from collections.abc import Callable

from agents.planners.comfort import Comfortable
from agents.planners.idm import IDM
from agents.planners.planner import Planner
from agents.planners.scripted import ConstantVelocity, LogReplay, StandStill
from ii_world_env.engine import Engine
from world_model.core.errors import OptionError

SCRIPTED: dict[str, Callable[[Engine], Planner]] = {c.name: c for c in (StandStill, ConstantVelocity, LogReplay, IDM)}
COMFORT = "+comfort"
"""Ending of a planner's name that puts the comfort limiter behind it."""


def scripted_planner(name: str, engine: Engine) -> Planner:
    """A planner that needs no learning, such as "idm" or "idm+comfort".

    Raises:
        OptionError: there is no such planner.
    """
    bare = name.removesuffix(COMFORT)
    if bare not in SCRIPTED:
        raise OptionError(
            f"planner {name!r}", f"{', '.join(SCRIPTED)}, each with or without {COMFORT}", "name one of these"
        )
    planner = SCRIPTED[bare](engine)
    return planner if bare == name else Comfortable(engine, planner)
