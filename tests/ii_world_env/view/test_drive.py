"""A drive in several worlds, without a page: moments are kept, branches are free, every world tells the same drive."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ii_world_env.faces.config import EnvConfig
from ii_world_env.view.drives.drivers import HELD_S, YOU, Keys, key_action
from ii_world_env.view.drives.session import Begin, Session
from ii_world_env.view.geometry.overlays import cars_of, ego_car, quads
from world_model.core.errors import DataError, IIWorldError, OptionError
from world_model.core.grid import FREE

LOWEST = np.array((40.0, 40.0, 1.0))


def small(data: Path, **options: object) -> EnvConfig:
    return EnvConfig(**{"world": "small_worlds:Transport", "index": str(data), "split": "all", **options})


@pytest.fixture
def session(small_data: Path) -> Session:
    return Session(Begin(config=small(small_data)))


def test_a_step_is_a_step_of_the_engine(session: Session) -> None:
    engine, before = session.drive.lead.engine, session.drive.state
    action = key_action(engine, before, {"up", "left"})
    session.step_keys({"up", "left"})
    after, result = engine.step(before, action)
    assert torch.equal(session.drive.state.pose, after.pose)
    assert torch.equal(session.drive.state.labels, engine.occupancy(after))
    facts = session.facts()
    terms = [facts[name][1] for name in result.terms]
    assert facts["reward"][1] == pytest.approx(sum(terms), abs=1e-5) and facts["time_s"].tolist() == [0.0, 0.5]


def test_stepping_back_is_exact_and_a_new_action_branches(session: Session) -> None:
    start = session.drive.state
    session.step_keys({"up"})
    first = session.drive.state
    session.step_keys({"up"})
    assert session.back() and session.drive.state is first
    assert session.forth() and session.place == (2, 3)
    session.seek(1)
    session.step_keys({"left"})
    assert len(session.drive.branches) == 2 and session.place == (2, 3)
    assert not torch.equal(session.drive.state.pose, session.drive.panes[0].at(session.drive.moments[2]).state.pose)
    session.drive.go(2)
    assert [moment.number for moment in session.drive.line] == [0, 1, 2]
    session.seek(0)
    assert session.drive.state is start and not session.back()


def test_a_world_that_comes_later_tells_the_same_drive(small_data: Path, session: Session) -> None:
    for keys in ({"up"}, {"left"}, set()):
        session.step_keys(keys)
    session.show_beside(("small_worlds:Replay", "small_worlds:Transport"))
    lead, replayed, same = (pane.at(session.drive.now).state for pane in session.drive.panes)
    assert torch.equal(lead.pose, replayed.pose) and torch.equal(lead.labels, same.labels)
    begun = Session(Begin(config=small(small_data), beside=("small_worlds:Replay",)))
    for keys in ({"up"}, {"left"}, set()):
        begun.step_keys(keys)
    assert torch.equal(begun.drive.panes[1].at(begun.drive.now).state.labels, replayed.labels)
    assert [picture.title for picture in begun.pictures()] == ["small_worlds:Transport", "small_worlds:Replay"]


def test_futures_begin_now_and_differ(session: Session) -> None:
    session.step_keys({"up"})
    now = session.drive.now
    session.show_futures(True)
    assert len({tuple(pane.at(now).state.pose[0].tolist()) for pane in session.drive.panes}) == 1
    for _ in range(3):
        session.step_keys(set())
    keep, brake, left, right = (pane.at(session.drive.now).state for pane in session.drive.panes[1:])
    assert float(brake.speed_mps) < float(keep.speed_mps)
    assert float(left.pose[0, 2]) > float(keep.pose[0, 2]) > float(right.pose[0, 2])
    session.show_futures(False)
    assert len(session.drive.panes) == 1


@pytest.mark.parametrize("action", ["kinematic", "delta", "waypoints", "meta"])
def test_keys_drive_in_every_action_mode(small_data: Path, action: str) -> None:
    session = Session(Begin(config=small(small_data, action=action)))
    begin = float(session.drive.state.speed_mps)
    session.step_keys({"up"})
    faster = float(session.drive.state.speed_mps)
    session.back()
    session.step_keys({"down"})
    slower = float(session.drive.state.speed_mps)
    assert slower < begin < faster
    session.back()
    session.step_keys({"left"})
    left = float(session.drive.state.pose[0, 1])
    session.back()
    session.step_keys({"right"})
    assert float(session.drive.state.pose[0, 1]) < left


def test_held_keys_count_a_moment_longer_and_opposites_replace_each_other() -> None:
    keys = Keys()
    keys.press("up", 1.0)
    keys.press("left", 1.2)
    assert keys.down(1.3) == {"up", "left"} and keys.down(1.0 + HELD_S) == {"left"}
    keys.press("right", 1.4)
    assert keys.down(1.5) == {"up", "right"}
    keys.release()
    assert not keys.down(1.5)


def test_a_planner_drives_and_keys_win(session: Session) -> None:
    session.choose_driver("stand_still")
    for _ in range(4):
        session.step(now_s=0.0)
    assert float(session.drive.state.speed_mps) < 1.0
    session.keys.press("up", 10.0)
    session.step(now_s=10.1)
    assert float(session.drive.state.speed_mps) > 1.0
    with pytest.raises(OptionError, match="planner"):
        session.choose_driver("nobody")
    assert session.driver_name == "stand_still"
    session.choose_driver(YOU)


def test_what_cannot_begin_leaves_the_drive(session: Session) -> None:
    session.step_keys({"up"})
    drive = session.drive
    for begin in (
        replace(session.begun, scene="no such scene"),
        replace(session.begun, frame=9999),
        replace(session.begun, config=replace(session.begun.config, world="nothing")),
        replace(session.begun, beside=("simulated",)),
    ):
        with pytest.raises(IIWorldError):
            session.begin(begin)
    with pytest.raises((DataError, IIWorldError)):
        session.show_beside(("simulated",))
    assert session.drive is drive and len(drive.panes) == 1 and session.place == (1, 2)


def test_pictures_show_the_way_the_path_and_the_step(session: Session) -> None:
    session.step_keys({"up"})
    session.step_keys({"left"})
    picture = session.pictures()[0]
    assert picture.labels.dtype == np.uint8 and picture.labels.max() <= FREE
    assert len(picture.route) and len(picture.path) and picture.path[..., 0].mean() < 0, "the path lies behind"
    assert picture.motion.shape == (10, 3) and (np.diff(picture.motion[:, 0]) > 0).all()
    assert picture.cars == ()
    vertices, faces = quads(picture.path)
    assert len(vertices) == 4 * len(picture.path) and faces.max() == len(vertices) - 1
    centers, sizes, _ = ego_car()
    assert (centers[:, 0] + sizes[:, 0] / 2).max() == pytest.approx(3.39, abs=0.1)


def test_the_learned_and_the_simulated_world_know_the_others() -> None:
    for world in ("geometric", "simulated"):
        session = Session(Begin(config=EnvConfig(world=world), scene="scene-0132"))
        cars = cars_of(session.drive.lead.engine, session.drive.state)
        assert cars and any(car.text.endswith("km/h") for car in cars)
        labels = session.drive.state.labels[0].numpy()
        # Most boxes stand around occupied voxels.
        hits = 0
        for car in cars:
            low, high = car.lines.reshape(-1, 3).min(0), car.lines.reshape(-1, 3).max(0)
            first, last = (np.clip((p + LOWEST) / 0.4, 0, (199, 199, 15)).astype(int) for p in (low, high))
            block = labels[first[0] : last[0] + 1, first[1] : last[1] + 1, first[2] : last[2] + 1]
            hits += bool((block < 11).any())
        assert hits > len(cars) / 2
