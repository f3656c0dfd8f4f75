"""Objects of a user's own, named by their import path: worlds, rewards, observations."""

from __future__ import annotations

import importlib
from typing import Any

from world_model.core.errors import OptionError


def import_object(option: str, path: object, expected: str) -> Any:
    """The class or function that ``package.module:name`` names.

    Args:
        option: keyword that the path was given for, for messages.
        path: the import path.
        expected: what the keyword takes, for messages.

    Raises:
        OptionError: the path is none, cannot be imported, or names something that cannot be called.
    """
    module, colon, name = str(path).partition(":")
    if not colon:
        raise OptionError(f"{option}={path!r}", expected, "choose one of them")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the last two: ":name", ".module:name"
        raise OptionError(f"{option}={path!r} cannot be imported ({error})", expected, "check the path") from error
    if not callable(found):
        raise OptionError(f"{option}={path!r} is a {type(found).__name__}", expected, "name a class or a function")
    return found
