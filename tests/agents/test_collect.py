"""Drives as a data set: what is recorded is what an environment gives, a stopped run ends the same, Minari reads it."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agents import collect as command
from agents.collect import Collect, collect
from agents.episodes import fixed_starts
from agents.offline.recording import load, record, save
from agents.planners.build import build_planner
from ii_world_env import ENV_ID
from ii_world_env.faces.config import EnvConfig
from ii_world_env.faces.episodes import Episodes
from world_model.core.errors import OptionError


def options(data: Path, **changes: Any) -> dict[str, Any]:
    return {
        "world": "small_worlds:Replay",
        "index": str(data),
        "device": "cpu",
        "split": "all",
        "horizon": 4,
        **changes,
    }


@pytest.mark.parametrize(
    ("planner", "changes"),
    [
        ("idm", {"observation": "state"}),
        ("log_replay", {"observation": "bev", "action": "meta"}),
        ("stand_still+comfort", {"observation": "occupancy", "action": "waypoints"}),
    ],
)
def test_what_is_recorded_is_what_an_environment_gives(planner: str, changes: dict[str, Any], small_data: Path) -> None:
    keywords = options(small_data, **changes)
    episodes = Episodes(EnvConfig.of(keywords), 3)
    starts = fixed_starts(episodes.scenes, 2)
    recorded = record(episodes, build_planner(planner, episodes.engine), planner, starts[:3])
    recorded += record(episodes, build_planner(planner, episodes.engine), planner, starts[3:])
    assert len(recorded) == len(starts) == 4
    env = gym.make(ENV_ID, **keywords)
    for drive in recorded:
        observed, info = env.reset(options={"scene": drive.scene, "frame": drive.frame})
        for step in range(len(drive.rewards) + 1):
            seen = drive.observations if isinstance(drive.observations, dict) else {"": drive.observations}
            for name, values in seen.items():
                expected = observed[name] if name else observed
                np.testing.assert_allclose(values[step], expected, atol=1e-4)
                assert values.dtype == expected.dtype
            assert drive.infos["progress_m"][step] == pytest.approx(info["progress_m"], abs=1e-4)
            assert {k: v[step] for k, v in drive.infos["reward_terms"].items()} == pytest.approx(
                info["reward_terms"], abs=1e-4
            )
            if step == len(drive.rewards):
                break
            assert env.action_space.contains(drive.actions[step]) or drive.actions[step] in env.action_space
            observed, reward, terminated, truncated, info = env.step(drive.actions[step])
            assert reward == pytest.approx(drive.rewards[step], abs=1e-4)
            assert (terminated, truncated) == (drive.terminations[step], drive.truncations[step])
        assert info["end"] == drive.end and (terminated or truncated)


def test_parts_are_read_back_and_damaged_ones_are_not(small_data: Path, tmp_path: Path) -> None:
    episodes = Episodes(EnvConfig.of(options(small_data)), 2)
    drives = record(episodes, build_planner("idm", episodes.engine), "idm", fixed_starts(episodes.scenes, 1))
    save(tmp_path / "part.npz", drives)
    for one, other in zip(drives, load(tmp_path / "part.npz") or [], strict=True):
        assert (one.planner, one.scene, one.frame, one.end) == (other.planner, other.scene, other.frame, other.end)
        np.testing.assert_array_equal(one.observations["bev"], other.observations["bev"])
        np.testing.assert_array_equal(one.infos["reward_terms"]["progress"], other.infos["reward_terms"]["progress"])
    (tmp_path / "part.npz").write_bytes((tmp_path / "part.npz").read_bytes()[:500])
    assert load(tmp_path / "part.npz") is None and load(tmp_path / "none.npz") is None


def test_without_minari_it_says_so_before_it_drives(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "minari.dataset.minari_dataset", None)
    with pytest.raises(OptionError, match="Minari cannot be imported") as caught:
        collect(Collect(index=small_data, out=tmp_path / "out"))
    assert "iiworld[minari]" in caught.value.remedy and not (tmp_path / "out").exists()
    for wrong in ({"planners": ("idm", "idm")}, {"planners": ("fly",)}, {"per_scene": 0}):
        with pytest.raises(OptionError):
            Collect(**wrong)  # type: ignore[arg-type]  # wrong on purpose, or by name


def test_a_stopped_run_goes_on_to_the_same_data(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without Minari: what would be written is compared."""
    written: dict[str, list[Any]] = {}
    monkeypatch.setattr(command, "check_minari", lambda name: None)

    def keep(root: Path, facts: Any, episodes: Any) -> Path:
        written[root.name] = list(episodes)
        return root / facts.name

    monkeypatch.setattr(command, "write_minari", keep)
    drives = {"world": "small_worlds:Transport", "split": "all", "horizon": 3, "per_scene": 3, "batch": 2}
    run = Collect(index=small_data, device="cpu", observation="state", out=tmp_path / "whole", **drives)  # type: ignore[arg-type]  # wrong on purpose, or by name
    collect(run)
    other, driven = Collect(**{**vars(run), "out": tmp_path / "cut"}), []

    def stopped(*args: Any) -> Any:
        driven.append(args)
        if len(driven) == 3:
            raise KeyboardInterrupt
        return record(*args)

    monkeypatch.setattr(command, "record", stopped)
    with pytest.raises(KeyboardInterrupt):
        collect(other)
    with pytest.raises(OptionError, match="holds drives of"):
        collect(Collect(**{**vars(other), "horizon": 4}))
    collect(other)
    assert len(driven) == 3 + 4 and len(written["cut"]) == len(written["whole"]) == 12
    for one, again in zip(written["whole"], written["cut"], strict=True):
        assert (one.planner, one.scene, one.frame, one.end) == (again.planner, again.scene, again.frame, again.end)
        for name in ("observations", "actions", "rewards"):
            np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    assert "idm: 12/12 episodes" in capsys.readouterr().out


