"""Actions become motions that a car could drive."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from street import SMALL, street_clips

from ii_world_env.ego.actions import ACTION_MODES, MANOEUVRES, PLAN_STEPS, waypoints, waypoints_through
from ii_world_env.ego.route import Route, project
from ii_world_env.engine import Engine, EngineConfig, State
from world_model.core import vehicle as motions
from world_model.core.errors import ActionError, ConfigError
from world_model.core.geometry import compose
from world_model.core.grid import EGO_WHEELBASE_M, STEP_S, VoxelGrid
from world_model.core.vehicle import GRIP_MPS2, MAX_SPEED_MPS, MAX_STEER_RAD, SUBSTEPS, arc, delta, kinematic
from world_model.models.forecaster import Forecaster
from world_model.models.forecaster import tiny as tiny_forecaster
from world_model.models.tokenizer import Tokenizer
from world_model.models.tokenizer import tiny as tiny_tokenizer
from world_model.worlds import TransportWorld
from world_model.worlds.token import TokenWorld

TINY = VoxelGrid(shape=(40, 40, 16), lower_m=(-8.0, -8.0, -1.0))
CONTINUOUS = sorted(name for name, mode in ACTION_MODES.items() if not mode.choices)


def random_actions(size: int, count: int = 500) -> torch.Tensor:
    return torch.rand(count, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_zero_action_keeps_speed_and_heading() -> None:
    motion = kinematic(torch.zeros(1, 2), torch.tensor([7.0]))
    assert torch.allclose(motion.path[0, -1], torch.tensor([3.5, 0.0, 0.0]), atol=1e-5)
    assert motion.speed_mps.item() == pytest.approx(7.0)


def test_speed_never_turns_negative_and_stays_below_its_cap() -> None:
    speed = torch.rand(500, generator=torch.Generator().manual_seed(1)) * MAX_SPEED_MPS
    motion = kinematic(random_actions(2), speed)
    assert bool((motion.speed_mps >= 0).all()) and bool((motion.speed_mps <= MAX_SPEED_MPS).all())
    assert bool((motion.path[:, :, 0].diff(dim=1) >= -1e-6).all()), "a car that brakes must not roll back"


def test_full_braking_stops_where_physics_says() -> None:
    motion = kinematic(torch.tensor([[-1.0, 0.0]]), torch.tensor([2.0]))
    assert motion.speed_mps.item() == 0
    assert motion.path[0, -1, 0].item() == pytest.approx(2.0**2 / (2 * 6.0), abs=0.05)


def test_steering_drives_the_circle_of_the_bicycle_model() -> None:
    steer, speed = 0.2, torch.tensor([3.0])
    pose = torch.zeros(1, 3)
    radius = EGO_WHEELBASE_M / math.tan(steer)
    centre = torch.tensor([0.0, radius])
    for _ in range(12):
        motion = kinematic(torch.tensor([[0.0, steer / MAX_STEER_RAD]]), speed)
        pose = compose(pose, motion.path[:, -1])
        assert (pose[0, :2] - centre).norm().item() == pytest.approx(radius, rel=2e-3)
    assert pose[0, 2].item() == pytest.approx(12 * STEP_S * 3.0 / radius, rel=1e-4)


def test_tyres_limit_the_lateral_acceleration() -> None:
    motion = kinematic(torch.tensor([[0.0, 1.0]]), torch.tensor([15.0]))
    assert (motion.speed_mps * motion.yaw_rate_rps).item() == pytest.approx(GRIP_MPS2, rel=0.02)


def test_left_and_right_are_mirror_images() -> None:
    some = random_actions(2)
    speed = torch.full((len(some),), 6.0)
    mirrored = kinematic(some * torch.tensor([1.0, -1.0]), speed).path * torch.tensor([1.0, -1.0, -1.0])
    assert torch.allclose(kinematic(some, speed).path, mirrored, atol=1e-6)


def test_delta_ends_exactly_where_it_says() -> None:
    some = random_actions(3)
    motion = delta(some, torch.zeros(len(some)))
    low = torch.tensor([motions.DELTA_DX_M[0], motions.DELTA_DY_M[0], motions.DELTA_YAW_RAD[0]])
    high = torch.tensor([motions.DELTA_DX_M[1], motions.DELTA_DY_M[1], motions.DELTA_YAW_RAD[1]])
    assert torch.allclose(motion.path[:, -1], low + (some + 1) / 2 * (high - low), atol=1e-5)


def test_arc_repeats_one_small_motion() -> None:
    """The path of constant twist is the same small motion, driven again and again."""
    end = [torch.tensor([v]) for v in (4.0, 0.7, 0.5)]
    path = arc(*end)
    pose = torch.zeros(1, 3)
    for step in range(SUBSTEPS):
        pose = compose(pose, path[:, 0])
        assert torch.allclose(pose, path[:, step], atol=1e-5)


@pytest.mark.parametrize("mode", CONTINUOUS)
def test_inverse_finds_the_action_of_a_drivable_motion(mode: str) -> None:
    acts = ACTION_MODES[mode]
    assert acts.move is not None
    some = random_actions(acts.size, 200) * 0.5
    ego: Any = SimpleNamespace(speed_mps=torch.full((len(some),), 8.0))
    end = acts.move(some, ego).path[:, -1]
    again = acts.move(acts.inverse(end, ego.speed_mps), ego).path[:, -1]
    assert torch.allclose(end, again, atol=0.12 if mode == "kinematic" else 1e-4)


# Plans ---------------------------------------------------------------------------------------------------------------


def test_the_first_waypoint_is_driven_and_the_others_are_meant() -> None:
    some, speed = random_actions(3 * PLAN_STEPS, 20), torch.full((20,), 5.0)
    planned, driven = waypoints(some, speed), delta(some[:, :3], speed)
    assert torch.equal(planned.path, driven.path) and torch.equal(planned.speed_mps, driven.speed_mps)
    assert planned.plan is not None and driven.plan is None
    # Driving the rest of the plan link by link comes through the very poses of the plan.
    pose = torch.zeros(20, 3)
    for link in range(1, PLAN_STEPS):
        pose = compose(pose, delta(some[:, 3 * link : 3 * link + 3], speed).path[:, -1])
        assert torch.allclose(planned.plan[:, 5 * link - 1], pose, atol=1e-4)
    gaps = torch.cat((torch.zeros(20, 1, 2), planned.plan[..., :2]), 1).diff(dim=1).norm(dim=-1)
    assert float(gaps.max()) < 3.0, "nothing longer than the sensitive body fits between two poses"


def test_a_trajectory_becomes_the_plan_that_drives_through_it() -> None:
    some = random_actions(3 * PLAN_STEPS, 20) * 0.9
    planned = waypoints(some, torch.zeros(20))
    assert planned.plan is not None
    first = planned.path[:, -1:]
    poses = torch.cat((first, compose(first.expand(-1, PLAN_STEPS - 1, -1), planned.plan[:, 4::5])), 1)
    assert torch.allclose(waypoints_through(poses), some.view(20, PLAN_STEPS, 3), atol=1e-4)
    far = torch.tensor([[[100.0 * k, 0.0, 0.0] for k in range(1, PLAN_STEPS + 1)]])
    assert bool((waypoints_through(far)[..., 0] == 1).all()), "what is too far is cut to the bounds"


def test_a_plan_into_a_wall_is_risky_from_the_wall_on() -> None:
    engine = Engine(TransportWorld(SMALL), EngineConfig(action="waypoints", horizon=8))
    state = engine.reset(street_clips(SMALL, speed_mps=4.0, cars_x_m=(14.0,)))
    risk = {}
    for name, dx in (("stop", -1.0), ("slow", -0.6), ("fast", 0.0)):
        plan = torch.zeros(1, PLAN_STEPS, 3)
        plan[..., 0] = dx
        plan[:, 0, 0] = -0.5
        _, out = engine.step(state, plan)
        assert out.outcome.plan_risk is not None and not bool(out.outcome.collision[0])
        risk[name] = float(out.outcome.plan_risk[0])
        assert float(out.terms["plan"][0]) == pytest.approx(-0.5 * risk[name])
    # 2 m driven, the front stands at 5.3 m, the car begins at 12 m: after 6.7 m, so in the second of five links of 4 m.
    assert risk["stop"] == 0 and 0 < risk["slow"] < 0.3 and risk["fast"] == pytest.approx(0.68, abs=0.05)
    aside = torch.zeros(1, PLAN_STEPS, 3)
    aside[:, 0, 0], aside[:, 1:, 1] = -0.5, 1.0
    _, out = engine.step(engine.reset(street_clips(SMALL, speed_mps=4.0)), aside)
    assert out.outcome.plan_risk is not None and 0.2 < float(out.outcome.plan_risk[0]) < 1, "it leaves the road"


# Manoeuvres ----------------------------------------------------------------------------------------------------------


def drive(names: list[str], bend: float = 0.0, speed: float = 6.0) -> tuple[Engine, list[State]]:
    """Manoeuvres along a route that bends to the left by ``bend`` rad/m."""
    engine = Engine(TransportWorld(SMALL), EngineConfig(action="meta", horizon=30))
    state = engine.reset(street_clips(SMALL, speed_mps=speed, future=40))
    s = torch.arange(0.0, 120.0, 1.0)
    state = replace(state, route=_route(_bent(s, bend), state.route))
    states = [state]
    for name in names:
        state, _ = engine.step(state, torch.tensor([list(MANOEUVRES).index(name)]))
        states.append(state)
    return engine, states


def _bent(s: torch.Tensor, bend: float) -> torch.Tensor:
    if bend == 0:
        return torch.stack((s, torch.zeros_like(s)), -1)
    return torch.stack(((s * bend).sin() / bend, (1 - (s * bend).cos()) / bend), -1)


def _route(points: torch.Tensor, like: Route) -> Route:
    length = torch.cat((torch.zeros(1), points.diff(dim=0).norm(dim=-1).cumsum(0)))
    return replace(like, points=points[None], length_m=length[None])


def offset(state: State) -> float:
    return float(project(state.route, state.pose[:, :2], state.progress_m)[1])


@pytest.mark.parametrize("bend", [0.0, 0.05, -0.05])
def test_keep_follows_the_route_round_its_bends(bend: float) -> None:
    _, states = drive(["keep"] * 10, bend)
    assert float(states[-1].progress_m) == pytest.approx(30.0, rel=0.05)
    assert max(abs(offset(state)) for state in states) < 0.6
    assert float(states[-1].speed_mps) == pytest.approx(6.0)


def test_left_and_right_shift_the_line_and_speeds_change() -> None:
    ends = {name: drive([name] * 4 + ["keep"] * 6)[1][-1] for name in MANOEUVRES}
    assert offset(ends["left"]) > 0.5 and offset(ends["right"]) == pytest.approx(-offset(ends["left"]), abs=1e-3)
    assert abs(float(ends["left"].pose[0, 2])) < 0.1, "it drives parallel to the route again"
    speeds = {name: float(state.speed_mps) for name, state in ends.items()}
    wanted = {"keep": 6, "faster": 10, "slower": 2, "stop": 0, "left": 6, "right": 6}
    assert speeds == pytest.approx(wanted, abs=1e-4)
    assert abs(offset(ends["keep"])) < 1e-4


def test_a_wanted_motion_finds_its_manoeuvre() -> None:
    speed = torch.full((4,), 8.0)
    target = torch.tensor([[4.0, 0.3, 0.1], [4.25, 0, 0], [3.75, 0, 0], [3.0, 0, 0]])
    assert ACTION_MODES["meta"].inverse(target, speed)[:, 0].tolist() == [0, 1, 2, 3]


# Commands ------------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_a_command_lets_the_model_drive_itself() -> None:
    torch.manual_seed(0)
    world = TokenWorld(Tokenizer(tiny_tokenizer()), Forecaster(tiny_forecaster()))
    engine = Engine(world, EngineConfig(action="command", horizon=8))
    state = engine.reset(street_clips(TINY, future=8))
    ends = {}
    for command in range(3):
        after, out = engine.step(state, torch.tensor([command]))
        wanted = world.forecaster.predict(state.world.forecast, torch.tensor([command])).predicted_motion
        assert torch.allclose(after.pose, wanted, atol=1e-5) and torch.allclose(out.path[:, -1], wanted, atol=1e-5)
        assert after.last_action[0].tolist() == [float(command == k) for k in range(3)]
        ends[command] = after.pose
    assert not torch.equal(ends[0], ends[1]), "another command, another motion"
    # Told the same motion, the world answers with the same forecast.
    direct, _ = world.drive(state.world, torch.tensor([2]))
    assert torch.equal(engine.step(state, torch.tensor([2]))[0].world.token, direct.token)


def test_a_world_without_a_driver_refuses_commands() -> None:
    with pytest.raises(ConfigError, match=r"(?s)TransportWorld.*drive"):
        Engine(TransportWorld(SMALL), EngineConfig(action="command"))


# What is accepted ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ACTION_MODES))
def test_bad_actions_are_refused_and_wild_ones_clipped(name: str) -> None:
    mode, cpu = ACTION_MODES[name], torch.device("cpu")
    good = torch.zeros(2, *mode.shape)
    assert mode.checked(good, 2, cpu).shape == (2, mode.size)
    assert mode.remember(mode.checked(good, 2, cpu)).shape == (2, mode.width)
    nan, inf = torch.full_like(good, math.nan), torch.full_like(good, math.inf)
    refused: list[object] = [nan, inf, good[:1], torch.zeros(2, 5), [0.0], None]
    if mode.choices:
        refused += [good + len(mode.choices), good - 1, good + 0.5]
    else:
        wild = mode.checked(good + 7.0, 2, cpu)
        assert bool((wild == 1).all())
    for actions in refused:
        with pytest.raises(ActionError, match="action"):
            mode.checked(actions, 2, cpu)  # type: ignore[arg-type]
    assert bool((mode.remember(mode.checked(good, 2, cpu)).abs() <= 1).all())
