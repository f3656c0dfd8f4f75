"""How agents move together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from world_model.core.grid import CLASS_ID
from world_model.simulator import Simulator


def test_a_trailer_follows_its_truck_around_corners() -> None:
    simulator, towed = Simulator(), 0
    for number in range(40):
        state = simulator.reset(3, number, 2)
        trailers = np.flatnonzero(state.agents.tractor >= 0)
        towed += len(trailers)
        if not len(trailers):
            continue
        assert (state.agents.label[trailers] == CLASS_ID["trailer"]).all()
        a, b = trailers[0], state.agents.tractor[trailers[0]]
        # Bring the ego close, or parked there moves.
        x, y = state.motion.xy[b]
        state = replace(state, ego=replace(state.ego, x=float(x), y=float(y) + 30.0))
        begin = state.motion.xy[a].copy()
        for _ in range(20):
            state = simulator.step(state, (0.0, 0.0, 0.0))
            assert 5.0 < np.hypot(*(state.motion.xy[a] - state.motion.xy[b])) < 9.6
            assert state.motion.speed[a] == state.motion.speed[b]
        if np.hypot(*(state.motion.xy[a] - begin)) > 10.0:
            return
    pytest.fail(f"none of {towed} trailers drove ten metres")
