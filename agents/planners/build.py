"""Planners by name: scripted, trained, searching, or a class of a user's own."""

from __future__ import annotations

from agents.planners.comfort import Comfortable
from agents.planners.names import COMFORT, SCRIPTED, scripted_planner
from agents.planners.planner import Planner
from agents.planners.search import METHODS, Search
from ii_world_env.engine import Engine
from world_model.core.errors import OptionError
from world_model.core.plugins import import_object

__all__ = ["SCRIPTED", "build_planner", "check_planner"]
EXPECTED = f"{', '.join((*SCRIPTED, *METHODS))}, ppo:PATH or package.module:Class, each with or without {COMFORT}"


def check_planner(name: str) -> None:
    """Refuse what cannot be the name of a planner; nothing is loaded.

    Raises:
        OptionError: lists the names.
    """
    bare = name.removesuffix(COMFORT)
    if bare not in (*SCRIPTED, *METHODS) and ":" not in bare:
        raise OptionError(f"planner {name!r}", EXPECTED, "name one of these")


def build_planner(name: str, engine: Engine) -> Planner:
    """Make a planner.

    Args:
        name: of a scripted planner; "cem" or "mppi" to search in the world; "ppo:PATH" for a policy that `python -m
            agents.train` saved; "package.module:Class" for a class that is called with the engine. With "+comfort"
            behind it, the comfort limiter follows.
        engine: that it drives in.

    Raises:
        OptionError: there is no such planner.
        CheckpointError: the policy is missing, damaged, or for other actions or observations.
    """
    check_planner(name)
    bare = name.removesuffix(COMFORT)
    if bare in SCRIPTED:
        return scripted_planner(name, engine)
    planner = _loaded(bare, engine)
    return planner if bare == name else Comfortable(engine, planner)


def _loaded(name: str, engine: Engine) -> Planner:
    if name in METHODS:
        return Search(engine, name)
    if name.startswith("ppo:"):
        from agents.planners.learned import PPOPlanner

        return PPOPlanner(engine, name.removeprefix("ppo:"))
    made = import_object("planner", name, EXPECTED)(engine)
    if not (callable(getattr(made, "reset", None)) and callable(getattr(made, "act", None))):
        raise OptionError(f"planner {name!r}", "a class with methods reset(state) and act(state)", "see Planner")
    if not hasattr(made, "name"):
        made.name = name.rpartition(":")[2]
    planner: Planner = made
    return planner
