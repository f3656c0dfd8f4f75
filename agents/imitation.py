"""Behaviour cloning and DAgger (Ross, Gordon and Bagnell, AISTATS 2011): a policy that learns what a planner does."""

from __future__ import annotations

import csv
import io
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents.learning.held_out import held_out_episodes
from agents.planners.build import build_planner, check_planner
from agents.planners.planner import Planner
from agents.policies import POLICY_FILE, PolicyFacts, make_policy, save_policy
from agents.prior_env import PriorVecEnv
from ii_world_env.faces.options import DriveOptions
from ii_world_env.sb3_vec_env import IIWorldVecEnv
from world_model.core.errors import OptionError
from world_model.core.files import check_writable, write_json, write_text
from world_model.training.report import csv_text
from world_model.training.report_options import ReportOptions

CURVE_COLUMNS = ("round", "samples", "loss", "episodes", "progress", "collision", "off_road")


@dataclass(frozen=True, kw_only=True)
class Imitate(ReportOptions, DriveOptions):
    """Teach a policy to drive like a planner: behaviour cloning with one round, DAgger with more.

    Try:
      python -m agents.imitate --teacher idm --world transport --observation traffic
      python -m agents.imitate --teacher log_replay --rounds 1 --out outputs/cloned
      python -m agents.evaluate --planners idm ppo:outputs/imitation/policy.safetensors
    """

    teacher: str = "idm"
    """Any planner of agents.evaluate; log_replay is the recorded driver."""
    rounds: int = 5
    """In the first the teacher drives; in each later one half as often as before, the policy else. 1: cloning."""
    steps: int = 2_000
    """Environment steps in a round."""
    epochs: int = 20
    """Passes over all samples after each round."""
    minibatch: int = 128
    """Samples in one gradient step."""
    learning_rate: float = 1e-3
    """Of Adam."""
    num_envs: int = 8
    """Environments side by side, as one batch."""
    split: str | None = None
    """Which scenes to learn in. If not given: train, or all of the bundled demo scenes."""
    observation: str = "traffic"
    """As in agents.train."""
    prior: str | None = None
    """Scripted planner whose actions the policy corrects within bounds, e.g. idm; None: it acts alone."""
    comfort: bool = False
    """With a prior: let the comfort limiter have the last word."""
    layers: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers behind the features."""
    seed: int = 0
    """Of weights, scenes and who drives."""
    out: Path = Path("outputs/imitation")
    """Folder for policy.safetensors, curve.csv and config.json."""

    def __post_init__(self) -> None:
        check_planner(self.teacher)
        self.check_counts("rounds", "steps", "epochs", "minibatch", "num_envs", "horizon")
        if self.comfort and self.prior is None:
            raise OptionError("--comfort without --prior", "a prior, such as idm", "add --prior idm")

    def facts(self) -> PolicyFacts:
        """How the policy drives."""
        names = ("action", "observation", "prior", "comfort", "layers")
        return PolicyFacts(**{name: getattr(self, name) for name in names}, grouped=True)


def imitate(options: Imitate) -> ActorCriticPolicy:
    """Collect, learn, and write the policy after every round.

    Raises:
        OptionError: the folder already holds a policy.
    """
    path = options.out / POLICY_FILE
    if path.exists():
        raise OptionError(f"{path} exists", "an empty folder", "choose another --out")
    check_writable(options.out)
    torch.manual_seed(options.seed)
    split = options.split or ("all" if options.index is None else "train")
    inner = IIWorldVecEnv(options.num_envs, split=split, observation=options.observation, **options.keywords())
    venv: VecEnv = inner if options.prior is None else PriorVecEnv(inner, options.prior, options.comfort)
    venv.seed(options.seed)
    teacher = build_planner(options.teacher, inner.vector.engine, inner.vector.scenes)
    policy: ActorCriticPolicy = make_policy(
        options.facts(), venv.observation_space, venv.action_space, options.learning_rate
    )
    plain = json.loads(json.dumps(asdict(options), default=str))
    look, looks = held_out_episodes(options, options, options.world, options.facts()), list[dict[str, float]]()
    reports = options.reports(options.out, plain)
    write_json(options.out / "config.json", plain)
    samples, curve, clock = Samples(inner, venv, teacher, options.seed), [], time.perf_counter()
    for number in range(options.rounds):
        ends = samples.collect(policy, options.steps, 0.5**number)
        loss = _fit(policy, samples, options)
        means = np.mean(ends, 0) if ends else np.full(3, np.nan)
        curve.append((number, len(samples), loss, len(ends), *means))
        save_policy(path, policy, options.facts())
        _write_curve(options.out / "curve.csv", curve)
        reports(number + 1, dict(zip(CURVE_COLUMNS[1:], map(float, curve[-1][1:]), strict=True)))
        if look is not None and ((number + 1) % options.held_out_every == 0 or number + 1 == options.rounds):
            found = look(policy, None)
            looks.append({"round": number, **found.values})
            write_text(options.out / "held_out.csv", csv_text(looks))
            reports(number + 1, {f"held_out/{name}": v for name, v in found.values.items()}, found.pictures)
        print(
            f"  round {number + 1}/{options.rounds}: {len(samples)} samples, {time.perf_counter() - clock:.0f} s, loss "
            f"{loss:.4f}; {len(ends)} episodes: progress {means[0]:.0%}, collision {means[1]:.0%}",
            flush=True,
        )
    reports(options.rounds, last=True)
    venv.close()
    print(f"wrote {POLICY_FILE}, curve.csv and config.json in {options.out}")
    return policy


class Samples:
    """What was observed, and what the teacher would have done there.

    Args:
        inner: the environments.
        venv: the same, perhaps behind a prior.
        teacher: of the engine of ``inner``.
        seed: of who drives.
    """

    def __init__(self, inner: IIWorldVecEnv, venv: VecEnv, teacher: Planner, seed: int) -> None:
        self.inner, self.venv, self.teacher = inner, venv, teacher
        self._random = np.random.default_rng(seed)
        self.observed: list[Any] = []
        self.wanted: list[NDArray[Any]] = []
        self._now: Any = venv.reset()
        teacher.reset(inner.vector.state)

    def __len__(self) -> int:
        return sum(map(len, self.wanted))

    def collect(self, policy: ActorCriticPolicy, steps: int, teacher_share: float) -> list[list[float]]:
        """Drive for at least ``steps`` environment steps; returns progress, collision, off_road of every episode."""
        ends: list[list[float]] = []
        for _ in range(-(-steps // self.venv.num_envs)):
            state = self.inner.vector.state
            wanted = self._targets(self.teacher.act(state))
            self.observed.append(self._now)
            self.wanted.append(wanted)
            own, _ = policy.predict(self._now, deterministic=True)
            by_teacher = self._random.random(self.venv.num_envs) < teacher_share
            chosen = np.where(by_teacher.reshape(-1, *[1] * (wanted.ndim - 1)), wanted, own)
            self._now, _, done, infos = self.venv.step(chosen)
            for info in (info for info, over in zip(infos, done, strict=True) if over):
                share = 1.0 if info["goal_m"] < 1e-6 else float(np.clip(info["progress_m"] / info["goal_m"], 0, 1))
                ends.append([share, float(info["end"] == "collision"), float(info["end"] == "off_road")])
        return ends

    def arrays(self) -> tuple[Any, Tensor]:
        """All observations (N, ...) as tensors or a dict of them, and what was wanted (N, ...)."""
        wanted = torch.from_numpy(np.concatenate(self.wanted))
        if isinstance(self._now, dict):
            joined = {name: np.concatenate([one[name] for one in self.observed]) for name in self._now}
            return {name: torch.from_numpy(value) for name, value in joined.items()}, wanted
        return torch.from_numpy(np.concatenate(self.observed)), wanted

    def _targets(self, actions: Tensor) -> NDArray[Any]:
        """The teacher's actions in the learner's action space."""
        count = self.venv.num_envs
        if isinstance(self.venv.action_space, spaces.Discrete):
            return actions.reshape(count).cpu().numpy()
        if isinstance(self.venv, PriorVecEnv):
            actions = self.venv.correction(actions)
        return actions.float().cpu().numpy().reshape(count, *self.inner.action_space.shape)  # type: ignore[misc]  # a box


def _fit(policy: ActorCriticPolicy, samples: Samples, options: Imitate) -> float:
    """Minimise the squared error of the mean action, or the log loss of a choice; returns the mean of the last pass."""
    observed, wanted = samples.arrays()
    draw, losses = torch.Generator().manual_seed(options.seed), list[float]()
    policy.set_training_mode(True)
    for _ in range(options.epochs):
        losses = []
        for rows in torch.split(torch.randperm(len(wanted), generator=draw), options.minibatch):
            part = {k: v[rows] for k, v in observed.items()} if isinstance(observed, dict) else observed[rows]
            ahead = policy.get_distribution(part)
            if isinstance(policy.action_space, spaces.Discrete):
                loss = -ahead.log_prob(wanted[rows]).mean()
            else:
                loss = (ahead.mode() - wanted[rows].flatten(1)).square().mean()
            policy.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch
            policy.optimizer.step()
            losses.append(float(loss.detach()))
    policy.set_training_mode(False)
    return float(np.mean(losses))


def _write_curve(path: Path, curve: list[Any]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([CURVE_COLUMNS, *curve])
    write_text(path, text.getvalue())
