"""Files of a user's that hide a package of this project: Python takes the first `world_model` that it finds."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from pathlib import Path

NEEDED, OTHERS = ("world_model",), ("agents",)
"""Packages without which no environment can be made, and the rest."""


def check_packages(root: Path | None = None) -> None:
    """Say in one line which file hides which package. Nothing is imported for that.

    Args:
        root: the folder in which the packages lie side by side; by default the one of this package.

    Raises:
        ImportError: a package is hidden that every environment needs.
    """
    for name in (*NEEDED, *OTHERS):
        file = hiding_file(name, root or Path(__file__).parents[1])
        if file is None:
            continue
        text = f"{file} hides the package {name!r} of IIWorld: rename it, or start Python in another folder"
        if name in NEEDED:
            raise ImportError(text, name=name, path=file)
        logging.getLogger(__name__).warning(text)


def hiding_file(name: str, root: Path) -> str | None:
    """What Python would import instead of the package in ``root``; None if it would import that one."""
    own = root / name / "__init__.py"
    try:
        found = find_spec(name)
    except ValueError:  # a module without a spec was put in its place on purpose
        return None
    if found is None or found.origin is None or not os.path.exists(found.origin) or not own.exists():
        return None
    return None if os.path.samefile(found.origin, own) else found.origin
