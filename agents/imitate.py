"""Teach a policy to drive like a planner: ``python -m agents.imitate``."""

from __future__ import annotations

from agents.imitation import Imitate, imitate
from world_model.core.command import run


def main() -> None:
    """Command line."""
    run(Imitate, imitate, "python -m agents.imitate", resumes="the policy of the last whole round is in --out")


if __name__ == "__main__":
    main()
