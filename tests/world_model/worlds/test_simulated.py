"""The simulator as a world: takes recorded scenes up exactly, reacts to the ego, refuses what it did not make."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from street import street_clips, write_street
from torch import Tensor

from world_model.core.errors import ConfigError, DataError
from world_model.core.geometry import invert_pose, se2_matrix
from world_model.core.grid import FREE, OCC3D, VoxelGrid
from world_model.data.clips import Clips, load_clips
from world_model.data.demo import demo_root
from world_model.data.index import SceneIndex
from world_model.simulator.dataset.config import KEEP_EVERY, DatasetConfig, scene_states
from world_model.simulator.dataset.rebuild import dataset_config, recorded_state
from world_model.simulator.town.town import build_town
from world_model.worlds import Populated, SelfDriving, World, build_world
from world_model.worlds.simulated import SimulatedState, SimulatedWorld

PAST = 4
OBJECTS = list(range(1, 11))


@pytest.fixture(scope="module")
def index() -> SceneIndex:
    return SceneIndex.load(demo_root())


@pytest.fixture(scope="module")
def clips(index: SceneIndex) -> Clips:
    """Two starts in scenes that share a town, with recorded labels of the future."""
    scenes = [index.scene_name.tolist().index(name) for name in ("scene-0142", "scene-0143")]
    return load_clips(index, [index.frames(s)[at] for s, at in zip(scenes, (9, 14))], PAST, 6, True)


@pytest.fixture(scope="module")
def world() -> SimulatedWorld:
    return SimulatedWorld()


@pytest.fixture(scope="module")
def start(world: SimulatedWorld, clips: Clips) -> SimulatedState:
    return world.reset(clips)


def motion(dx: float, dy: float = 0.0, yaw: float = 0.0, batch: int = 2) -> Tensor:
    return invert_pose(se2_matrix(*(torch.full((batch,), v) for v in (dx, dy, yaw))))


STRAIGHT = torch.tensor([2, 2])


def equal(a: SimulatedState, b: SimulatedState) -> bool:
    """To the bit."""
    return all(
        x.ego == y.ego
        and x.time_s == y.time_s
        and all(np.array_equal(v, getattr(y.motion, k)) for k, v in vars(x.motion).items())
        and np.array_equal(x.memory.lowest_m, y.memory.lowest_m)
        and np.array_equal(x.memory.range_m, y.memory.range_m)
        for x, y in zip(a.scenes, b.scenes, strict=True)
    )


def test_satisfies_the_protocols(world: SimulatedWorld) -> None:
    assert isinstance(world, World) and isinstance(world, SelfDriving) and isinstance(world, Populated)
    assert isinstance(build_world("simulated", device="cpu"), SimulatedWorld)


def test_takes_recorded_scenes_up_where_they_are(world: SimulatedWorld, clips: Clips, start: SimulatedState) -> None:
    labels = world.occupancy(start)
    assert labels.shape == (2, *OCC3D.shape) and labels.dtype == torch.uint8
    differing = (labels != clips.occupancy[:, -1]).sum((1, 2, 3)) / (labels != FREE).sum((1, 2, 3))
    # Zero on the machine type that made the data; elsewhere sines may round otherwise.
    assert float(differing.max()) < 0.002
    assert bool((clips.occupancy[0, -1] != clips.occupancy[0, -2]).any())


def test_who_drives_like_the_log_lives_the_log(world: SimulatedWorld, clips: Clips, start: SimulatedState) -> None:
    """The recorded motion brings back the recorded future: dynamics, sensor and frames all fit."""
    pose, state, compared = clips.ego_to_global[:, PAST:], start, 0
    for step in range(4):
        state = world.step(state, (invert_pose(pose[:, step + 1]) @ pose[:, step]).float(), STRAIGHT)
        seen, recorded = world.occupancy(state), clips.future_occupancy[:, step]  # type: ignore[index]
        for row in range(2):
            # Keyframes are not all half a second apart; the environment's steps are.
            if bool((clips.dt_s[row, PAST : PAST + step + 1] == 0.5).all()):
                compared += 1
                assert float((seen[row] != recorded[row]).sum() / (recorded[row] != FREE).sum()) < 0.005
    assert compared >= 4


@pytest.mark.parametrize("keyframe", [0, 1, KEEP_EVERY, KEEP_EVERY + 3])
def test_a_state_does_not_depend_on_what_was_asked_before(index: SceneIndex, keyframe: int) -> None:
    config, scene = DatasetConfig(scenes=150, seed=0), index.scene_name.tolist().index("scene-0143")
    recorded = next(state for k, (state, _) in enumerate(scene_states(config, 142)) if k == keyframe)
    found = recorded_state(index, index.frames(scene)[keyframe])
    assert equal(SimulatedState(scenes=(recorded,)), SimulatedState(scenes=(found,)))


def test_a_kept_state_steps_again_to_the_bit(world: SimulatedWorld, start: SimulatedState) -> None:
    saved = start.clone()
    first = world.step(start, motion(3.0, 0.1, 0.05), STRAIGHT)
    world.step(first, motion(2.0), STRAIGHT)
    again = world.step(saved, motion(3.0, 0.1, 0.05), STRAIGHT)
    assert equal(first, again) and equal(start, saved) and not equal(first, start)
    assert torch.equal(world.occupancy(first), world.occupancy(again))


def test_a_batch_equals_its_singles(world: SimulatedWorld, start: SimulatedState) -> None:
    both = world.step(start, motion(2.5, 0.0, -0.02), STRAIGHT)
    for row in range(2):
        alone = world.step(start.index(row), motion(2.5, 0.0, -0.02, batch=1), STRAIGHT[:1])
        assert equal(alone, both.index([row]))
    assert equal(start.expand(2), start.index(torch.tensor([0, 0, 1, 1])))
    assert equal(start.index(torch.tensor([False, True])), start.index(slice(1, 2)))


def test_the_ego_goes_where_it_is_commanded(world: SimulatedWorld, start: SimulatedState) -> None:
    state = world.step(start, motion(3.0, 0.5, 0.1), STRAIGHT)
    for before, after in zip(start.scenes, state.scenes, strict=True):
        c, s = np.cos(before.ego.yaw), np.sin(before.ego.yaw)
        there = before.ego.x + c * 3.0 - s * 0.5, before.ego.y + s * 3.0 + c * 0.5
        assert (after.ego.x, after.ego.y) == pytest.approx(there, abs=1e-5)
        assert np.sin(after.ego.yaw - before.ego.yaw - 0.1) == pytest.approx(0, abs=1e-6)


def test_others_react_to_the_ego(index: SceneIndex, world: SimulatedWorld) -> None:
    """A car that follows the ego stops behind it when the ego stops, where the recording drives on."""
    scene = index.scene_name.tolist().index("scene-0142")
    begin = world.reset(load_clips(index, [index.frames(scene)[9]], PAST, 1)).scenes[0]
    ego = begin.ego
    heading = np.array((np.cos(ego.yaw), np.sin(ego.yaw)))
    # The last mobile car is put 14 m behind the ego, on its path and at its speed.
    car = int(np.flatnonzero(begin.agents.mobile & (begin.agents.label == 4))[-1])
    placed, agents = begin.motion.clone(), begin.agents
    placed.path[car], placed.s[car], placed.route[car] = ego.path, ego.s - 14.0, ego.route
    placed.xy[car] = np.array((ego.x, ego.y)) - 14.0 * heading
    placed.yaw[car], placed.speed[car], placed.stuck_s[car] = ego.yaw, 6.0, 0.0
    lateral, wish = agents.lateral_m.copy(), agents.desired_mps.copy()
    lateral[car], wish[car] = ego.offset_m, 8.0
    assert ego.s > 14.5, "the lane must reach back behind the ego"
    begin = replace(begin, motion=placed, agents=replace(agents, lateral_m=lateral, desired_mps=wish))

    def follow(dx: float) -> tuple[float, float]:
        state = SimulatedState(scenes=(begin,))
        for _ in range(10):
            state = world.step(state, motion(dx, batch=1), STRAIGHT[:1])
        moved = state.scenes[0].motion
        return float(np.hypot(*(moved.xy[car] - placed.xy[car]))), float(moved.speed[car])

    (near, still), (far, _) = follow(0.0), follow(3.0)
    assert near < 14.0 - 4.0 and still < 1.0, "it stops behind the ego, which is not driven through"
    assert far > near + 5.0, "it follows an ego that drives on"


def test_dropped_agents_are_gone_and_the_others_stay(world: SimulatedWorld, start: SimulatedState) -> None:
    seed = torch.tensor([7, 8])
    none = world.drop_agents(start, torch.tensor([0.0, 0.0]), seed)
    assert equal(none, start)
    empty = world.drop_agents(start, torch.tensor([1.0, 0.0]), seed)
    labels = [np.isin(world.occupancy(state).numpy(), OBJECTS).sum((1, 2, 3)) for state in (start, empty)]
    assert labels[0].min() > 100 and labels[1][0] == 0 and labels[1][1] == labels[0][1]
    half = world.drop_agents(start, torch.tensor([0.5, 0.5]), seed)
    assert equal(half, world.drop_agents(start, torch.tensor([0.5, 0.5]), seed))
    gone = (half.scenes[0].motion.xy[:, 0] < -1e5).mean()
    assert gone == pytest.approx(0.5, abs=0.01)
    later = world.step(half, motion(2.0), STRAIGHT)
    assert np.isfinite(later.scenes[0].motion.xy).all()
    assert int(np.isin(world.occupancy(world.step(empty, motion(2.0), STRAIGHT))[0].numpy(), OBJECTS).sum()) == 0


def test_its_own_driver_stays_on_the_road_and_obeys(world: SimulatedWorld, start: SimulatedState) -> None:
    state = start
    for _ in range(6):
        kept = state
        state, curr_to_next = world.drive(state, STRAIGHT)
        given = world.step(kept, curr_to_next, STRAIGHT)
        for a, b in zip(state.scenes, given.scenes, strict=True):
            assert (a.ego.x, a.ego.y) == pytest.approx((b.ego.x, b.ego.y), abs=1e-4), "it reports the motion it made"
            assert abs(a.ego.offset_m) < 1.0
    # At a junction that offers the way, commands decide the next path.
    scene = start.scenes[0]
    paths = build_town(scene.seed, scene.town_id).network.paths
    for lane in range(len(paths.kind)):
        ways = {int(np.sign(paths.turn[w])): int(w) for w in paths.successors[lane] if w >= 0}
        if paths.kind[lane] == 0 and set(ways) == {-1, 0, 1}:
            break
    at_junction = replace(scene, ego=replace(scene.ego, path=lane, route=(ways[0], scene.ego.route[1])))
    for command, turn in ((0, -1), (1, 1), (2, 0)):
        assert world._with_command(at_junction, command).ego.route[0] == ways[turn]


def test_towns_in_use_are_built_once(world: SimulatedWorld, start: SimulatedState) -> None:
    scene = start.scenes[0]
    town = build_town(scene.seed, scene.town_id)
    world.step(start, motion(1.0), STRAIGHT)
    assert build_town(scene.seed, scene.town_id) is town


def test_only_what_was_simulated_can_be_simulated_on(world: SimulatedWorld, tmp_path: Path) -> None:
    root = write_street(tmp_path / "street", scenes=1, frames=6)
    hand_drawn = SceneIndex.load(root)
    with pytest.raises(DataError, match=r"(?s)synthetic\.json.*hand-drawn.*'replay'"):
        world.reset(load_clips(hand_drawn, [4], PAST, 1))
    with pytest.raises(DataError, match="load_clips"):
        world.reset(street_clips(OCC3D, future=1))
    with pytest.raises(ConfigError, match="grid"):
        SimulatedWorld(VoxelGrid(shape=(40, 40, 16), lower_m=(-8.0, -8.0, -1.0)))


@pytest.mark.parametrize(
    "damage",
    ["", "[]", "{}", '{"scenes": 150}', {"seed": "zero"}, {"seed": -1}, {"scenes": 10**30}, {"simulator": 3}],
    ids=str,
)
def test_a_damaged_mark_is_named(tmp_path: Path, index: SceneIndex, damage: str | dict[str, object]) -> None:
    mark = json.loads((demo_root() / "synthetic.json").read_text())
    text = json.dumps({**mark, **damage}) if isinstance(damage, dict) else damage
    (tmp_path / "synthetic.json").write_text(text)
    with pytest.raises(DataError, match=r"synthetic\.json does not describe how"):
        dataset_config(replace(index, root=tmp_path))


def test_data_of_another_making_are_found_out(
    tmp_path: Path, index: SceneIndex, clips: Clips, world: SimulatedWorld
) -> None:
    mark = json.loads((demo_root() / "synthetic.json").read_text())
    # Less traffic: every scene has the same place and times, but other agents.
    (tmp_path / "synthetic.json").write_text(json.dumps({**mark, "simulator": {**mark["simulator"], "traffic": 0.05}}))
    (tmp_path / "gts").symlink_to(demo_root() / "gts")
    other = replace(index, root=tmp_path)
    with pytest.raises(DataError, match=r"(?s)cannot be continued.*make_synthetic"):
        world.reset(replace(clips, index=other))
    (tmp_path / "synthetic.json").write_text(json.dumps({**mark, "scenes": 20}))
    with pytest.raises(DataError, match="of the 20"):
        recorded_state(other, 0)


def test_an_index_elsewhere_still_finds_its_data(tmp_path: Path, index: SceneIndex) -> None:
    labels = np.array([str(demo_root() / path) for path in index.label_path])
    assert dataset_config(replace(index, root=tmp_path, label_path=labels)).seed == 0
