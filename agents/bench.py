"""Where the time of training goes: ``python -m agents.bench``.

PPO trains for some rollouts with each batch size, twice in turn. The baseline resets every start anew, reads maps by
single classes and computes in float32. The candidate is as the options say, and has reset every start once before.
Times are CPU seconds of the process, which other programs on the machine disturb less than the clock does.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO

from agents.policies import PolicyFacts, policy_keywords
from ii_world_env.faces.options import DriveOptions
from ii_world_env.sb3_vec_env import IIWorldVecEnv
from world_model.core.command import run
from world_model.core.errors import OptionError
from world_model.core.files import write_json
from world_model.core.table import Table

PARTS = ("reset", "world step", "reward", "observation", "policy", "update", "rest")


@dataclass(frozen=True, kw_only=True)
class Bench(DriveOptions):
    """Measure PPO end to end: steps per CPU second, the ratio to the baseline, and the share of each part.

    Try:
      python -m agents.bench --world transport --observation traffic
      python -m agents.bench --world geometric --dtype bfloat16 --batches 8 --rollouts 2
    """

    observation: str = "bev"
    """bev, occupancy, state, traffic, traffic_timed, tokens (only in the world ii-world), or package.module:Class."""
    batches: tuple[int, ...] = (1, 8, 32)
    """Environments side by side, measured one after the other."""
    split: str = "all"
    """Which scenes: train, val or all."""
    kept_mib: float = 512.0
    """Memory for start states of the candidate."""
    dtype: str = "auto"
    """auto, float32 or bfloat16: of the candidate's world."""
    steps: int = 256
    """Environment steps between two updates."""
    rollouts: int = 3
    """Timed rollouts with their updates; the median counts. One before them warms up."""
    minibatch: int = 128
    """Steps in one gradient step."""
    epochs: int = 4
    """Passes over the collected steps at each update."""
    out: Path | None = None
    """Also write the figures to this JSON file."""

    def __post_init__(self) -> None:
        self.check_counts("steps", "rollouts", "minibatch", "epochs", "horizon")
        if not self.batches or min(self.batches) < 1:
            raise OptionError(f"--batches {self.batches}", "numbers >= 1", "give for example --batches 1 8")


class Stopwatch:
    """CPU seconds of named parts; what runs inside another part counts for itself alone."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._inside: list[float] = []

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Time a method of an object from now on."""
        work = getattr(owner, name)

        def timed(*args: Any, **keywords: Any) -> Any:
            self._inside.append(0.0)
            begin = time.process_time()
            try:
                return work(*args, **keywords)
            finally:
                spent = time.process_time() - begin
                self.seconds[part] += spent - self._inside.pop()
                if self._inside:
                    self._inside[-1] += spent

        setattr(owner, name, timed)


