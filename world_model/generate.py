"""Roll a scene forward inside a world and save what it saw: arrays, strips, a film."""

from __future__ import annotations

from world_model.core.command import run
from world_model.generation.generate import generate
from world_model.generation.options import Generate

__all__ = ["Generate", "generate", "main"]


def main() -> None:
    """Command line."""
    run(Generate, generate, "python -m world_model.generate")


if __name__ == "__main__":
    main()
