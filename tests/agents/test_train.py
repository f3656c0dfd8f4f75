"""PPO end to end, very short."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors import safe_open
from safetensors.torch import save_file
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from agents.evaluate import Evaluate, evaluate
from agents.planners.learned import PPOPlanner
from agents.policies import PolicyFacts, make_policy, save_policy
from agents.training import CURVE_COLUMNS, Train, train
from ii_world_env.ego.actions import ACTION_MODES
from ii_world_env.engine import Engine, EngineConfig
from ii_world_env.observations.build import build_observation
from ii_world_env.observations.extractor import OUTLIER, ClassMapExtractor, GroupMapExtractor, StandardExtractor
from ii_world_env.sb3_vec_env import IIWorldVecEnv
from world_model.core.errors import CheckpointError, ConfigError, OptionError
from world_model.core.grid import OCC3D
from world_model.worlds import TransportWorld


@pytest.fixture(scope="module")
def trained(street_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """A policy after a few updates."""
    options = Train(
        world="transport",
        index=street_data,
        split="val",
        timesteps=32,
        num_envs=2,
        rollout=8,
        minibatch=8,
        epochs=1,
        horizon=4,
        save_every=16,
        out=tmp_path_factory.mktemp("ppo") / "run",
        device="cpu",
    )
    train(options)
    return options


def test_training_leaves_model_curve_picture_and_config(trained: Train) -> None:
    names = {"model.zip", "policy.safetensors", "curve.csv", "log.csv", "curve.png", "config.json"}
    assert {p.name for p in trained.out.iterdir()} == names
    rows = np.genfromtxt(trained.out / "curve.csv", delimiter=",", names=True)
    assert rows.dtype.names == CURVE_COLUMNS and len(rows) >= 6
    assert np.isfinite(rows["episode_reward"]).all()


def test_all_environments_are_one_batch(trained: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """One forward of the world per step, however many environments there are."""
    from agents.training import _make

    venv = _make(replace(trained, num_envs=3))
    (engine,) = venv.get_attr("engine", indices=0)
    step, sizes = engine.world.step, []
    monkeypatch.setattr(engine.world, "step", lambda state, *a: (sizes.append(len(a[0])), step(state, *a))[1])
    venv.reset()
    _, _, _, infos = venv.step(np.zeros((3, 2), np.float32))
    assert sizes == [3] and len(infos) == 3
    venv.close()


def test_a_second_run_does_not_overwrite(trained: Train) -> None:
    before = (trained.out / "model.zip").read_bytes()
    with pytest.raises(OptionError, match="--resume"):
        train(trained)
    assert (trained.out / "model.zip").read_bytes() == before


def test_the_policy_drives_in_the_table(trained: Train, street_data: Path, tmp_path: Path) -> None:
    results = evaluate(
        Evaluate(
            planners=(f"ppo:{trained.out / 'model.zip'}",),
            world="transport",
            index=street_data,
            per_scene=1,
            horizon=4,
            out=tmp_path,
            device="cpu",
        )
    )
    (episodes,) = results.values()
    assert len(episodes) == 2 and all(e.steps >= 1 for e in episodes)


PAIRS = [(action, "state") for action in ACTION_MODES] + [
    ("kinematic", "tokens"),
    ("kinematic", "traffic_timed"),
    ("waypoints", "bev"),
    ("meta", "bev"),
]


@pytest.mark.parametrize(("action", "observation"), PAIRS)
def test_every_mode_is_trained_and_evaluated(tiny_data: Path, tmp_path: Path, action: str, observation: str) -> None:
    shared: dict[str, Any] = {"world": "small_worlds:Learned", "index": tiny_data, "action": action, "device": "cpu"}
    size = {"timesteps": 8, "num_envs": 2, "rollout": 4, "minibatch": 4, "epochs": 1, "horizon": 2}
    train(Train(observation=observation, split="all", out=tmp_path / "run", **size, **shared))
    for moved in (False, True):  # without its folder the observation mode follows from the policy's space
        policy = tmp_path / "run" / "model.zip"
        if moved:
            policy = policy.rename(tmp_path / "policy.zip")
        drive = Evaluate(planners=(f"ppo:{policy}",), split="all", per_scene=1, horizon=2, out=tmp_path / "e", **shared)
        (episodes,) = evaluate(drive).values()
        assert len(episodes) == 1 and episodes[0].steps >= 1


def test_policies_for_the_whole_occupancy_and_for_own_observations(street_data: Path, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"world": "transport", "index": street_data, "device": "cpu"}
    size = {"timesteps": 4, "num_envs": 1, "rollout": 4, "minibatch": 4, "epochs": 1, "horizon": 2}
    for name in ("occupancy", "small_observation:Speed"):
        out = tmp_path / name.partition(":")[0]
        train(Train(observation=name, split="all", out=out, **size, **shared))
        drive = Evaluate(planners=(f"ppo:{out / 'model.zip'}",), per_scene=1, horizon=1, out=tmp_path / "e", **shared)
        assert evaluate(drive)


def test_a_policy_for_other_observations_is_named(tiny_data: Path, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"index": tiny_data, "device": "cpu"}
    size = {"timesteps": 8, "num_envs": 2, "rollout": 4, "minibatch": 4, "epochs": 1, "horizon": 2}
    train(
        Train(world="small_worlds:Learned", observation="tokens", split="all", out=tmp_path / "run", **size, **shared)
    )
    with pytest.raises(CheckpointError, match="trained for observations"):
        PPOPlanner(Engine(TransportWorld(), EngineConfig()), tmp_path / "run" / "model.zip")


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Scene and frame of every episode that begins."""
    from ii_world_env.scenes import Scenes

    seen: list[tuple[int, int]] = []
    choose = Scenes.choose

    def noted(self: Scenes, rng: np.random.Generator, options: Any = None) -> Any:
        start = choose(self, rng, options)
        seen.append((start.scene, start.frame))
        return start

    monkeypatch.setattr(Scenes, "choose", noted)
    return seen


