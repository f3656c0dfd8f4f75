"""Recorded traffic yields to an ego that leaves its log, along its recorded ways; else it is the log to the bit."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from tests.formats.scenarionet import PLACE, STEP_S, nuscenes_like, track, write_scenario
from world_model.data.scenarios.scenario import Scenario
from world_model.data.scenarios.scenarionet import read_scenario
from world_model.simulator.state import Agents, Ego, Motion
from world_model.simulator.town.scenario_town import origin_of
from world_model.simulator.traffic.replay import ego_at, motion_at
from world_model.simulator.traffic.yielding import motion_after

BEHIND, CROSSES, ONCOMING, CONE = range(4)


def scene(tmp_path_factory_dir: object) -> Scenario:
    source = nuscenes_like(frames=101)
    x = 6.0 * STEP_S * np.arange(101)
    car = ((4.5, 1.9, 1.7), "VEHICLE", "vehicle.car")
    source["tracks"] = {
        "ego": source["tracks"]["ego"], "behind": track(x - 14, -1.75, *car),
        "walker": track(0 * x + 9, 0, (0.7, 0.7, 1.8), "PEDESTRIAN", "human.pedestrian.adult", yaw=np.pi / 2),
        "oncoming": track(90 - x, 1.75, *car, yaw=np.pi), "cone": source["tracks"]["d"],
    }  # fmt: skip
    source["tracks"]["walker"]["state"]["position"][:, 1] = PLACE[1] - 12 + 1.2 * STEP_S * np.arange(101)
    return read_scenario(write_scenario(tmp_path_factory_dir, source))[0]  # type: ignore[arg-type]


def drive(log: Scenario, ego: Ego, steps: int, deviates: bool) -> list[Motion]:
    """The agents around an ego that stands where it is."""
    count = len(log.label)
    agents = Agents(
        label=log.label, size_m=log.size_m, desired_mps=np.zeros(count), lateral_m=np.zeros(count),
        mobile=np.ones(count, bool), key=np.zeros(count, np.uint64), tractor=np.full(count, -1),
    )  # fmt: skip
    places = partial(motion_at, log)
    motions = [places(np.zeros(count))]
    for k in range(steps):
        motions.append(motion_after(places, agents, motions[-1], 0.5 * k, ego, deviates, 0.5))
    return motions


def test_yielding(tmp_path) -> None:  # type: ignore[no-untyped-def]
    log = scene(tmp_path)
    places = partial(motion_at, log)
    ego = ego_at(log, 0)
    logged = drive(log, ego, 18, deviates=False)
    for k, motion in enumerate(logged):
        true = places(np.full(len(log.label), 0.5 * k))
        for name, value in vars(true).items():
            np.testing.assert_array_equal(getattr(motion, name), value)

    yielding = drive(log, replace(ego, speed=0.0), 18, deviates=True)
    x = np.array([m.xy[BEHIND, 0] for m in yielding])
    # The follower stops behind the ego's bumper (0.75 m behind the axle, half a car of its own), and never backs up.
    assert (np.diff(x) >= 0).all() and yielding[-1].speed[BEHIND] < 0.2
    assert 0.5 < (ego.x - 0.75) - (x[-1] + 2.25) < 4
    brakes = np.diff([m.speed[BEHIND] for m in yielding]) / 0.5
    assert brakes.min() > -6.1
    for row in (ONCOMING, CONE, CROSSES):  # whoever is not in the way is where the log has it
        np.testing.assert_allclose(yielding[-1].xy[row], logged[-1].xy[row], atol=1e-9)
    assert np.abs(yielding[-1].xy[BEHIND, 1] - (-1.75 + PLACE[1] - origin_of(log)[1])) < 1e-6, "on its recorded way"

    gone = replace(ego, y=ego.y + 40.0)
    away = drive(log, gone, 18, deviates=True)
    np.testing.assert_allclose(away[-1].xy, logged[-1].xy, atol=1e-9)


def test_the_crossing_walker_waits(tmp_path) -> None:  # type: ignore[no-untyped-def]
    log = scene(tmp_path)
    ego = replace(ego_at(log, 0), x=float(9 + PLACE[0] - origin_of(log)[0] - 1.3), speed=0.0)
    waiting = drive(log, ego, 18, deviates=True)
    y = np.array([m.xy[CROSSES, 1] for m in waiting])
    edge = ego.y - 1.85 / 2
    assert y[-1] < edge and waiting[-1].speed[CROSSES] < 0.2


def test_agents_go_on_when_the_way_is_free_again(tmp_path) -> None:  # type: ignore[no-untyped-def]
    log = scene(tmp_path)
    ego, places = ego_at(log, 0), partial(motion_at, log)
    stopped = drive(log, replace(ego, speed=0.0), 12, deviates=True)
    count = len(log.label)
    agents = Agents(
        label=log.label, size_m=log.size_m, desired_mps=np.zeros(count), lateral_m=np.zeros(count),
        mobile=np.ones(count, bool), key=np.zeros(count, np.uint64), tractor=np.full(count, -1),
    )  # fmt: skip
    motion, speeds = stopped[-1], []
    for k in range(12, 20):
        motion = motion_after(places, agents, motion, 0.5 * k, replace(ego, y=ego.y + 40), True, 0.5)
        speeds.append(motion.speed[BEHIND])
    assert speeds[0] < 2.5 and speeds[-1] > 4.0 and (np.diff(speeds) > -1e-9).all()
    assert motion.s[BEHIND] < 10.0 - 3.0, "lost time is not made up"
