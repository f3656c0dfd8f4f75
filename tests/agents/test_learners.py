"""Every learner trains, is judged, looks at held-out episodes, and goes on to the bit; curricula; normalisers."""

from __future__ import annotations

import csv
import importlib.util
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from small_worlds import Replay, Transport
from street import SMALL, street_clips

from agents.episodes import Episode
from agents.evaluate import Evaluate, evaluate
from agents.learning.learners import LEARNERS, learner_class, policy_class
from agents.learning.normalise import Normaliser
from agents.planners.learned import PolicyPlanner
from agents.policies import PolicyFacts, make_policy, save_policy
from agents.training import Train, train
from ii_world_env.ego.actions import ACTION_MODES
from ii_world_env.engine import Engine, EngineConfig
from ii_world_env.sb3_vec_env import IIWorldVecEnv
from world_model.core.errors import CheckpointError, OptionError
from world_model.training.report import Report
from world_model.worlds import TransportWorld

CONTRIB = ("recurrent_ppo", "tqc")
SMALL_RUN: dict[str, Any] = {
    **{"world": "small_worlds:Transport", "num_envs": 3, "rollout": 8, "minibatch": 12, "epochs": 1, "horizon": 3},
    **{"device": "cpu", "split": "all", "layers": (16,), "warmup": 24, "buffer": 90},
}


def needs(learner: str) -> None:
    if learner in CONTRIB and importlib.util.find_spec("sb3_contrib") is None:
        pytest.skip("the extra contrib is not installed")


def train_and_judge(data: Path, out: Path, learner: str, action: str, observation: str, **more: Any) -> None:
    """A few hundred steps; then the policy drives out of both of its files."""
    needs(learner)
    world = more.pop("world", SMALL_RUN["world"])
    shared: dict[str, Any] = {"world": world, "index": data, "action": action, "device": "cpu"}
    run = {**SMALL_RUN, "num_envs": 8, "horizon": 6, **more, **shared}
    train(Train(learner=learner, observation=observation, timesteps=256, out=out / "run", **run))
    driven: list[Episode] = []
    for file in (f"policy:{out / 'run' / 'policy.safetensors'}", f"{learner}:{out / 'run' / 'model.zip'}"):
        found = evaluate(Evaluate(planners=(file,), split="all", per_scene=1, horizon=3, out=out / "e", **shared))
        assert list(found) == [f"{learner}:run"]
        (episodes,) = found.values()
        assert episodes and all(e.steps >= 1 for e in episodes)
        assert driven in ([], episodes)
        driven = episodes


QUICK: list[tuple[str, str, str, dict[str, Any]]] = [
    ("sac", "kinematic", "traffic", {"normalise": "all"}),
    ("sac", "waypoints", "state", {"prior": "idm"}),
    ("tqc", "delta", "traffic_timed", {"prior": "idm", "comfort": True, "normalise": "reward"}),
    ("recurrent_ppo", "meta", "state", {}),
    ("recurrent_ppo", "kinematic", "traffic", {"prior": "idm", "normalise": "all"}),
]


@pytest.mark.parametrize(("learner", "action", "observation", "more"), QUICK)
def test_learners_train_and_are_judged(
    small_data: Path, tmp_path: Path, learner: str, action: str, observation: str, more: dict[str, Any]
) -> None:
    train_and_judge(small_data, tmp_path, learner, action, observation, **more)


GRID = [
    (learner, action, observation)
    for learner in LEARNERS
    for action in ACTION_MODES
    for observation in ("state", "traffic", "traffic_timed", "bev", "tokens")
    if learner in ("ppo", "recurrent_ppo") or action not in ("meta", "command")
]


@pytest.mark.slow
@pytest.mark.parametrize(("learner", "action", "observation"), GRID)
def test_the_whole_grid(tiny_data: Path, tmp_path: Path, learner: str, action: str, observation: str) -> None:
    train_and_judge(tiny_data, tmp_path, learner, action, observation, world="small_worlds:Learned")


