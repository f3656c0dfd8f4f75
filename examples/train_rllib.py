"""Train a driving policy with RLlib: sampling workers in processes of their own, here or on a cluster, and one learner.

    pip install -e '.[ray]'
    python examples/train_rllib.py --workers 2
    python examples/train_rllib.py --iterations 40                # again: goes on as it began, from the checkpoint
    RAY_ADDRESS=auto python examples/train_rllib.py --workers 64  # on a running cluster

The environment is the one of `gym.make`, unchanged. RLlib's own extra pins an older gymnasium; the extra `ray` of this
package takes RLlib without that pin.
"""

from __future__ import annotations

import csv
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import tyro

import ii_world_env
from world_model.core.files import write_json

COLUMNS = ("iteration", "steps", "seconds", "steps_per_s", "reward")


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train with RLlib's PPO, checkpoint after every iteration, and go on from the last one."""

    data_root: str | None = None
    """Folder with an index, see `python -m world_model.prepare`; every worker must see it. If not given: the bundled
    demo scenes."""
    checkpoint: str | None = None
    """Folder of a trained world model. If not given: the bundled one."""
    world: str = "transport"
    """learned (what the checkpoint holds), geometric, ii-world, transport, replay or simulated."""
    observation: str = "traffic"
    """state, traffic or traffic_timed: RLlib's default network reads vectors."""
    split: str = "all"
    """Scenes to train in."""
    horizon: int = 16
    """Steps of 0.5 s in an episode."""
    workers: int = 2
    """Processes that drive; 0: the learner drives itself."""
    envs: int = 4
    """Environments in each of them."""
    iterations: int = 20
    """Updates in all, those of an earlier run included."""
    steps: int = 512
    """Environment steps of one update, all workers together."""
    seed: int = 0
    """Of policy and scenes; workers draw different ones."""
    out: Path = Path("outputs/train_rllib")
    """Folder of the checkpoint and of log.csv."""
    short: bool = False
    """One tiny update only, to try it out."""


def make_env(config: dict[str, Any]) -> gym.Env[Any, Any]:
    """What every worker calls."""
    return gym.make(ii_world_env.ENV_ID, **config)


def main(args: Args) -> list[dict[str, float]]:
    """Train, and return the rows of log.csv."""
    import ray
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.tune.registry import register_env

    iterations, steps = (1, 32) if args.short else (args.iterations, args.steps)
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    register_env("iiworld", make_env)
    names = ("data_root", "checkpoint", "world", "observation", "split", "horizon")
    config = (
        PPOConfig()
        .environment("iiworld", env_config={**{name: getattr(args, name) for name in names}, "device": "cpu"})
        .env_runners(num_env_runners=args.workers, num_envs_per_env_runner=args.envs)
        .training(train_batch_size=steps, minibatch_size=min(128, steps), num_epochs=4, lr=3e-4, gamma=0.97)
        .debugging(seed=args.seed, log_level="ERROR")
    )
    kept = (args.out / "checkpoint").absolute()
    done = rows_of(args.out / "log.csv")
    algorithm = Algorithm.from_checkpoint(str(kept)) if kept.exists() and done else config.build_algo()
    try:
        for number in range(len(done) + 1, iterations + 1):
            begin = time.perf_counter()
            found = algorithm.train()["env_runners"]
            took, sampled = time.perf_counter() - begin, float(found["num_env_steps_sampled"])
            reward = float(found.get("episode_return_mean", float("nan")))
            values = (number, found["num_env_steps_sampled_lifetime"], took, sampled / took, reward)
            done.append(dict(zip(COLUMNS, map(float, values), strict=True)))
            algorithm.save_to_path(str(kept))
            write_rows(args.out / "log.csv", done)
            print(f"  update {number}/{iterations}: {sampled / took:.0f} steps/s, reward {reward:.2f}", flush=True)
    finally:
        algorithm.stop()
    write_json(args.out / "config.json", {k: str(v) if isinstance(v, Path) else v for k, v in asdict(args).items()})
    print(f"wrote {kept} and log.csv in {args.out}")
    return done


def rows_of(path: Path) -> list[dict[str, float]]:
    """What an earlier run has logged."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]


def write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    """The whole table; short enough to be written anew."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(tyro.cli(Args))
