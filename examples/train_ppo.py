"""Train a driving policy with PPO inside the learned world, and see what it gained.

    python examples/train_ppo.py
    python examples/train_ppo.py --timesteps 50000 --data-root data/synthetic

Everything is here in one file: the environments, the network, the training, the comparison before and after.
`python -m agents.train` is the same with checkpoints, curves and resume.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from ii_world_env.observations.extractor import GroupMapExtractor
from ii_world_env.sb3_vec_env import IIWorldVecEnv  # registers the environment, too
from world_model.core.files import write_json


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train with PPO and compare the policy before and after."""

    data_root: str | None = None
    """Folder with an index, see `python -m world_model.prepare`. If not given: the bundled demo scenes."""
    checkpoint: str | None = None
    """Folder of a trained world model. If not given: the bundled one."""
    world: str = "learned"
    """learned (what the checkpoint holds), geometric, ii-world, transport, replay or simulated."""
    train_split: str = "all"
    """Scenes to train in. The bundled demo scenes are few; with data of your own use train."""
    test_split: str = "val"
    """Scenes to compare in."""
    timesteps: int = 4_000
    """Environment steps. Enough to see the reward rise; a good driver takes some 100,000."""
    num_envs: int = 4
    """Environments side by side, as one batch: one forward of the world model moves them all."""
    horizon: int = 8
    """Steps of 0.5 s in an episode."""
    test_episodes: int = 6
    """Episodes before and after, from the same starts."""
    seed: int = 0
    """Of policy, scenes and action noise."""
    out: Path = Path("outputs/train_ppo")
    """Folder of the policy and the comparison."""
    short: bool = False
    """One tiny update only, to try it out."""


class Progress(BaseCallback):
    """Prints reward and speed after every rollout."""

    def __init__(self, total: int) -> None:
        super().__init__()
        self.total, self.begin = total, time.perf_counter()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        rate = self.num_timesteps / (time.perf_counter() - self.begin)
        reward = float(np.mean(self.locals["rollout_buffer"].rewards))
        print(
            f"  {self.num_timesteps}/{self.total} steps, {rate:.1f} steps/s, reward per step {reward:+.3f}", flush=True
        )


def main(args: Args) -> None:
    timesteps, test_episodes = (16, 1) if args.short else (args.timesteps, args.test_episodes)
    rollout = 8 if args.short else max(8, min(128, timesteps // (4 * args.num_envs)))

    # Many environments to train in, as one batch, and a single one to look at the result.
    options: dict[str, Any] = {
        "world": args.world,
        "checkpoint": args.checkpoint,
        "data_root": args.data_root,
        "horizon": 2 if args.short else args.horizon,
    }
    venv = IIWorldVecEnv(2 if args.short else args.num_envs, split=args.train_split, **options)
    venv.seed(args.seed)
    test_env = gym.make("IIWorld-nuScenes-v0", split=args.test_split, **options)

    # The policy: class ids are embedded, not read as brightness; 0.2 M parameters instead of SB3's default 81.9 M.
    model = PPO(
        "MultiInputPolicy",
        venv,
        n_steps=rollout,
        batch_size=min(128, rollout * venv.num_envs),
        n_epochs=4,
        learning_rate=5e-4,
        gamma=0.97,
        ent_coef=0.003,
        policy_kwargs={"features_extractor_class": GroupMapExtractor, "net_arch": [64], "log_std_init": -0.7},
        seed=args.seed,
        device="cpu",
    )
    print(f"PPO with {sum(p.numel() for p in model.policy.parameters()):,} parameters in the {args.world} world")

    before = test(model, test_env, test_episodes)
    model.learn(timesteps, callback=Progress(timesteps))
    after = test(model, test_env, test_episodes)

    print(f"\n{'':<8} {'reward':>8} {'progress':>9} {'collision':>10} {'off road':>9}")
    for name, row in (("before", before), ("after", after)):
        print(
            f"{name:<8} {row['reward']:>8.2f} {row['progress']:>9.0%} {row['collision']:>10.0%} {row['off_road']:>9.0%}"
        )
    print(f"{test_episodes} episodes, data: {before['data_source']}")
    args.out.mkdir(parents=True, exist_ok=True)
    model.save(args.out / "model.zip")
    write_json(args.out / "comparison.json", {"before": before, "after": after, "timesteps": model.num_timesteps})
    print(f"policy: {(args.out / 'model.zip').resolve()}")
    print(f"next:   python -m agents.evaluate --planners idm ppo:{args.out / 'model.zip'}")


def test(model: PPO, env: gym.Env, episodes: int) -> dict[str, Any]:
    """Mean result over episodes whose starts depend only on their number."""
    rows: list[tuple[float, float, bool, bool]] = []
    info: dict[str, Any] = {}
    for episode in range(episodes):
        observation, info = env.reset(seed=1000 + episode)
        total, ended = 0.0, False
        while not ended:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, info = env.step(action)
            total, ended = total + float(reward), terminated or truncated
        share = 1.0 if info["end"] == "destination" or info["goal_m"] < 5 else info["progress_m"] / info["goal_m"]
        rows.append((total, float(np.clip(share, 0, 1)), info["end"] == "collision", info["end"] == "off_road"))
    means = np.array(rows, dtype=float).mean(0).tolist()
    return {
        **dict(zip(("reward", "progress", "collision", "off_road"), means, strict=True)),
        "data_source": info["data_source"],
    }


if __name__ == "__main__":
    main(tyro.cli(Args))