def weights_of(model: PPO) -> torch.Tensor:
    optimizer = model.policy.optimizer.state_dict()["state"].values()
    moments = [one[name].flatten() for one in optimizer for name in ("exp_avg", "exp_avg_sq")]
    return torch.cat([*(p.detach().flatten() for p in model.policy.parameters()), *moments])


SMALL_RUN = {"num_envs": 3, "rollout": 8, "minibatch": 12, "epochs": 2, "horizon": 3, "device": "cpu", "split": "all"}


def test_a_run_cut_in_two_is_the_uncut_one(small_data: Path, tmp_path: Path, starts: list[tuple[int, int]]) -> None:
    """The same episodes, learning curve, weights and moments of the optimizer, to the bit; cut amid episodes."""
    run = Train(
        world="small_worlds:Transport", index=small_data, observation="state", out=tmp_path / "whole", **SMALL_RUN
    )
    whole = train(replace(run, timesteps=120))
    seen, curve = list(starts), (run.out / "curve.csv").read_text()
    cut = replace(run, out=tmp_path / "cut")
    starts.clear()
    train(replace(cut, timesteps=48))
    np.random.rand(5), torch.rand(5)  # whatever else happens in between
    first = len(starts)
    again = train(replace(cut, timesteps=120, resume=True))
    assert starts[:first] + starts[first + 3 :] == seen  # three resets make room for the episodes that go on
    assert torch.equal(weights_of(whole), weights_of(again))
    assert (cut.out / "curve.csv").read_text() == curve and len(curve.splitlines()) > 20


