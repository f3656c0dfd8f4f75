"""Planners by name: scripted, trained, searching, or a class of a user's own."""

from __future__ import annotations

from agents.planners.comfort import Comfortable
from agents.planners.elsewhere import Elsewhere
from agents.planners.names import COMFORT, SCRIPTED, scripted_planner
from agents.planners.planner import Planner
from agents.planners.search import METHODS, Search
from ii_world_env.engine import Engine
from ii_world_env.scenes import Scenes
from world_model.core.errors import OptionError
from world_model.core.plugins import import_object
from world_model.worlds import build_world

__all__ = ["SCRIPTED", "build_planner", "check_planner"]
POLICY = "ppo"
"""The bundled policy."""
GUIDED = "@"
"""Between a search and the planner whose plan it corrects."""
EXPECTED = (
    f"{', '.join((*SCRIPTED, *METHODS, POLICY))}, cem:WORLD, mppi:WORLD, cem@PRIOR, policy:PATH or "
    f"package.module:Class, "
    f"each with or without {COMFORT}"
)
POLICIES = ("policy", "ppo", "recurrent_ppo", "sac", "tqc")
"""Before the path of a saved policy, which says itself what trained it: all mean the same."""


def check_planner(name: str) -> None:
    """Refuse what cannot be the name of a planner; nothing is loaded.

    Raises:
        OptionError: lists the names.
    """
    bare = name.removesuffix(COMFORT)
    if ":" not in bare and bare.partition(GUIDED)[0] not in (*SCRIPTED, *METHODS, POLICY):
        raise OptionError(f"planner {name!r}", EXPECTED, "name one of these")


def build_planner(name: str, engine: Engine, scenes: Scenes | None = None) -> Planner:
    """Make a planner.

    Args:
        name: of a scripted planner; "cem" or "mppi" to search in the world that is driven in, "cem:WORLD" in
            another one, which begins anew at every step from what was observed, "cem@PRIOR" around the plan of another
            planner than IDM; "ppo" for the bundled policy, "policy:PATH" or "ppo:PATH" for one that `python -m
            agents.train` saved; "package.module:Class" for a class that is called with the engine. With "+comfort"
            behind it, the comfort limiter follows.
        engine: that it drives in.
        scenes: the recordings that it drives in, so that another world knows the observed frames before a start.

    Raises:
        OptionError: there is no such planner.
        CheckpointError: the policy is missing, damaged, or for other actions or observations.
    """
    check_planner(name)
    bare = name.removesuffix(COMFORT)
    if bare in SCRIPTED:
        return scripted_planner(name, engine)
    planner = _loaded(bare, engine, scenes)
    return planner if bare == name else Comfortable(engine, planner)


def _search(engine: Engine, method: str, prior: str) -> Search:
    """A search among corrections of a planner's plan; "" is IDM."""
    found = Search(engine, method, prior=build_planner(prior, engine) if prior else None)
    found.name = f"{method}{GUIDED}{prior}" if prior else method
    return found


def _loaded(name: str, engine: Engine, scenes: Scenes | None) -> Planner:
    search, _, prior = name.partition(GUIDED)
    method, _, world = search.partition(":")
    if method in METHODS:
        if not world:
            return _search(engine, method, prior)
        plan_in = Engine(
            build_world(world, device=str(getattr(engine.world, "device", "auto")), grid=engine.world.grid),
            engine.config,
            needs_occupancy=True,
        )
        found = _search(plan_in, method, prior)
        engine.remembers |= plan_in.remembers  # a policy may ask for it
        return Elsewhere(engine, plan_in, found, name, scenes)
    if method in POLICIES:
        from agents.planners.learned import PolicyPlanner, bundled_policy

        return PolicyPlanner(engine, name.partition(":")[2]) if ":" in name else bundled_policy(engine)
    made = import_object("planner", name, EXPECTED)(engine)
    if not (callable(getattr(made, "reset", None)) and callable(getattr(made, "act", None))):
        raise OptionError(f"planner {name!r}", "a class with methods reset(state) and act(state)", "see Planner")
    if not hasattr(made, "name"):
        made.name = name.rpartition(":")[2]
    planner: Planner = made
    return planner
