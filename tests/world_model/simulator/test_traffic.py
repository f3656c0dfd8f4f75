"""What drivers see and how trailers follow, against slow twins that look at every pair."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from world_model.core.grid import CLASS_ID
from world_model.simulator import SimState, Simulator, SimulatorConfig
from world_model.simulator.town.network import CONNECTOR, CROSSING, LANE, Network
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
    active = traffic.gather(state.cast, state.movers, state.ego, np.uint64(1))
    return build_town(SEED, state.town_id).network, active, state


def slow_leader(rows: Drivers, ahead: tuple[np.ndarray, ...], people: np.ndarray, me: int) -> tuple[float, float]:
    """Point by point, disc by disc."""
    x, y, heading, _ = ahead
    m = rows.movers
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
    rows.movers.stuck_s[::3] = 9.0  # some have lost patience
    people = active.movers.xy[:w][network.paths.kind[active.movers.path[:w]] == CROSSING]
    ahead = perception.look_ahead(network, rows)
    gap, lead = perception.leaders(rows, ahead, people)
    slow = np.array([slow_leader(rows, ahead, people, k) for k in range(len(gap))])
    assert (gap == slow[:, 0]).all()
    assert np.allclose(lead, slow[:, 1], atol=1e-9)
    assert np.isfinite(gap).sum() > 2


def test_nobody_alone_has_a_leader(scene: tuple[Network, traffic.Active, SimState]) -> None:
    network, _, state = scene
    nobody = replace(state.cast, mobile=np.zeros_like(state.cast.mobile))
    rows = traffic.gather(nobody, state.movers, state.ego, np.uint64(1)).drivers
    gap, _ = perception.leaders(rows, perception.look_ahead(network, rows), np.zeros((0, 2)))
    assert len(gap) == 1 and np.isinf(gap).all()


def test_points_ahead_lie_on_the_path_and_its_followers(scene: tuple[Network, traffic.Active, SimState]) -> None:
    network, active, _ = scene
    rows, paths = active.drivers, network.paths
    x, y, _, _ = perception.look_ahead(network, rows)
    for me in range(len(rows.length)):
        for k in (0, 6, 13):
            s, path = rows.movers.s[me] + rows.front[me] + AHEAD_M[k], int(rows.movers.path[me])
            for follower in rows.movers.route[me]:
                if s > paths.length_m[path]:
                    s, path = s - paths.length_m[path], int(follower)
            u = min(max(s / paths.spacing_m[path], 0), paths.count[path] - 1.001)
            low, part = int(u) + paths.start[path], u - int(u)
            p = paths.points[low] * (1 - part) + paths.points[low + 1] * part
            away = math.hypot(x[me, k] - p[0], y[me, k] - p[1])
            assert abs(away - abs(rows.lateral[me])) < 1e-6


def test_stop_lines_hold_for_red_and_for_who_is_inside(scene: tuple[Network, traffic.Active, SimState]) -> None:
    network, active, _ = scene
    rows, paths, m = active.drivers, network.paths, active.drivers.movers
    for time_s in (0.0, 9.0, 17.0):
        line, is_red = perception.stop_lines(network, rows, time_s)
        for me in range(len(line)):
            into = int(m.route[me, 0])
            entering = paths.kind[m.path[me]] == LANE and paths.kind[into] == CONNECTOR
            assert is_red[me] == (entering and bool(perception.red(network, np.array([into]), time_s)[0]))
            left = paths.length_m[m.path[me]] - m.s[me] - rows.front[me]
            able = left > m.speed[me] ** 2 / (2 * perception.HARD_MPS2) - 0.5
            if not entering or left <= -1.5 or not able:
                assert line[me] == np.inf
            elif is_red[me]:
                assert line[me] == max(left - 0.3, 0.05)
            inside = any(paths.kind[p] == CONNECTOR and paths.conflict[into, p] for p in m.path)
            if entering and able and -1.5 < left < perception.NEAR_JUNCTION_M and inside and m.stuck_s[me] < 6:
                assert np.isfinite(line[me])


def test_a_trailer_follows_its_truck_around_corners() -> None:
    simulator, towed = Simulator(), 0
    for number in range(40):
        state = simulator.reset(SEED, number, 2)
        trailers = np.flatnonzero(state.cast.tractor >= 0)
        towed += len(trailers)
        if not len(trailers):
            continue
        assert (state.cast.label[trailers] == CLASS_ID["trailer"]).all()
        a, b = trailers[0], state.cast.tractor[trailers[0]]
        # Bring the ego close, or nobody there moves.
        x, y = state.movers.xy[b]
        state = replace(state, ego=replace(state.ego, x=float(x), y=float(y) + 30.0))
        begin = state.movers.xy[a].copy()
        for _ in range(20):
            state = simulator.step(state, (0.0, 0.0, 0.0))
            assert 5.0 < np.hypot(*(state.movers.xy[a] - state.movers.xy[b])) < 9.6
            assert state.movers.speed[a] == state.movers.speed[b]
        if np.hypot(*(state.movers.xy[a] - begin)) > 10.0:
            return
    pytest.fail(f"none of {towed} trailers drove ten metres")
