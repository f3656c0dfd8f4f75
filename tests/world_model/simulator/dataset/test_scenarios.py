"""Data sets of recorded scenarios: what is drawn, determinism, resumption, and driving on in them."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import ii_world_env  # noqa: F401
from tests.formats.scenarionet import PLACE, nuscenes_like, waymo_like, write_scenario
from tests.real_files import REAL
from world_model.core.errors import ConfigError, DataError, OptionError
from world_model.core.grid import CLASS_ID, DRIVEABLE, FREE
from world_model.data.clips import load_clips
from world_model.data.index import SceneIndex
from world_model.data.label_check import agreement
from world_model.data.scenarios.scenarionet import find_scenarios, read_scenario
from world_model.make_synthetic import Arguments
from world_model.make_synthetic import main as make
from world_model.prepare import DRAWN, Prepare, prepare
from world_model.simulator.dataset import rebuild
from world_model.simulator.dataset.rebuild import dataset_config, recorded_state
from world_model.simulator.dataset.scenarios import scenario_path
from world_model.simulator.town import town
from world_model.simulator.town.scenario_town import build_scenario_town, origin_of
from world_model.simulator.traffic.replay import read_log
from world_model.worlds.simulated import SimulatedWorld


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenarios")
    write_scenario(folder / "a", nuscenes_like())
    write_scenario(folder / "b", waymo_like())
    return folder


@pytest.fixture(scope="module")
def index(source: Path, tmp_path_factory: pytest.TempPathFactory) -> SceneIndex:
    out = tmp_path_factory.mktemp("drawn") / "data"
    make(Arguments(scenarios=source, out=out, val_fraction=0.5))
    return prepare(Prepare(data_root=out, check_labels=True))


def test_what_is_drawn(index: SceneIndex) -> None:
    assert sorted(zip(index.scene_name.tolist(), index.scene_split.tolist())) == [
        ("eb4b91b1", "train"), ("scene-0001", "val"),
    ]  # fmt: skip
    assert index.source == "scenarionet (nuscenes, waymo; drawn labels)" and len(index.token) == 24
    road, right = agreement(index, list(range(24)))
    assert road == 1 and right is not None and right > 0.9
    assert {CLASS_ID[n] for n in ("car", "truck", "bicycle", "pedestrian")} <= set(index.box_class.tolist())


def test_ego_and_agents_are_where_they_were(index: SceneIndex) -> None:
    scene = index.scene_name.tolist().index("scene-0001")
    frames = index.frames(scene)
    moved = index.translation_m[frames] - index.translation_m[frames[0]]
    np.testing.assert_allclose(moved[:, 0], 3.0 * np.arange(12), atol=1e-3)
    boxes = index.boxes(frames[6])
    car = boxes.select(boxes.class_id == CLASS_ID["car"])
    np.testing.assert_allclose(car.center_m[0, :2], (60 - 18 - 18, 3.5), atol=1e-3)
    np.testing.assert_allclose(car.velocity_mps[0], (-6, 0), atol=0.05)
    assert CLASS_ID["pedestrian"] not in index.boxes(frames[0]).class_id.tolist()


def test_equal_bytes(index: SceneIndex, source: Path, tmp_path: Path) -> None:
    make(Arguments(scenarios=source, out=tmp_path / "again", val_fraction=0.5))
    for path in sorted(Path(index.root).rglob("*")):
        if path.is_file() and path.suffix in (".npz", ".json") and "index" not in path.name:
            again = tmp_path / "again" / path.relative_to(index.root)
            assert again.read_bytes() == path.read_bytes(), path
    with pytest.raises(DataError, match="another synthetic data set"):
        make(Arguments(scenarios=source / "a", out=tmp_path / "again"))


def test_nothing_is_written_for_broken_scenarios(source: Path, tmp_path: Path) -> None:
    bad = tmp_path / "in"
    write_scenario(bad, nuscenes_like())
    (bad / "sd_zzz.pkl").write_bytes(b"\x80\x04]")
    for folder, match in ((bad, "sd_zzz"), (tmp_path / "none", "holds no sd_")):
        with pytest.raises(DataError, match=match):
            make(Arguments(scenarios=folder, out=tmp_path / "new" / "out"))
    with pytest.raises(ConfigError, match="val_fraction"):
        make(Arguments(scenarios=bad, out=tmp_path / "new" / "out", val_fraction=1.5))
    with pytest.raises(OptionError, match="--wild"):
        make(Arguments(scenarios=bad, out=tmp_path / "new" / "out", wild=0.5))
    write_scenario(bad / "copy", nuscenes_like())
    (bad / "sd_zzz.pkl").unlink()
    with pytest.raises(DataError, match="both the scenario scene-0001"):
        make(Arguments(scenarios=bad, out=tmp_path / "new" / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_town(index: SceneIndex) -> None:
    scenario, _ = read_log(scenario_path(Path(index.root), "scene-0001"))
    town, again = build_scenario_town(scenario), build_scenario_town(scenario)
    np.testing.assert_array_equal(town.columns, again.columns)
    i, j = np.floor((PLACE + np.array((60, 0)) - origin_of(scenario)) / 0.4).astype(int)
    road = (town.columns[i, j - 30 : j + 30, 2] == DRIVEABLE).nonzero()[0] - 30
    assert road.max() - road.min() == 19, "the ring is 8 m wide"
    truck = np.floor((PLACE + np.array((25, -6.5)) - origin_of(scenario)) / 0.4).astype(int)
    assert town.columns[truck[0], truck[1], 2] == DRIVEABLE, "a place to park"


@pytest.mark.skipif(not find_scenarios(REAL / "scenarionet"), reason="no real scenarios here")
def test_real_roads() -> None:
    """Recorded egos and moving vehicles drive on road."""
    for path in find_scenarios(REAL / "scenarionet")[2::3]:
        (scenario,) = read_scenario(path)
        ground = build_scenario_town(scenario).columns[..., 2]
        i, j = np.floor((scenario.ego[:, :2] - origin_of(scenario)) / 0.4).astype(int).T
        assert (ground[i, j] == DRIVEABLE).mean() >= 0.98, path
        moved = np.hypot(*np.ptp(scenario.place[..., :2], 0).T) > 5
        rows = scenario.present & moved & np.isin(scenario.label, (CLASS_ID["car"], CLASS_ID["truck"], CLASS_ID["bus"]))
        i, j = np.floor((scenario.place[rows][:, :2] - origin_of(scenario)) / 0.4).astype(int).T
        inside = (i >= 0) & (j >= 0) & (i < 1200) & (j < 1200)
        assert (ground[i[inside], j[inside]] == DRIVEABLE).mean() >= 0.95, path


def test_driving_on(index: SceneIndex) -> None:
    """The recorded frame is met, others replay the log, and the ego goes where it is driven."""
    config = dataset_config(index)
    assert config.scenes == 2
    frame = index.frames(index.scene_name.tolist().index("scene-0001"))[4]
    world, clips = SimulatedWorld(), load_clips(index, [frame], past=4, future=2)
    state = world.reset(clips)
    log = recorded_state(index, frame)
    logged = torch.eye(4).repeat(1, 1, 1)
    logged[:, 0, 3] = -3.0
    followed = world.step(state, logged, torch.tensor([2]))
    truth = index.read_labels(frame + 1)
    wrong = (world.occupancy(followed)[0].numpy() != truth).sum() / (truth != FREE).sum()
    assert wrong < 0.01
    stood = world.step(state, torch.eye(4)[None], torch.tensor([2]))
    np.testing.assert_allclose(stood.scenes[0].motion.xy, followed.scenes[0].motion.xy)
    assert stood.scenes[0].ego.x == log.ego.x and followed.scenes[0].ego.x == pytest.approx(log.ego.x + 3)
    _, driven = world.drive(state, torch.tensor([2]))
    assert driven[0, 0, 3].item() == pytest.approx(-3.0, abs=1e-3)  # the log's own motion


def test_batch_is_its_rows(index: SceneIndex) -> None:
    frames = [index.frames(scene)[4] for scene in (0, 1)]
    world, motion = SimulatedWorld(), torch.eye(4).repeat(2, 1, 1)
    motion[:, 0, 3] = torch.tensor((-2.0, 0.5))
    state = world.step(world.reset(load_clips(index, frames, past=4, future=0)), motion, torch.tensor([2, 2]))
    both = world.occupancy(state)
    for row, frame in enumerate(frames):
        alone = world.reset(load_clips(index, [frame], past=4, future=0))
        alone = world.step(alone, motion[row : row + 1], torch.tensor([2]))
        torch.testing.assert_close(world.occupancy(alone)[0], both[row])


def test_prepare_draws(source: Path, index: SceneIndex, tmp_path: Path) -> None:
    """`prepare` finds scenarios, draws them beside the index, and makes the same data set."""
    found = prepare(Prepare(data_root=source, out=tmp_path / "iiworld_index.npz", val_fraction=0.5))
    assert found.source == index.source and sorted(found.token) == sorted(index.token)
    assert (tmp_path / DRAWN / "scenarios" / "scene-0001.npz").exists()
    np.testing.assert_array_equal(found.read_labels(3), index.read_labels(3))
    assert dataset_config(found).held_out == 1
    with pytest.raises(OptionError, match="scenarionet"):
        prepare(Prepare(data_root=source, out=tmp_path / "iiworld_index.npz", source="nuscenes", val_fraction=0.5))
    with pytest.raises(OptionError, match="--version"):
        prepare(Prepare(data_root=source, out=tmp_path / "other" / "index.npz", version="v1.0-mini"))
    assert not (tmp_path / "other").exists()


def test_states_of_scenes_not_read_yet(index: SceneIndex) -> None:
    """A state that was saved elsewhere can be driven on as soon as its data set is known."""
    frame = index.frames(index.scene_name.tolist().index("scene-0001"))[4]
    state = recorded_state(index, frame)
    town._recorded.clear()
    town._alive.clear()
    town._build_town.cache_clear()
    with pytest.raises(DataError, match="not read yet"):
        town.town_of(state)
    rebuild._read.cache_clear()
    dataset_config(index)
    assert town.town_of(state).log is not None


def test_environment(index: SceneIndex) -> None:
    env = gym.make("IIWorld-nuScenes-v0", index=index.root, split="val", world="simulated", horizon=3)
    env.reset(seed=0)
    for _ in range(2):
        _, reward, *_ = env.step(np.zeros(env.action_space.shape, np.float32))
        assert np.isfinite(reward)
    env.close()


def test_mark_is_checked(index: SceneIndex, tmp_path: Path) -> None:
    mark = json.loads((Path(index.root) / "synthetic.json").read_text())
    assert "root" not in mark
    for wrong in ([["../x", "a", "b", [0.5]]], [["x", "a", "b", []]], [["x"]], [], 3):
        (tmp_path / "synthetic.json").write_text(json.dumps({**mark, "drives": wrong}))
        changed = SceneIndex.load(Path(index.root) / "iiworld_index.npz")
        object.__setattr__(changed, "root", tmp_path)
        with pytest.raises(DataError, match="does not describe"):
            dataset_config(changed)


def test_scenarios_on_hills_are_driven_on(source: Path, tmp_path: Path) -> None:
    make(Arguments(scenarios=source / "a", out=tmp_path / "hills", val_fraction=0.0, terrain="hills"))
    index = prepare(Prepare(data_root=tmp_path / "hills"))
    clips, world = load_clips(index, [6], 4, 4, False), SimulatedWorld()
    labels = world.occupancy(world.reset(clips))
    assert torch.equal(labels, clips.occupancy[:, -1])
    assert len(torch.nonzero(labels == DRIVEABLE)[:, 3].unique()) > 1
