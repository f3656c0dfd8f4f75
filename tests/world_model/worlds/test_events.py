"""Events: the same in both worlds, made by the seed alone, dangerous for who drives on, harmless for who brakes."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from street import street_clips

from world_model.core.errors import OptionError
from world_model.core.grid import CLASS_ID, EGO_LENGTH_M, EGO_REAR_OVERHANG_M, EGO_WIDTH_M, FREE, OCC3D, VoxelGrid
from world_model.data.clips import Clips, load_clips
from world_model.data.demo import demo_root
from world_model.data.index import SceneIndex
from world_model.models.geometric import GeometricForecaster, tiny
from world_model.models.geometric.agents.actors import Actors
from world_model.worlds import Stage, TransportWorld, agents_of
from world_model.worlds.events import EVENTS, actors_of
from world_model.worlds.geometric import GeometricWorld
from world_model.worlds.simulated import SimulatedWorld
from world_model.worlds.traffic import TrafficConfig

GRID = VoxelGrid(shape=(144, 96, 16), lower_m=(-19.2, -19.2, -1.0))
STILL, STRAIGHT = torch.eye(4), torch.tensor([2])


@cache
def drive(speed: float) -> Clips:
    return street_clips(GRID, speed_mps=speed, past=1, future=8)


def actors(event: str | None, seed: int = 0, speed: float = 8.0) -> Actors:
    clips = drive(speed)
    return actors_of([event], torch.tensor([seed]), clips, clips.occupancy[:, -1], GRID)


def touched(actor: Actors, x: np.ndarray, t: np.ndarray) -> bool:
    """Whether an ego whose rear axle is at x (N,) metres along the way at times t (N,) touches the actor; as discs."""
    told, (length, width, _) = actor.pose[0].numpy(), actor.size_m[0].tolist()
    steps = np.arange(len(told)) * 0.5
    pose = np.stack([np.interp(t, steps, told[:, n]) for n in range(4)], 1)
    radius = (EGO_WIDTH_M + width) / 2
    ego = x[:, None] + np.linspace(-EGO_REAR_OVERHANG_M + 0.925, EGO_LENGTH_M - EGO_REAR_OVERHANG_M - 0.925, 4)
    own = np.linspace(-1, 1, 7) * max(length - width, 0) / 2
    px, py = (pose[:, n, None] + own * turn(pose[:, 2, None]) for n, turn in ((0, np.cos), (1, np.sin)))
    return bool((np.hypot(px[:, :, None] - ego[:, None], py[:, :, None]) < radius - 0.05).any())


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("speed", [5.0, 9.0, 13.0])
def test_who_drives_on_meets_the_actor_and_who_brakes_does_not(event: str, speed: float) -> None:
    t = np.arange(0, 7, 0.1)
    braking = np.clip(t - 0.5, 0, speed / 5.0)
    stops = speed * np.minimum(t, 0.5) + speed * braking - 2.5 * braking**2
    for seed in range(6):
        actor = actors(event, seed, speed)
        assert touched(actor, speed * t, t), (event, seed)
        assert not touched(actor, stops, t), (event, seed)


def test_an_event_depends_on_its_start_its_name_and_its_seed_alone() -> None:
    clips = street_clips(GRID, batch=3, past=1, future=8)
    both = actors_of(["cut-in", None, "cut-in"], torch.tensor([3, 3, 4]), clips, clips.occupancy[:, -1], GRID)
    alone = actors("cut-in", 3, 6.0)
    assert torch.equal(both.pose[:1], alone.pose) and not torch.equal(both.pose[2], both.pose[0])
    assert both.present.tolist() == [True, False, True]
    with pytest.raises(OptionError, match="'flood'"):
        actors("flood")


@torch.no_grad()
@pytest.mark.parametrize("traffic", ["constant-velocity", "rigid", "log-like"])
def test_the_learned_world_draws_the_actor_wherever_it_is(traffic: str) -> None:
    torch.manual_seed(0)
    world = GeometricWorld(GeometricForecaster(tiny(GRID)).eval(), traffic=TrafficConfig(traffic=traffic))
    clips = street_clips(GRID, batch=2, speed_mps=5.0, cars_x_m=(9.0,))
    actor = actors_of(["blocked-lane", None], torch.tensor([0, 0]), clips, clips.occupancy[:, -1], GRID)
    start = world.reset(clips)
    state, truck = world.stage(start, actor), CLASS_ID["truck"]
    assert (state.labels[0] == truck).any() and torch.equal(state.labels[1], start.labels[1])
    assert not (state.labels[0] == CLASS_ID["car"]).any(), "it is the first in the lane"
    before = agents_of(world, state)
    for _ in range(3):
        state = world.step(state, STILL.repeat(2, 1, 1), STRAIGHT.repeat(2))
        now = agents_of(world, state)
        assert torch.allclose(now.x[0, -1], actor.pose[0, 0, 0]) and now.alive[0, -1] and not now.alive[1, -1]
        found = torch.nonzero(state.labels[0] == truck).float()
        assert len(found) and abs(float(found[:, 0].mean()) * 0.4 - 19.2 - float(now.x[0, -1])) < 2
        assert found[:, 2].min() == 2, "it stands on the ground"
    assert torch.equal(before.x[1], agents_of(world, start).x[1])


@torch.no_grad()
def test_states_with_actors_branch_to_the_bit() -> None:
    world = GeometricWorld(GeometricForecaster(tiny(GRID)).eval(), traffic=TrafficConfig(traffic="log-like"))
    clips = street_clips(GRID, batch=2, speed_mps=5.0)
    actor = actors_of(["hard-brake", "jaywalker"], torch.tensor([0, 1]), clips, clips.occupancy[:, -1], GRID)
    state = world.step(world.stage(world.reset(clips), actor), STILL.repeat(2, 1, 1), STRAIGHT.repeat(2))
    both = world.step(state, STILL.repeat(2, 1, 1), STRAIGHT.repeat(2))
    one = world.step(state.index(1), STILL[None], STRAIGHT)
    assert torch.equal(one.labels, both.labels[1:]) and torch.equal(one.agents.now.x, both.agents.now.x[1:])


@pytest.fixture(scope="module")
def clips() -> Clips:
    index = SceneIndex.load(demo_root())
    scene = index.scene_name.tolist().index("scene-0142")
    return load_clips(index, [index.frames(scene)[9]], 4, 24, True)


@pytest.mark.parametrize("event", EVENTS)
def test_the_simulator_stages_the_same_actor(clips: Clips, event: str) -> None:
    world = SimulatedWorld()
    start = world.reset(clips)
    actor = actors_of([event], torch.tensor([5]), clips, clips.occupancy[:, -1], OCC3D)
    state = world.stage(start, actor)
    assert len(state.scenes[0].agents.label) == len(start.scenes[0].agents.label) + 1
    ego = state.scenes[0].ego
    for k in range(1, 4):
        state = world.step(state, STILL[None], STRAIGHT)
        dx, dy = state.scenes[0].motion.xy[-1] - (ego.x, ego.y)
        x, y = np.cos(ego.yaw) * dx + np.sin(ego.yaw) * dy, np.cos(ego.yaw) * dy - np.sin(ego.yaw) * dx
        assert np.allclose((x, y), actor.pose[0, k, :2], atol=1e-3)
    assert (world.occupancy(state) != FREE).any()
    assert len(start.scenes[0].agents.label) == len(world.reset(clips).scenes[0].agents.label), "the start is untouched"


def test_worlds_without_agents_stage_nothing() -> None:
    assert not isinstance(TransportWorld(), Stage)
