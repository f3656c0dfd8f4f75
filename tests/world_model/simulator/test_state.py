"""The state of a scene: independent copies, and names that older files know."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from world_model.simulator import SimState, Simulator


def test_files_name_the_agents_as_before() -> None:
    stored = {f.name: f.metadata.get("stored", f.name) for f in fields(SimState)}
    assert stored["agents"] == "cast" and stored["motion"] == "movers" and stored["memory"] == "memory"


def test_a_clone_shares_nothing_that_changes() -> None:
    state = Simulator().reset(3, 0)
    copy = state.clone()
    for name, values in vars(state.motion).items():
        assert not np.shares_memory(values, getattr(copy.motion, name))
    assert not np.shares_memory(state.memory.lowest_m, copy.memory.lowest_m)
    assert all(type(v) in (int, float, tuple) for v in vars(state.ego).values())
