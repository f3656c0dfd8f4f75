"""What results depend on, as hashes, so that results of other code or other weights are not reused."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from world_model.checkpoints.checkpoint import weights_hash
from world_model.worlds.protocol import World


def fingerprint(world: World) -> str:
    """Hash of a world's code and of all weights in it."""
    # The name too: two worlds may live in one file.
    kind = type(world)
    digest = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__}".encode())
    source = inspect.getsourcefile(kind)
    digest.update(Path(source).read_bytes() if source else b"")
    for model in _models(world):
        digest.update(weights_hash(model.state_dict()).encode())
        digest.update(str(next((p.dtype for p in model.parameters()), "")).encode())
    return digest.hexdigest()[:16]


def code_hash(function: Callable[..., Any]) -> str:
    """Hash of the file that a function is written in; its name where there is no file."""
    path = inspect.getsourcefile(function)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12] if path else function.__qualname__


def _models(thing: object, depth: int = 2) -> list[nn.Module]:
    """The networks that a world or its members hold."""
    found: list[nn.Module] = []
    for _, value in sorted(getattr(thing, "__dict__", {}).items()):
        if isinstance(value, nn.Module):
            found.append(value)
        elif depth and isinstance(value, (list, tuple)):
            for member in value:
                found += [member] if isinstance(member, nn.Module) else _models(member, depth - 1)
    return found
