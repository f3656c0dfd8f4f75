"""How every command begins and ends: options out of its arguments, and one line where it cannot go on."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from world_model.core.errors import IIWorldError

Options = TypeVar("Options")
Result = TypeVar("Result")
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def run(
    kind: type[Options],
    function: Callable[[Options], Result],
    prog: str,
    *,
    description: str | None = None,
    resumes: str = "nothing is left half-written; give the same command to begin again",
) -> Result:
    """Read the options of a command and do its work; errors, Ctrl-C and full disks end it with one message.

    Args:
        kind: the dataclass of its options.
        function: what it does with them.
        prog: how it is called.
        description: for its help; the docstring of ``kind``, if None.
        resumes: what an interrupt leaves, and how to go on.
    """
    _print_anything()
    try:
        return function(tyro.cli(kind, prog=prog, description=description, args=expanded(sys.argv[1:])))
    except IIWorldError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print(f"\ninterrupted: {resumes}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        where = f" ({error.filename})" if error.filename else ""
        sys.exit(f"error: {error.strerror}{where}\n  Remedy: free space, or name another folder; {resumes}")


def expanded(arguments: Sequence[str]) -> list[str]:
    """Arguments with ~ at the beginning of a value replaced by the home folder: shells leave ``--out=~/x`` as it is."""
    return [_expanded(argument) for argument in arguments]


def _expanded(argument: str) -> str:
    name, equals, value = argument.partition("=")
    if argument.startswith("--") and equals:
        return f"{name}={os.path.expanduser(value)}"
    return os.path.expanduser(argument)


def _print_anything() -> None:
    """Characters that a terminal does not have are replaced, instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(errors="replace")