def everything(model: Any) -> list[torch.Tensor]:
    """Weights and moments of every network and optimizer."""
    found = []
    for name, part in sorted(model.get_parameters().items()):
        values = part["state"].values() if "state" in part else [part]
        found += [value.flatten() for one in values for value in one.values() if isinstance(value, torch.Tensor)]
        assert found, name
    return found


def same(one: Any, other: Any) -> bool:
    pairs = zip(everything(one), everything(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


CUT: list[tuple[str, dict[str, Any]]] = [
    ("sac", {"observation": "traffic", "prior": "idm", "normalise": "all"}),
    ("recurrent_ppo", {"observation": "traffic", "normalise": "all"}),
]


@pytest.mark.parametrize(("learner", "more"), CUT)
def test_a_run_cut_in_two_is_the_uncut_one(
    small_data: Path, tmp_path: Path, learner: str, more: dict[str, Any]
) -> None:
    """Networks, optimizers, replay memory (which has wrapped around by then) and tables, to the bit."""
    needs(learner)
    run = Train(learner=learner, index=small_data, out=tmp_path / "whole", **{**SMALL_RUN, **more})  # type: ignore[arg-type]
    whole = train(replace(run, timesteps=144))
    cut = replace(run, out=tmp_path / "cut")
    train(replace(cut, timesteps=72))
    np.random.rand(5), torch.rand(5)  # whatever else happens in between
    again = train(replace(cut, timesteps=144, resume=True))
    assert same(whole, again)
    for name in ("curve.csv", "log.csv"):
        text = (cut.out / name).read_text()
        assert text == (run.out / name).read_text() and len(text.splitlines()) > 2
    if learner in ("sac", "tqc"):
        first, second = whole.replay_buffer, again.replay_buffer
        assert first.full and (first.pos, first.full) == (second.pos, second.full)
        for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


def test_a_curriculum_goes_on_in_the_world_that_it_was_in(small_data: Path, tmp_path: Path) -> None:
    """Cut at the change of the world, and in the middle of the second one."""
    run = Train(
        worlds=("small_worlds:Transport", "small_worlds:Replay"), index=small_data, observation="state",
        normalise="all", learner="sac", timesteps=96, **{k: v for k, v in SMALL_RUN.items() if k != "world"},
        out=tmp_path / "whole",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        order: list[str] = []
        for kind in (Transport, Replay):
            step = kind.step
            note = lambda self, *a, step=step: (order.append(type(self).__name__), step(self, *a))[1]  # noqa: E731
            patch.setattr(kind, "step", note)
        whole = train(run)
    assert order == ["Transport"] * 16 + ["Replay"] * 16
    for done in (48, 72):
        cut = replace(run, out=tmp_path / str(done))
        train(replace(cut, timesteps=done, stage=48))
        again = train(replace(cut, resume=True))
        assert same(whole, again) and (cut.out / "log.csv").read_text() == (run.out / "log.csv").read_text()


REPORTS: list[Report] = []


def test_looks_at_held_out_episodes_change_nothing_and_keep_the_best(small_data: Path, tmp_path: Path) -> None:
    REPORTS.clear()
    run = Train(learner="sac", index=small_data, observation="state", timesteps=96, out=tmp_path / "a", **SMALL_RUN)
    plain = train(run)
    looks = {"held_out_every": 48, "held_out": 2, "held_out_split": "all", "callback": f"{__name__}:keep"}
    looked = train(replace(run, out=tmp_path / "b", **looks))  # type: ignore[arg-type]
    assert same(plain, looked)
    with (tmp_path / "b" / "held_out.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["timesteps"] for row in rows] == ["48", "96"]
    assert all(0 <= float(row["pdms"]) <= 1 for row in rows)
    shown = [r for r in REPORTS if r.pictures]
    assert [r.step for r in shown] == [48, 96] and REPORTS[-1].last
    assert shown[0].pictures["held_out/episode"].dtype == np.uint8
    assert any("train/critic_loss" in r.values for r in REPORTS)
    PolicyPlanner(Engine(TransportWorld(SMALL), EngineConfig()), tmp_path / "b" / "best.safetensors")


def keep(report: Report) -> None:
    """A callback for the command."""
    REPORTS.append(report)


def test_ctrl_c_keeps_the_replay_memory(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the end of the rollout; the run goes on to the bit."""
    run = Train(learner="sac", index=small_data, observation="state", timesteps=96, out=tmp_path / "a", **SMALL_RUN)
    whole = train(run)
    steps, wait = [0], IIWorldVecEnv.step_wait

    def interrupted(self: IIWorldVecEnv) -> Any:
        steps[0] += 1
        if steps[0] == 11:
            os.kill(os.getpid(), signal.SIGINT)
        return wait(self)

    other = replace(run, out=tmp_path / "b")
    monkeypatch.setattr(IIWorldVecEnv, "step_wait", interrupted)
    assert train(other).num_timesteps == 48
    assert same(train(replace(other, resume=True)), whole)


def test_a_memory_belongs_to_an_episode(small_data: Path) -> None:
    """A row that begins anew inside a batch answers as alone; the other one goes on."""
    needs("recurrent_ppo")
    engine = Engine(TransportWorld(SMALL), EngineConfig(horizon=12))
    facts = PolicyFacts(action="kinematic", observation="state", learner="recurrent_ppo")
    torch.manual_seed(0)
    planner = PolicyPlanner.of(engine, facts, None)
    space = planner.observation.space()
    planner.policy = make_policy(facts, space, spaces.Box(-1.0, 1.0, (2,), np.float32))
    begin = engine.reset(street_clips(SMALL, batch=2, cars_x_m=(18.0,)))
    planner.reset(begin)
    first = planner.act(begin)
    state, _ = engine.step(begin, first)
    mixed = state.put([1], begin.index(1))
    answer = planner.act(mixed)
    assert torch.equal(answer[1], first[1])
    planner.reset(state)
    assert not torch.equal(answer[0], planner.act(state)[0])


def test_what_does_not_fit_is_refused(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="which is a choice"):
        Train(learner="sac", action="meta")
    with pytest.raises(OptionError, match="a vector of numbers"):
        train(Train(normalise="all", out=tmp_path / "a", **{**SMALL_RUN, "index": small_data}))
    with pytest.raises(OptionError, match="GiB"):
        train(Train(learner="sac", out=tmp_path / "a", **{**SMALL_RUN, "index": small_data, "buffer": 10**7}))
    with pytest.raises(OptionError, match="--worlds"):
        Train(stage=100)
    assert not (tmp_path / "a").exists()
    monkeypatch.setitem(__import__("sys").modules, "sb3_contrib", None)
    with pytest.raises(OptionError, match=r"iiworld\[contrib\]"):
        learner_class("tqc")
    with pytest.raises(OptionError, match="one of"):
        policy_class("dreamer", spaces.Box(-1, 1, (2,)))


def test_a_normaliser_that_does_not_fit_is_named(tmp_path: Path) -> None:
    engine = Engine(TransportWorld(SMALL), EngineConfig())
    facts = PolicyFacts(action="kinematic", observation="state", normalised=True)
    space = PolicyPlanner.of(engine, facts, None).observation.space()
    policy = make_policy(facts, space, spaces.Box(-1.0, 1.0, (2,), np.float32))
    for normaliser in (None, Normaliser(np.zeros(3), np.ones(3))):
        save_policy(tmp_path / "policy.safetensors", policy, facts, normaliser)
        with pytest.raises(CheckpointError, match="normaliser"):
            PolicyPlanner(engine, tmp_path / "policy.safetensors")
