"""Which files of ours one `env.step` passes through: ``python -m tests.step_files``.

The fewer, the easier it is to follow a step with a finger. `tests/ii_world_env/test_step_files.py` holds the number.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium as gym
import tyro

import ii_world_env

ROOT = Path(__file__).resolve().parents[1]
OURS = tuple(f"{ROOT / package}/" for package in ("world_model", "ii_world_env"))


@dataclass(frozen=True, kw_only=True)
class Args:
    """List the files and functions on the way of one step."""

    world: str = "geometric"
    """geometric, ii-world, transport, replay, simulated, or package.module:Class."""
    observation: str = "bev"
    """bev, occupancy, tokens, state, or package.module:Class."""


def passed_through(work: Callable[[], Any]) -> dict[str, list[str]]:
    """The functions of ours that a call enters, by file; comprehensions and lambdas count with their function.

    Args:
        work: the call.

    Returns:
        Functions in the order of their first call, by file relative to the repository, in the same order.
    """
    found: dict[str, list[str]] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(OURS) or code.co_name.startswith("<"):
            return
        names = found.setdefault(str(Path(code.co_filename).relative_to(ROOT)), [])
        if code.co_name not in names:
            names.append(code.co_name)

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


def files_of_step(world: str, observation: str) -> dict[str, list[str]]:
    """What `passed_through` finds in the second step of an environment; the first one warms caches up."""
    env = gym.make(ii_world_env.ENV_ID, world=world, observation=observation)
    env.reset(seed=0)
    action = env.action_space.sample() * 0
    env.step(action)
    found = passed_through(lambda: env.step(action))
    env.close()
    return found


def main() -> None:
    """Command line."""
    args = tyro.cli(Args, prog="python -m tests.step_files")
    found = files_of_step(args.world, args.observation)
    for file, names in found.items():
        print(f"{file}\n    {', '.join(names)}")
    print(f"{len(found)} files, {sum(map(len, found.values()))} functions")


if __name__ == "__main__":
    main()
