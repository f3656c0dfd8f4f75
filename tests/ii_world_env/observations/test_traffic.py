"""What the others do, seen in two occupancies: on a street on which it is known who drives how fast."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from street import SMALL, street, street_clips

import ii_world_env
from ii_world_env.ego.actions import ACTION_MODES
from ii_world_env.ego.footprint import FRONT_M, FootprintConfig, solid_columns
from ii_world_env.engine import Engine, EngineConfig, State
from ii_world_env.observations.build import build_observation
from ii_world_env.observations.features import FEATURES, free_distances
from ii_world_env.observations.traffic import TRAFFIC, traffic
from ii_world_env.sb3_vec_env import IIWorldVecEnv
from world_model.worlds import TransportWorld

CONFIG = FootprintConfig()
DRIVE = torch.zeros(1, 2)


def remembering(**options: object) -> Engine:
    engine = Engine(TransportWorld(SMALL), EngineConfig(**options))  # type: ignore[arg-type]
    engine.remembers = True
    return engine


def read(state: State) -> dict[str, float]:
    solid = solid_columns(state.labels, SMALL, CONFIG)
    values = traffic(state, solid, free_distances(solid, SMALL), SMALL, CONFIG)
    return dict(zip(TRAFFIC, values[0].tolist(), strict=True))


def met(car_x_m: float, speed_mps: float, ego_mps: float = 6.0) -> dict[str, float]:
    """A car ahead at a speed, seen by an ego at another."""
    state = remembering().reset(street_clips(SMALL, cars_x_m=(car_x_m,), speed_mps=ego_mps))
    before = street(SMALL, -ego_mps / 2, (car_x_m - speed_mps / 2,))
    solid = solid_columns(torch.from_numpy(before)[None], SMALL, CONFIG)
    return read(replace(state, solid_before=solid, pose_before=torch.tensor([[-ego_mps / 2, 0.0, 0.0]])))


@pytest.mark.parametrize("speed_mps", [-4.0, 0.0, 4.0, 8.0])
@pytest.mark.parametrize("ego_mps", [0.0, 5.0, 8.0])
def test_the_leader_is_as_fast_as_it_drives_whatever_the_ego_does(speed_mps: float, ego_mps: float) -> None:
    seen = met(15.0, speed_mps, ego_mps)
    # A voxel in half a second.
    assert seen["leader_mps"] == pytest.approx(speed_mps, abs=0.9)
    assert seen["gap_m"] == pytest.approx(15.0 - 2.0 - FRONT_M, abs=0.9)
    assert seen["change_0_deg_m"] == pytest.approx(speed_mps / 2, abs=0.45)
    assert abs(seen["change_90_deg_m"]) < 0.45


def test_where_nothing_leads_the_way_is_free_and_the_leader_as_fast_as_can_be() -> None:
    seen = read(remembering().reset(street_clips(SMALL)))
    assert (seen["gap_m"], seen["leader_mps"]) == (34.0, 20.0)


def test_what_stands_does_not_move_while_the_ego_passes() -> None:
    engine = remembering()
    state = engine.reset(street_clips(SMALL, cars_x_m=(18.0,)))
    for _ in range(4):
        state, _ = engine.step(state, DRIVE)
        seen = read(state)
        rays = np.array([seen[name] for name in TRAFFIC[:24]])
        # Slanting rays meet the edges of voxels elsewhere: all but a few agree within a voxel and a half.
        assert (np.abs(rays) < 0.61).mean() > 0.8 and np.abs(seen["leader_mps"]) < 1.7


def test_an_unknown_moment_before_means_that_nothing_moves() -> None:
    engine = remembering()
    alone = engine.reset(street_clips(SMALL, past=0, cars_x_m=(15.0,)))
    for state in (alone, replace(alone, solid_before=None, pose_before=None)):
        seen = read(state)
        assert all(seen[name] == 0 for name in TRAFFIC[:24]) and seen["leader_mps"] == 0


def test_the_vector_is_the_known_one_scaled_then_traffic_then_the_time_left() -> None:
    engine = remembering(horizon=8)
    state, _ = engine.step(engine.reset(street_clips(SMALL, cars_x_m=(15.0,))), DRIVE)
    world, action = engine.world, ACTION_MODES["kinematic"]
    plain, others, timed = (
        build_observation(n, world, action, horizon=8) for n in ("state", "traffic", "traffic_timed")
    )
    low, high = plain.space().low, plain.space().high  # type: ignore[attr-defined]
    assert [mode.space().shape for mode in (plain, others, timed)] == [(55,), (81,), (82,)]
    seen, known = others.observe(state), plain.observe(state)
    assert isinstance(seen, torch.Tensor) and isinstance(known, torch.Tensor)
    assert torch.equal(seen[:, :55], known / torch.from_numpy(high)) and len(FEATURES) + len(TRAFFIC) + 6 + 16 == 81
    last = timed.observe(state)
    assert isinstance(last, torch.Tensor) and torch.equal(last[:, :81], seen) and last[0, 81] == 7 / 8
    assert (others.space().low >= -1).all() and (others.space().high == 1).all() and low.shape == (55,)  # type: ignore[attr-defined]


def test_a_kept_state_goes_on_to_the_bit_and_older_files_know_no_moment_before(tmp_path: Path) -> None:
    engine = remembering()
    state, _ = engine.step(engine.reset(street_clips(SMALL, cars_x_m=(15.0,))), DRIVE)
    state.save(tmp_path / "new")
    same = State.load(tmp_path / "new", like=engine.reset(street_clips(SMALL)))
    assert read(same) == read(state) and read(engine.step(same, DRIVE)[0]) == read(engine.step(state, DRIVE)[0])
    with safe_open(str(tmp_path / "new"), "pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys() if not k.endswith("_before")}  # noqa: SIM118
        save_file(tensors, tmp_path / "old", metadata=file.metadata())
    old = State.load(tmp_path / "old", like=state)
    assert old.solid_before is None and old.pose_before is None
    filled = engine.with_before(old)
    assert filled.pose_before is not None and filled.pose_before.isnan().all()
    assert State.put(state, [0], old).solid_before is None


@pytest.mark.parametrize("finite", [False, True])
def test_the_horizon_terminates_or_truncates(street_data: Path, finite: bool) -> None:
    options = {"world": "transport", "index": str(street_data), "split": "val", "horizon": 3, "finite_horizon": finite}
    env = gym.make(ii_world_env.ENV_ID, observation="traffic_timed", device="cpu", **options)  # type: ignore[arg-type]
    seen, _ = env.reset(seed=0)
    for left in (1.0, 2 / 3, 1 / 3, 0.0):
        assert env.observation_space.contains(seen) and seen[-1] == pytest.approx(left)
        if left:
            seen, _, terminated, truncated, info = env.step(np.array((-1, 0), np.float32))
            assert (terminated, truncated) == ((finite, not finite) if info["end"] else (False, False))
    assert info["end"] == "horizon" and math.isfinite(seen.sum())
    sb3 = IIWorldVecEnv(1, observation="traffic", device="cpu", **options)
    sb3.seed(0)
    sb3.reset()
    infos = [sb3.step(np.array([(-1, 0)], np.float32))[3][0] for _ in range(3)]
    assert infos[-1]["end"] == "horizon" and infos[-1]["TimeLimit.truncated"] is not finite
