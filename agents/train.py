"""Train a planner in a world with PPO: ``python -m agents.train``."""

from __future__ import annotations

from agents.training import RESUMES, Train, train
from world_model.core.command import run


def main() -> None:
    """Command line."""
    run(Train, train, "python -m agents.train", resumes=RESUMES)


if __name__ == "__main__":
    main()
