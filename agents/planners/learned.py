"""A trained policy as a planner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from agents.learning.learners import LEARNERS, RECURRENT, learner_class
from agents.learning.normalise import Normaliser
from agents.planners.planner import follows, moment
from agents.planners.residual import Residual
from agents.policies import REMEDY, PolicyFacts, load_policy, read_facts
from agents.resume import described
from ii_world_env.ego.actions import ActionMode
from ii_world_env.engine import Engine, State
from ii_world_env.observations.build import OBSERVATION_MODES, Observation, build_observation, needs_before
from world_model.core.errors import CheckpointError, ConfigError, OptionError

BUNDLED = Path(__file__).parents[1] / "assets" / "policy.safetensors"
"""Trained in forecasts of the bundled geometric world; README.md beside it says how, and how well it drives."""


def bundled_policy(engine: Engine) -> PolicyPlanner:
    """The policy that comes with the package, as "ppo".

    Raises:
        CheckpointError: the engine has another action mode than kinematic.
    """
    planner = PolicyPlanner(engine, BUNDLED)
    planner.name = "ppo"
    return planner


class PolicyPlanner:
    """Acts with a policy that `python -m agents.train` or `python -m agents.imitate` saved.

    A policy says itself which prior it corrects. `policy.safetensors` executes nothing; a `model.zip` of
    stable-baselines3 holds pickled code: open only your own.

    Args:
        engine: says which actions there are and what the grid is.
        path: policy.safetensors or model.zip.

    Raises:
        CheckpointError: the file is missing, damaged, or was trained for other actions or observations.
        OptionError: its learner is of sb3-contrib, which is not installed.
    """

    observation: Observation
    policy: Any
    normaliser: Normaliser | None
    residual: Residual | None
    _memory: Any
    _moment: Tensor | None

    def __init__(self, engine: Engine, path: str | Path) -> None:
        path = Path(path)
        if path.suffix == ".safetensors":
            facts: PolicyFacts | None = read_facts(path)
            assert facts is not None
            if facts.action != engine.config.action:
                raise _other_actions(path, facts.action, engine)
            self._begin(engine, facts)
            self.observation = _observation(engine, facts.observation)
            seen = self._widened(self.observation.space())
            self.policy, self.normaliser = load_policy(path, facts, seen, _action_space(engine.action_mode))
        else:
            self.policy = _zip(path)
            _check_actions(self.policy.action_space, engine, path)
            written = getattr(self.policy, "facts", None)
            facts = None if written is None else PolicyFacts.of(written, str(path))
            self._begin(engine, facts)
            self.normaliser = Normaliser.of(getattr(self.policy, "statistics", {}))
            self.observation = self._observation(engine, self.policy.observation_space, path)
        engine.remembers |= needs_before(self.observation)
        self.name = f"{'ppo' if facts is None else facts.learner}:{path.parent.name or path.stem}"

    @classmethod
    def of(cls, engine: Engine, facts: PolicyFacts, policy: Any, normaliser: Normaliser | None = None) -> PolicyPlanner:
        """The planner of a policy in memory, perhaps in the middle of its training."""
        self = cls.__new__(cls)
        self.name = facts.learner
        self._begin(engine, facts)
        self.observation = _observation(engine, facts.observation)
        engine.remembers |= needs_before(self.observation)
        self.policy, self.normaliser = policy, normaliser
        return self

    def reset(self, state: State) -> None:
        """New episodes everywhere."""
        self._memory, self._moment = None, None
        if self.residual is not None:
            self.residual.reset(state)

    def act(self, state: State) -> Tensor:
        observed = self.observation.observe(state)
        if self.residual is None:
            return self._predict(observed, state)
        planned = self.residual.plan(state)
        correction = self._predict(self.residual.joined(observed, planned), state)
        return self.residual.actions(state, planned, correction)

    def _predict(self, observed: Tensor | dict[str, Tensor], state: State) -> Tensor:
        if isinstance(observed, dict):
            shown: Any = {k: v.cpu().numpy() for k, v in observed.items()}
        else:
            shown = observed.cpu().numpy()
        if self.normaliser is not None:
            shown = self.normaliser(shown)
        memory: dict[str, Any] = {}
        if self.recurrent:
            now = moment(state)
            before, starts = self._moment, torch.ones(len(now), dtype=torch.bool)
            if before is None or len(before) != len(now):
                self._memory = None
            else:
                starts = ~follows(before, state)
            memory = {"state": self._memory, "episode_start": starts.cpu().numpy()}
            self._moment = now
        actions, self._memory = self.policy.predict(shown, deterministic=True, **memory)
        return torch.as_tensor(actions, device=state.pose.device)

    def _begin(self, engine: Engine, facts: PolicyFacts | None) -> None:
        self.residual, self.normaliser = None, None
        self.recurrent = facts is not None and facts.learner == RECURRENT
        self._memory, self._moment = None, None
        if facts is not None and facts.prior is not None:
            self.residual = Residual(engine, facts.prior, facts.comfort)

    def _widened(self, space: spaces.Space[Any]) -> spaces.Space[Any]:
        return space if self.residual is None else self.residual.widened(space)

    def _observation(self, engine: Engine, space: spaces.Space[Any], path: Path) -> Observation:
        """The observation mode of a policy's space: the one that its run wrote down, or any that fits.

        Raises:
            CheckpointError: no mode has that space in this world.
        """
        try:
            written = [str(json.loads((path.parent / "config.json").read_text(encoding="utf-8-sig"))["observation"])]
        except (OSError, ValueError, KeyError, TypeError):
            written = []  # a policy without its run's folder
        for name in (*written, *OBSERVATION_MODES):
            try:
                observation = _observation(engine, name)
            except ConfigError:
                continue  # a mode that only other worlds have
            if self._widened(observation.space()) == space:
                return observation
        raise CheckpointError(
            f"{path} was trained for observations {space}",
            f"those of {', '.join((*written, *OBSERVATION_MODES))} in this world",
            "choose the world and the action mode that it was trained with",
        )


def _observation(engine: Engine, name: str) -> Observation:
    config = engine.config
    return build_observation(name, engine.world, engine.action_mode, config.footprint, config.horizon)


PPOPlanner = PolicyPlanner
"""Its name of before."""


def _zip(path: Path) -> BaseAlgorithm:
    if not path.is_file():
        raise CheckpointError(f"no policy at {path}", "a model zip of stable-baselines3", REMEDY)
    try:
        facts = described(path).get("facts")
        learner = facts.get("learner") if isinstance(facts, dict) else None
        return learner_class(learner if learner in LEARNERS else "ppo").load(path, device="cpu")
    except OptionError:
        raise
    except Exception as error:  # SB3 lets every kind of pickle, zip and torch error through
        raise CheckpointError(f"{path} cannot be read ({error})", "a model zip of stable-baselines3", REMEDY) from error


def _check_actions(space: spaces.Space[Any], engine: Engine, path: Path) -> None:
    wanted = _action_space(engine.action_mode)
    same = type(space) is type(wanted) and space.shape == wanted.shape
    if not same or getattr(space, "n", 0) != len(engine.action_mode.choices):
        found = f"{space.n} choices" if isinstance(space, spaces.Discrete) else f"shape {space.shape}"
        raise _other_actions(path, found, engine)


def _other_actions(path: Path, found: str, engine: Engine) -> CheckpointError:
    return CheckpointError(
        f"{path} was trained for actions of {found}",
        f"{_action_space(engine.action_mode)} for action={engine.config.action!r}",
        "choose the action mode that it was trained with",
    )


def _action_space(mode: ActionMode) -> spaces.Space[Any]:
    return spaces.Discrete(len(mode.choices)) if mode.choices else spaces.Box(-1.0, 1.0, mode.shape, np.float32)