class Arm:
    """One way to train, ready to go on.

    Args:
        options: the command.
        batch: environments.
        grouped: see `PolicyFacts`.
    """

    def __init__(self, options: Bench, batch: int, grouped: bool) -> None:
        chosen = {name: getattr(options, name) for name in ("observation", "split", "kept_mib", "dtype")}
        self.env = IIWorldVecEnv(batch, **options.keywords(), **chosen)
        self.env.seed(0)
        facts = PolicyFacts(action=options.action, observation=options.observation, grouped=grouped)
        rollout = max(2, options.steps // batch)
        self.steps, self.watch = rollout * batch, Stopwatch()
        self.model = PPO(
            "MultiInputPolicy" if isinstance(self.env.observation_space, spaces.Dict) else "MlpPolicy",
            self.env,
            n_steps=rollout,
            batch_size=min(options.minibatch, self.steps),
            n_epochs=options.epochs,
            policy_kwargs=policy_keywords(facts, self.env.observation_space),
            seed=0,
            device="cpu" if options.device == "auto" else options.device,
        )
        episodes = self.env.vector.episodes
        parts: list[tuple[Any, str, str]] = [
            *((episodes, name, "reset") for name in ("begin", "set_states")),
            (episodes, "observe", "observation"),
            *((episodes.engine, name, part) for name, part in (("drive", "world step"), ("score", "reward"))),
            (episodes.engine.world, "occupancy", "world step"),
            (self.model.policy, "forward", "policy"),
            (self.model, "train", "update"),
        ]
        for owner, name, part in parts:
            self.watch.watch(owner, name, part)
        if options.kept_mib:
            self._know_all_starts()

    def _know_all_starts(self) -> None:
        """Reset every start of the split once, as in the middle of a long training."""
        episodes, scenes = self.env.vector.episodes, self.env.vector.scenes
        for frame in scenes.starts:
            scene = next(s for s in scenes.numbers if frame in scenes.index.frames(s))
            chosen = {"scene": scene, "frame": frame - scenes.index.frames(scene).start}
            episodes.begin([np.random.default_rng(0)], [chosen])

    def rollout(self) -> dict[str, float]:
        """CPU seconds of one rollout and its update, by part."""
        self.watch.seconds = dict.fromkeys(PARTS, 0.0)
        begin = time.process_time()
        self.model.learn(self.steps, reset_num_timesteps=False)
        spent = time.process_time() - begin
        parts = self.watch.seconds
        return {**parts, "rest": spent - sum(parts.values()), "all": spent}


def bench(options: Bench, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Measure and print.

    Returns:
        One entry for each batch size and arm.
    """
    rows = []
    for batch in options.batches:
        plain = replace(options, kept_mib=0.0, dtype="auto" if options.dtype == "bfloat16" else options.dtype)
        arms = {"baseline": Arm(plain, batch, grouped=False), "candidate": Arm(options, batch, grouped=True)}
        times: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
        for number in range(options.rollouts + 1):
            for name, arm in arms.items():
                spent = arm.rollout()
                if number:
                    times[name].append(spent)
        pairs = zip(times["baseline"], times["candidate"], strict=True)
        ratio = statistics.median(one["all"] / other["all"] for one, other in pairs)
        for name, arm in arms.items():
            spent = {part: statistics.median(each[part] for each in times[name]) for part in (*PARTS, "all")}
            rows.append({
                "batch": batch,
                "arm": name,
                "steps_per_cpu_s": arm.steps / spent["all"],
                "ratio": ratio if name == "candidate" else 1.0,
                "share": {part: spent[part] / spent["all"] for part in PARTS},
                "cpu_ms_per_step": {part: 1000 * spent[part] / arm.steps for part in PARTS},
            })  # fmt: skip
            arm.env.close()
    say(markdown(rows, options))
    if options.out is not None:
        write_json(options.out, {"rows": rows, "threads": torch.get_num_threads(), "torch": torch.__version__})
    return rows


def markdown(rows: list[dict[str, Any]], options: Bench) -> str:
    """The figures as a Markdown table, shares in per cent."""
    head = ("batch", "arm", "steps / CPU s", "x baseline", *(f"{part} %" for part in PARTS))
    cells = [
        [
            str(row["batch"]),
            row["arm"],
            f"{row['steps_per_cpu_s']:.0f}",
            f"{row['ratio']:.2f}",
            *(f"{100 * row['share'][part]:.0f}" for part in PARTS),
        ]
        for row in rows
    ]
    note = (
        f"World {options.world}, observation {options.observation}, reward {options.reward}; PPO, {options.epochs} "
        f"epochs over {options.steps} steps; candidate: kept_mib={options.kept_mib:.0f}, dtype={options.dtype}; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; median of {options.rollouts} rollouts in turn."
    )
    return f"\n{Table(head, cells).markdown()}\n\n{note}"


def main() -> None:
    """Command line."""
    run(Bench, bench, "python -m agents.bench")


if __name__ == "__main__":
    main()
