"""Roll a scene forward inside a world and save what it saw: arrays, strips, a film."""

from __future__ import annotations

import sys

import tyro

from world_model.core.errors import IIWorldError
from world_model.generation.generate import generate
from world_model.generation.options import Generate

__all__ = ["Generate", "generate", "main"]


def main() -> None:
    """Command line."""
    try:
        generate(tyro.cli(Generate, prog="python -m world_model.generate"))
    except IIWorldError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
