"""Train a planner in a world with PPO: ``python -m agents.train``."""

from __future__ import annotations

import sys

import tyro

from agents.training import Train, train
from world_model.core.errors import IIWorldError


def main() -> None:
    """Command line."""
    try:
        train(tyro.cli(Train, prog="python -m agents.train"))
    except IIWorldError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
