"""What drivers perceive, against slow twins that compare every pair."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from world_model.simulator import SimState, Simulator, SimulatorConfig
from world_model.simulator.town.network import Network
from world_model.simulator.town.paths import CONNECTOR, CROSSING, LANE
from world_model.simulator.town.town import build_town
from world_model.simulator.traffic import perception, traffic
from world_model.simulator.traffic.perception import AHEAD_M, PERSON_M, SIDE_M, Drivers

SEED = 3


@pytest.fixture(scope="module", params=[0, 1, 2])
def scene(request: pytest.FixtureRequest) -> tuple[Network, traffic.Active, SimState]:
    simulator = Simulator(SimulatorConfig(traffic=4.0, people=2.0))
    state = simulator.reset(SEED, request.param)
    for _ in range(4):
        state = simulator.step(state)
    active = traffic.gather(state.agents, state.motion, state.ego, np.uint64(1))
    return build_town(SEED, state.town_id).network, active, state


def slow_leader(rows: Drivers, ahead: tuple[np.ndarray, ...], people: np.ndarray, me: int) -> tuple[float, float]:
    """Point by point, disc by disc."""
    x, y, heading, _ = ahead
    m = rows.motion
    for k, gap in enumerate(AHEAD_M):
        hits = []
        for other in range(len(rows.length)):
            aligned = math.cos(m.yaw[other] - m.yaw[me]) > 0.7
            if other == me or not (m.stuck_s[me] < perception.PATIENCE_S or aligned):
                continue
            for arm in (-1, 0, 1):
                along = rows.front[other] - rows.length[other] / 2 + arm * (rows.length[other] - rows.width[other]) / 2
                ox, oy = m.xy[other] + along * np.array([math.cos(m.yaw[other]), math.sin(m.yaw[other])])
                d = math.hypot(x[me, k] - ox, y[me, k] - oy)
                if d < rows.width[me] / 2 + SIDE_M + rows.width[other] / 2:
                    lead = m.speed[other] * math.cos(m.yaw[other] - heading[me, k])
                    hits.append((d, max(lead, 0.0)))
        for ox, oy in people:
            d = math.hypot(x[me, k] - ox, y[me, k] - oy)
            if d < rows.width[me] / 2 + SIDE_M + PERSON_M:
                hits.append((d, 0.0))
        if hits:
            return float(gap), min(hits)[1]
    return math.inf, 0.0


def test_leaders_are_the_first_on_the_path(scene: tuple[Network, traffic.Active, SimState]) -> None:
    network, active, _ = scene
    rows, w = active.drivers, active.walkers
    rows.motion.stuck_s[::3] = 9.0  # some have lost patience
    people = active.motion.xy[:w][network.paths.kind[active.motion.path[:w]] == CROSSING]
    ahead = perception.points_ahead(network.paths, rows)
    gap, lead = perception.leaders(rows, ahead, people)
    slow = np.array([slow_leader(rows, ahead, people, k) for k in range(len(gap))])
    assert (gap == slow[:, 0]).all()
    assert np.allclose(lead, slow[:, 1], atol=1e-9)
    assert np.isfinite(gap).sum() > 2


def test_an_ego_alone_has_no_leader(scene: tuple[Network, traffic.Active, SimState]) -> None:
    network, _, state = scene
    parked = replace(state.agents, mobile=np.zeros_like(state.agents.mobile))
    rows = traffic.gather(parked, state.motion, state.ego, np.uint64(1)).drivers
    gap, _ = perception.leaders(rows, perception.points_ahead(network.paths, rows), np.zeros((0, 2)))
    assert len(gap) == 1 and np.isinf(gap).all()


def test_points_ahead_lie_on_the_path_and_its_followers(scene: tuple[Network, traffic.Active, SimState]) -> None:
    network, active, _ = scene
    rows, paths = active.drivers, network.paths
    x, y, _, _ = perception.points_ahead(network.paths, rows)
    for me in range(len(rows.length)):
        for k in (0, 6, 13):
            s, path = rows.motion.s[me] + rows.front[me] + AHEAD_M[k], int(rows.motion.path[me])
            for follower in rows.motion.route[me]:
                if s > paths.length_m[path]:
                    s, path = s - paths.length_m[path], int(follower)
            u = min(max(s / paths.spacing_m[path], 0), paths.count[path] - 1.001)
            low, part = int(u) + paths.start[path], u - int(u)
            p = paths.points[low] * (1 - part) + paths.points[low + 1] * part
            away = math.hypot(x[me, k] - p[0], y[me, k] - p[1])
            assert abs(away - abs(rows.lateral[me])) < 1e-6


def test_stop_lines_hold_for_red_and_for_who_is_inside(scene: tuple[Network, traffic.Active, SimState]) -> None:
    network, active, _ = scene
    rows, paths, m = active.drivers, network.paths, active.drivers.motion
    for time_s in (0.0, 9.0, 17.0):
        line, is_red = perception.stop_lines(network, rows, time_s)
        for me in range(len(line)):
            into = int(m.route[me, 0])
            entering = paths.kind[m.path[me]] == LANE and paths.kind[into] == CONNECTOR
            assert is_red[me] == (entering and bool(network.red(np.array([into]), time_s)[0]))
            left = paths.length_m[m.path[me]] - m.s[me] - rows.front[me]
            able = left > m.speed[me] ** 2 / (2 * perception.HARD_MPS2) - 0.5
            if not entering or left <= -1.5 or not able:
                assert line[me] == np.inf
            elif is_red[me]:
                assert line[me] == max(left - 0.3, 0.05)
            inside = any(paths.kind[p] == CONNECTOR and paths.conflict[into, p] for p in m.path)
            if entering and able and -1.5 < left < perception.NEAR_JUNCTION_M and inside and m.stuck_s[me] < 6:
                assert np.isfinite(line[me])