def test_an_interrupted_run_goes_on_from_its_last_update(
    small_data: Path, clear_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a prior that remembers; and on other data with new episodes."""
    run = Train(
        world="small_worlds:Transport", index=small_data, observation="traffic", prior="idm", out=tmp_path / "a",
        timesteps=72, **SMALL_RUN,
    )  # fmt: skip
    whole = train(run)
    steps, wait = [0], IIWorldVecEnv.step_wait

    def interrupted(self: IIWorldVecEnv) -> Any:
        steps[0] += 1
        if steps[0] == 21:
            raise KeyboardInterrupt
        return wait(self)

    other = replace(run, out=tmp_path / "b")
    monkeypatch.setattr(IIWorldVecEnv, "step_wait", interrupted)
    assert train(other).num_timesteps == 48
    shutil.copytree(other.out, tmp_path / "c")
    assert torch.equal(weights_of(train(replace(other, resume=True))), weights_of(whole))
    elsewhere = train(replace(run, out=tmp_path / "c", index=clear_data, resume=True))
    assert elsewhere.num_timesteps == 72 and not torch.equal(weights_of(elsewhere), weights_of(whole))


def test_training_resumes_and_goes_on(trained: Train) -> None:
    model = train(replace(trained, timesteps=64, resume=True))
    assert model.num_timesteps == 64
    rows = np.genfromtxt(trained.out / "curve.csv", delimiter=",", names=True)
    assert rows["timesteps"].max() > 32 and rows["timesteps"].min() <= 16


def test_resuming_with_other_options_is_refused(trained: Train, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="action=delta"):
        train(replace(trained, timesteps=64, resume=True, action="delta"))
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(replace(trained, resume=True, out=tmp_path))


def test_damaged_and_foreign_policies_are_named(trained: Train, tmp_path: Path) -> None:
    engine = Engine(TransportWorld(), EngineConfig())
    with pytest.raises(CheckpointError, match="no policy"):
        PPOPlanner(engine, tmp_path / "model.zip")
    (tmp_path / "model.zip").write_bytes((trained.out / "model.zip").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        PPOPlanner(engine, tmp_path / "model.zip")
    with pytest.raises(CheckpointError, match="actions of shape"):
        PPOPlanner(Engine(TransportWorld(), EngineConfig(action="delta")), trained.out / "model.zip")


def test_a_policy_is_loaded_beside_a_users_own_agents(trained: Train, tmp_path: Path) -> None:
    """Nothing that is saved refers to the package `agents`, whose name many projects use."""
    (tmp_path / "agents.py").write_text("raise ImportError('of the user')")
    code = "import sys; from stable_baselines3 import PPO; PPO.load(sys.argv[1], device='cpu')"
    (tmp_path / "script.py").write_text(code)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(trained.out / "model.zip")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr


def test_policies_of_earlier_versions_find_their_extractor() -> None:
    """They are pickled with the name of the module that it was in."""
    from agents import extractor

    assert extractor.ClassMapExtractor is ClassMapExtractor


def test_policies_of_earlier_versions_read_single_classes(tmp_path: Path) -> None:
    mode = build_observation("bev", TransportWorld(), ACTION_MODES["kinematic"])
    actions = spaces.Box(-1.0, 1.0, (2,), np.float32)
    for grouped, kind in ((False, ClassMapExtractor), (True, GroupMapExtractor)):
        facts = PolicyFacts(action="kinematic", observation="bev", grouped=grouped)
        policy = make_policy(facts, mode.space(), actions)
        assert type(policy.features_extractor) is kind
        save_policy(tmp_path / "policy.safetensors", policy, facts)
        if not grouped:  # they do not say so
            with safe_open(str(tmp_path / "policy.safetensors"), "pt") as file:
                meta, weights = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            meta["facts"] = meta["facts"].replace(', "grouped": false', "")
            assert "grouped" not in meta["facts"]
            save_file(weights, tmp_path / "policy.safetensors", metadata=meta)
        planner = PPOPlanner(Engine(TransportWorld(), EngineConfig()), tmp_path / "policy.safetensors")
        assert type(planner.policy.features_extractor) is kind


def test_standardised_observations_are_saved_with_the_policy(street_data: Path, tmp_path: Path) -> None:
    options = Train(
        world="transport",
        index=street_data,
        split="val",
        observation="traffic_timed",
        prior="idm",
        reward="pdms_loss",
        finite_horizon=True,
        standard=True,
        timesteps=32,
        num_envs=2,
        rollout=8,
        minibatch=8,
        epochs=1,
        horizon=4,
        out=tmp_path,
        device="cpu",
    )
    model = train(options)
    extractor = model.policy.features_extractor
    assert isinstance(extractor, StandardExtractor)
    assert float(extractor.mean.abs().max()) > 0 and bool((extractor.deviation > 0).all())
    seen = torch.as_tensor(model.observation_space.high)[None]
    assert float(extractor(seen).abs().max()) <= OUTLIER
    planner = PPOPlanner(Engine(TransportWorld(), EngineConfig(horizon=4)), tmp_path / "policy.safetensors")
    assert torch.equal(planner.policy.features_extractor.mean, extractor.mean)
    again = train(replace(options, timesteps=48, resume=True))
    assert torch.equal(again.policy.features_extractor.mean, extractor.mean)
    with pytest.raises(OptionError, match="vector"):
        train(replace(options, observation="bev", out=tmp_path / "bev"))


@pytest.mark.parametrize("kind", [ClassMapExtractor, GroupMapExtractor])
@pytest.mark.parametrize("mode", ["bev", "occupancy"])
def test_extractor_is_small_and_sees_the_classes(mode: str, kind: type[ClassMapExtractor]) -> None:
    space = build_observation(mode, TransportWorld(), ACTION_MODES["kinematic"]).space()
    net = kind(space)
    assert sum(p.numel() for p in net.parameters()) < 250_000
    torch.manual_seed(0)
    if mode == "bev":
        batch = {k: torch.zeros(2, *v.shape) for k, v in space.items()}
        batch["bev"][1, 50:60, 50:60] = 4
    else:
        batch = torch.full((2, *OCC3D.shape), 17.0)
        batch[1, 100:110, 100:110, 3] = 4
    features = net(batch)
    assert features.shape == (2, net.features_dim) and not torch.allclose(features[0], features[1])


def test_extractor_refuses_other_observations() -> None:
    from gymnasium.spaces import Box

    with pytest.raises(ConfigError, match="occupancy"):
        ClassMapExtractor(Box(0, 1, (7,)))


@pytest.mark.parametrize("observation", ["bev", "occupancy"])
def test_normalised_class_ids_are_refused(street_data: Path, observation: str) -> None:
    options: dict[str, Any] = {"world": "transport", "data_root": str(street_data), "device": "cpu", "horizon": 2}
    env = IIWorldVecEnv(2, observation=observation, **options)
    policy = {"features_extractor_class": ClassMapExtractor, "net_arch": [8]}
    kind = "MultiInputPolicy" if observation == "bev" else "MlpPolicy"
    with pytest.raises(ConfigError, match="norm_obs_keys"):
        PPO(kind, VecNormalize(env), n_steps=4, batch_size=4, policy_kwargs=policy, device="cpu").learn(8)
    env.close()


def test_the_extractor_works_behind_the_wrappers_of_sb3(street_data: Path) -> None:
    options: dict[str, Any] = {"world": "transport", "data_root": str(street_data), "device": "cpu", "horizon": 2}
    for wrap in (lambda env: VecNormalize(env, norm_obs_keys=["ego", "route"]), lambda env: VecFrameStack(env, 3)):
        env = wrap(IIWorldVecEnv(2, **options))
        policy = {"features_extractor_class": ClassMapExtractor, "net_arch": [8]}
        PPO("MultiInputPolicy", env, n_steps=4, batch_size=4, n_epochs=1, policy_kwargs=policy, device="cpu").learn(8)
