"""What agents see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from small_worlds import TINY
from street import SMALL, street, street_clips

from ii_world_env.ego.actions import ACTION_MODES
from ii_world_env.engine import Engine, EngineConfig
from ii_world_env.observations.build import OBSERVATION_MODES, Observation, build_observation
from ii_world_env.observations.features import FEATURES
from ii_world_env.observations.modes import CLEARANCE_M, PRIORITY, bev
from world_model.core.errors import ConfigError, OptionError
from world_model.core.grid import CLASS_ID, FREE, NUM_CLASSES, OCC3D, VoxelGrid
from world_model.models.forecaster import Forecaster
from world_model.models.forecaster import tiny as tiny_forecaster
from world_model.models.tokenizer import Tokenizer
from world_model.models.tokenizer import tiny as tiny_tokenizer
from world_model.worlds import TransportWorld, World
from world_model.worlds.token import TokenWorld


def test_priority_names_every_class_once() -> None:
    assert sorted(PRIORITY) == list(range(NUM_CLASSES))


def test_map_keeps_axes() -> None:
    labels = np.full(OCC3D.shape, FREE, np.uint8)
    labels[150, 30, 3] = CLASS_ID["car"]
    seen = bev(torch.from_numpy(labels)[None], OCC3D)[0].numpy()
    assert seen.shape == (100, 100) and seen.dtype == np.uint8
    assert np.argwhere(seen != FREE).tolist() == [[75, 15]] and seen[75, 15] == CLASS_ID["car"]


def test_one_pedestrian_voxel_survives_pooling_over_a_car_and_ground() -> None:
    labels = np.full(OCC3D.shape, FREE, np.uint8)
    labels[100:102, 100:102, 2] = CLASS_ID["driveable_surface"]
    labels[100:102, 100:102, 3:6] = CLASS_ID["car"]
    labels[101, 101, 3] = CLASS_ID["pedestrian"]
    assert bev(torch.from_numpy(labels)[None], OCC3D)[0, 50, 50] == CLASS_ID["pedestrian"]


@pytest.mark.parametrize("height", [7, 16, 21])
@pytest.mark.parametrize("bottom_m", [-1.0, -1.4])
def test_the_map_shows_the_highest_class_of_each_cell(height: int, bottom_m: float) -> None:
    grid = VoxelGrid(shape=(12, 8, height), lower_m=(-2.4, -1.6, bottom_m))
    rng = np.random.default_rng(height)
    labels = rng.choice(NUM_CLASSES, (2, *grid.shape), p=[0.02] * FREE + [1 - 0.02 * FREE]).astype(np.uint8)
    seen = bev(torch.from_numpy(labels), grid)
    low = [k for k in range(height) if bottom_m + (k + 0.5) * grid.voxel_m <= CLEARANCE_M]
    for b, i, j in np.ndindex(2, 6, 4):
        cell = labels[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2][..., low]
        assert int(seen[b, i, j]) == max(cell.ravel().tolist(), key=PRIORITY.index)


def test_tree_crowns_do_not_hide_the_road() -> None:
    labels = street(SMALL)
    labels[..., 12:] = CLASS_ID["vegetation"]
    seen = bev(torch.from_numpy(labels)[None], SMALL)[0]
    assert seen[25, 25] == CLASS_ID["driveable_surface"]


def mode_of(name: str, world: World, action: str = "kinematic") -> Observation:
    return build_observation(name, world, ACTION_MODES[action])


def test_classes_are_bounded_by_seventeen_and_vectors_by_finite_numbers() -> None:
    space = mode_of("bev", TransportWorld(), "delta").space()
    assert isinstance(space, spaces.Dict)
    assert space["bev"].high.max() == FREE and space["ego"].shape == (7,)  # type: ignore[attr-defined]
    assert all(np.isfinite(part.low).all() and np.isfinite(part.high).all() for part in space.values())  # type: ignore[attr-defined]
    assert mode_of("occupancy", TransportWorld()).space().shape == OCC3D.shape


def test_unknown_modes_list_the_known_ones() -> None:
    with pytest.raises(OptionError, match="occupancy"):
        mode_of("lidar", TransportWorld())
    with pytest.raises(OptionError, match="kinematic"):
        EngineConfig(action="joystick")


@pytest.mark.parametrize("action", sorted(set(ACTION_MODES) - {"command"}))
@pytest.mark.parametrize("mode", sorted(set(OBSERVATION_MODES) - {"tokens"}))
def test_observations_lie_in_their_spaces_under_every_action_mode(mode: str, action: str) -> None:
    world = TransportWorld(TINY)
    engine = Engine(world, EngineConfig(action=action))
    observation = mode_of(mode, world, action)
    space = observation.space()
    state = engine.reset(street_clips(TINY, batch=2, future=4))
    numbers = np.random.default_rng(0)
    for _ in range(3):
        seen = observation.observe(state)
        for row in range(2):
            one = {k: v[row].numpy() for k, v in seen.items()} if isinstance(seen, dict) else seen[row].numpy()
            assert space.contains(one)
        choices, shape = len(engine.action_mode.choices), (2, *engine.action_mode.shape)
        actions = numbers.integers(choices, size=shape) if choices else numbers.uniform(-1, 1, shape)
        state, _ = engine.step(state, torch.from_numpy(actions))


def test_the_state_vector_is_features_ego_and_route() -> None:
    world = TransportWorld(SMALL)
    state = Engine(world, EngineConfig()).reset(street_clips(SMALL, future=4))
    vector, parts = (mode_of(name, world).observe(state) for name in ("state", "bev"))
    assert isinstance(vector, torch.Tensor) and isinstance(parts, dict)
    assert torch.equal(vector[:, len(FEATURES) :], torch.cat((parts["ego"], parts["route"]), 1))


@torch.inference_mode()
def test_tokens_are_what_the_occupancy_is_decoded_from() -> None:
    torch.manual_seed(0)
    world = TokenWorld(Tokenizer(tiny_tokenizer()), Forecaster(tiny_forecaster()))
    engine, observation = Engine(world, EngineConfig()), mode_of("tokens", world)
    state, _ = engine.step(engine.reset(street_clips(TINY, future=4)), torch.zeros(1, 2))
    seen = observation.observe(state)
    assert isinstance(seen, dict) and set(seen) == {"tokens", "ego", "route"}
    assert torch.equal(world.tokenizer.decode(seen["tokens"]), world.occupancy(state.world))
    space = observation.space()
    assert isinstance(space, spaces.Dict)
    assert space.contains({name: value[0].numpy() for name, value in seen.items()})
    assert not observation.needs_occupancy


def test_tokens_of_a_world_without_any_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"(?s)TransportWorld.*world='ii-world'"):
        mode_of("tokens", TransportWorld(SMALL))
