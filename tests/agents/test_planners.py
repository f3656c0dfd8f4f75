"""Scripted planners do what their names say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from street import SMALL, street_clips

from agents.benchmark import Episode, fixed_starts, markdown, summary
from agents.evaluate import SCRIPTED, Evaluate, evaluate
from agents.planners.build import build_planner
from agents.planners.idm import IDM
from agents.planners.learned import BUNDLED
from agents.planners.planner import Planner
from agents.planners.scripted import ConstantVelocity, LogReplay, StandStill
from agents.policies import read_facts
from ii_world_env.engine import CAUSES, Engine, EngineConfig, State
from ii_world_env.scenes import open_scenes
from world_model.core.errors import CheckpointError, OptionError, OutputError
from world_model.core.geometry import se2_matrix
from world_model.data.clips import Clips
from world_model.worlds import TransportWorld

ACTIONS = ("kinematic", "delta")


def run(engine: Engine, planner: Planner, clips: Clips) -> tuple[list[State], str]:
    state = engine.reset(clips)
    planner.reset(state)
    states, cause = [state], 0
    while not cause:
        state, out = engine.step(state, planner.act(state))
        states.append(state)
        cause = int(out.cause[0])
    return states, CAUSES[cause]


def engine(action: str, horizon: int = 10) -> Engine:
    return Engine(TransportWorld(SMALL), EngineConfig(action=action, horizon=horizon))


@pytest.mark.parametrize("action", ACTIONS)
class TestScripted:
    def test_stand_still_stops_within_comfort(self, action: str) -> None:
        states, cause = run(engine(action), StandStill(engine(action)), street_clips(SMALL))
        assert cause == "horizon" and float(states[-1].speed_mps) < 0.1
        assert min(float(s.accel_mps2) for s in states[1:]) > -4.05

    def test_constant_velocity_keeps_it(self, action: str) -> None:
        states, _ = run(engine(action), ConstantVelocity(engine(action)), street_clips(SMALL))
        assert all(float(s.speed_mps) == pytest.approx(6.0, abs=0.01) for s in states)

    def test_log_replay_follows_a_bend_with_changing_speed(self, action: str) -> None:
        clips = street_clips(SMALL, future=20)
        way = torch.cat((torch.arange(-4, 1) * 3.0, torch.linspace(3.3, 75, 20))).double()
        poses = se2_matrix(60 * (way / 60).sin(), 60 * (1 - (way / 60).cos()), way / 60)[None]
        free = torch.full_like(clips.occupancy, 17)
        bend = Clips(**{**vars(clips), "ego_to_global": poses, "occupancy": free})
        states, cause = run(engine(action), LogReplay(engine(action)), bend)
        assert cause == "destination"
        for state in states[1:]:
            logged = state.route.log[0, int(state.steps)]
            assert torch.allclose(state.pose[0], logged, atol=0.35)

    def test_idm_stops_behind_a_standing_car(self, action: str) -> None:
        clips = street_clips(SMALL, speed_mps=5.0, cars_x_m=(17.5,))
        states, cause = run(engine(action, 14), IDM(engine(action)), clips)
        assert cause == "horizon"
        gap = 15.5 - (float(states[-1].pose[0, 0]) + 3.334)
        assert 0.5 < gap < 6.0 and float(states[-1].speed_mps) < 1.0

    def test_idm_drives_a_free_road(self, action: str) -> None:
        _, cause = run(engine(action), IDM(engine(action)), street_clips(SMALL))
        assert cause == "destination"

    def test_idm_returns_to_the_route(self, action: str) -> None:
        clips = street_clips(SMALL, future=40)
        poses = clips.ego_to_global.clone()
        poses[:, 5:, 1, 3] += 1.5
        runner = engine(action, 20)
        states, cause = run(runner, IDM(runner), Clips(**{**vars(clips), "ego_to_global": poses}))
        assert cause == "destination" and float(states[-1].pose[0, 1]) == pytest.approx(1.5, abs=0.4)


def test_free_way_is_the_distance_to_the_bumper_ahead() -> None:
    runner = engine("kinematic")
    idm = IDM(runner)
    for at in (9.0, 13.0, 17.0):
        state = runner.reset(street_clips(SMALL, cars_x_m=(at,)))
        assert idm.free_way(state).item() == pytest.approx(at - 2.0 - 3.334, abs=0.9)
    assert idm.free_way(runner.reset(street_clips(SMALL))).item() == 100
    aside = runner.reset(street_clips(SMALL, cars_x_m=()))
    assert idm.free_way(aside.index([0])).item() == 100


def test_a_batch_of_planners_equals_singles() -> None:
    runner = engine("kinematic")
    state = runner.reset(street_clips(SMALL, batch=3, cars_x_m=(15.0,)), torch.tensor([2.0, 6.0, 9.0]))
    for make in SCRIPTED.values():
        both, alone = make(runner), make(runner)
        both.reset(state)
        together = both.act(state)
        for i in range(3):
            alone.reset(state.index(i))
            assert torch.allclose(alone.act(state.index(i))[0], together[i], atol=1e-5)


def test_table_over_fixed_scenes(street_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = Evaluate(world="transport", index=street_data, per_scene=2, batch=3, out=tmp_path, device="cpu")
    results = evaluate(options)
    text = capsys.readouterr().out
    assert all(f"| {name} |" in text for name in SCRIPTED) and "no weights, data hand-drawn (raw poses)" in text
    assert (tmp_path / "results.md").read_text() in text and (tmp_path / "results.json").exists()
    cars = {name: [e.collision for e in r if e.scene == "street-1"] for name, r in results.items()}
    assert sum(cars["log_replay"]) > 0, "the log drives through the car that was drawn into the way"
    assert sum(cars["idm"]) == sum(cars["stand_still"]) == 0
    free = [e for e in results["log_replay"] if e.scene == "street-0"]
    assert all(e.success and e.end == "destination" and e.pdms == pytest.approx(1.0, abs=0.02) for e in free)
    again = evaluate(options)
    assert again == results, "fixed scenes give the same table every time"


def test_an_unwritable_folder_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        evaluate(Evaluate(index=tmp_path / "absent", out=tmp_path / "file/planners"))


def test_fixed_starts_are_spread_over_each_scene(street_data: Path) -> None:
    scenes = open_scenes(data_root=street_data, horizon=8)
    starts = fixed_starts(scenes, 3)
    assert [s.scene for s in starts] == [0, 0, 0, 1, 1, 1] and [s.frame for s in starts[:3]] == [4, 10, 16]
    assert len(fixed_starts(scenes, 2, limit=1)) == 2


def episode(scene: str, reward: float) -> Episode:
    return Episode(scene=scene, frame=4, end="horizon", success=1, collision=0, off_road=0, progress=1, comfort=1,
                   pdms=1, reward=reward, steps=16)  # fmt: skip


def test_a_single_scene_has_no_interval() -> None:
    assert "| 100 | " in markdown({"idm": [episode("s0", 1.0), episode("s0", 2.0)]})
    assert "| 100 [100, 100] | " in markdown({"idm": [episode("s0", 1.0), episode("s1", 2.0)]})


def test_intervals_contain_the_mean_and_close_where_scenes_agree() -> None:
    figures = summary([episode(f"s{i}", float(i)) for i in range(20)])
    mean, low, high = figures["reward"]
    assert low < mean == 9.5 < high and 4 < high - low < 7
    assert figures["success"] == (1.0, 1.0, 1.0)


def test_unknown_planners_are_named() -> None:
    with pytest.raises(OptionError, match="idm"):
        Evaluate(planners=("autopilot",))


def test_the_bundled_policy_drives_at_once() -> None:
    engine = Engine(TransportWorld(SMALL), EngineConfig(horizon=4))
    planner = build_planner("ppo", engine)
    facts = read_facts(BUNDLED)
    assert planner.name == "ppo" and facts.prior == "idm" and BUNDLED.stat().st_size < 100_000
    state = engine.reset(street_clips(SMALL, cars_x_m=(15.0,)))
    planner.reset(state)
    prior = IDM(engine)
    for _ in range(3):
        actions = planner.act(state)
        assert actions.shape == (1, 2) and float(actions.abs().max()) <= 1
        assert not torch.equal(actions, prior.act(state))
        state, _ = engine.step(state, actions)
    with pytest.raises(CheckpointError, match="action mode"):
        build_planner("ppo", Engine(TransportWorld(SMALL), EngineConfig(action="delta")))
