"""From options to a server that shows a drive or files."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ii_world_env.faces.config import EnvConfig
from ii_world_env.view.drives.saved import Frames, is_drive, load_drive, open_files
from ii_world_env.view.drives.session import Begin, Session
from world_model.core.errors import ConfigError, OptionError

INSTALL = "pip install 'iiworld[viewer]'"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def source_of(files: tuple[Path, ...], begin: Begin) -> Session | Frames:
    """What is shown: a drive that begins, a saved drive, or other files.

    Raises:
        IIWorldError: files that cannot be shown, or a drive that cannot begin.
    """
    if not files:
        return Session(begin)
    drives = [path for path in files if is_drive(path)]
    if drives and len(files) > 1:
        return open_files(files)  # side by side as forecasts
    return load_drive(files[0], begin.config) if drives else open_files(files)


@contextlib.contextmanager
def server(host: str, port: int) -> Iterator[Any]:
    """A `viser.ViserServer`, stopped at the end.

    Raises:
        ConfigError: viser is not installed.
        OptionError: the port is in use, or the host is none of this machine.
    """
    if importlib.util.find_spec("viser") is None:
        raise ConfigError("viser is not installed", "the extra `viewer`", INSTALL)
    _check_free(host, port)
    import viser

    with contextlib.redirect_stdout(io.StringIO()):  # it prints a banner of its own
        made = viser.ViserServer(host=host, port=port, verbose=False)
    # Any page could ask for a public tunnel to this machine.
    made.__dict__["request_share_url"] = lambda verbose=True: None
    try:
        yield made
    finally:
        with contextlib.redirect_stdout(io.StringIO()):
            made.stop()


def address(made: Any, host: str) -> str:
    """Where a browser finds a server."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{made.get_port()}"


def hint(made: Any, host: str) -> str:
    """How to reach it from elsewhere."""
    port = made.get_port()
    if host in LOOPBACK:
        return (
            f"from another machine: ssh -L {port}:localhost:{port} {socket.gethostname()}, then http://localhost:{port}"
        )
    return "everyone who reaches this address can drive, and save files here"


def _check_free(host: str, port: int) -> None:
    """viser would take the next port without a word."""
    try:
        if not 0 <= port < 2**16:
            raise OverflowError("a port is a number of 0..65535")
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except (OSError, OverflowError, UnicodeError) as error:
        raise OptionError(
            f"--host {host} --port {port}: {error}",
            "an address of this machine and a free port",
            "choose another port, or --port 0 for any free one",
        ) from error


__all__ = ["EnvConfig", "address", "hint", "server", "source_of"]