@pytest.mark.parametrize("observation", ["bev", "state", "occupancy"])
def test_minari_loads_it(observation: str, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    run = Collect(
        index=small_data, world="small_worlds:Transport", split="all", device="cpu", observation=observation, horizon=3,
        per_scene=2, batch=3, out=Path("there"),
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    collect(run)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "there"))
    data = minari.load_dataset("iiworld-drives-v0")
    assert data.total_episodes == 8 and data.total_steps == sum(len(episode.rewards) for episode in data)
    facts = list(data.storage.get_episode_metadata(range(8)))
    assert [str(fact["planner"]) for fact in facts] == ["log_replay"] * 4 + ["idm"] * 4
    same = options(small_data, world="small_worlds:Transport", observation=observation, horizon=3)
    episodes = Episodes(EnvConfig.of(same), 3)
    expected = record(
        episodes, build_planner("log_replay", episodes.engine), "log_replay", fixed_starts(episodes.scenes, 2)[:3]
    )
    for episode, drive in zip(data, expected):
        seen, right = (o if isinstance(o, dict) else {"": o} for o in (episode.observations, drive.observations))
        assert seen.keys() == right.keys()
        for name in seen:
            np.testing.assert_array_equal(seen[name], right[name])
        assert len(episode.infos["progress_m"]) == len(episode.rewards) + 1
        assert episode.terminations[-1] or episode.truncations[-1]
    env = data.recover_environment()
    assert env.observation_space == data.observation_space and env.action_space == data.action_space
    with pytest.raises(OptionError, match="exists"):
        collect(run)


def test_d3rlpy_learns_from_it(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("minari", "h5py", "d3rlpy"):
        pytest.importorskip(name)
    import d3rlpy

    collect(
        Collect(
            index=small_data, world="small_worlds:Transport", split="all", device="cpu", observation="state", horizon=3,
            per_scene=2, batch=4, out=tmp_path,
        )
    )  # fmt: skip
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    minari: types.ModuleType = pytest.importorskip("minari")
    data = list(minari.load_dataset("iiworld-drives-v0"))
    joined = d3rlpy.dataset.MDPDataset(
        observations=np.concatenate([e.observations[:-1] for e in data]),
        actions=np.concatenate([e.actions for e in data]),
        rewards=np.concatenate([e.rewards for e in data]),
        terminals=np.concatenate([e.terminations for e in data]),
        timeouts=np.concatenate([e.truncations for e in data]),
    )
    assert joined.size() == 8
    learner = d3rlpy.algos.BCConfig(batch_size=8).create(device="cpu:0")
    learner.fit(
        joined, n_steps=2, n_steps_per_epoch=2, show_progress=False, logger_adapter=d3rlpy.logging.NoopAdapterFactory()
    )
    assert learner.predict(data[0].observations[:1]).shape == (1, 2)
