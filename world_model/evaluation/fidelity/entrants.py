"""The worlds under test, from their names."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from world_model.checkpoint import FORECASTER_FILE, GEOMETRIC_FILE, weights_hash
from world_model.errors import OptionError
from world_model.evaluation.fidelity.result import TRUTH
from world_model.worlds import World, build_world

FILE_OF = {"learned": FORECASTER_FILE, "geometric": GEOMETRIC_FILE}
"""What the checkpoint of a world must hold."""


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A world under test.

    Attributes:
        name: in the tables.
        world: itself.
        what: hash of its code and weights: what its results depend on.
        checkpoint: where its weights are from, for people.
    """

    name: str
    world: World
    what: str
    checkpoint: str


def load_entrants(worlds: Sequence[str], checkpoints: Sequence[Path], device: str) -> list[Entrant]:
    """Build worlds.

    Args:
        worlds: names of `build_world`, or NAME=CHECKPOINT to say which weights a world takes.
        checkpoints: folders; a world without one of its own takes the first that holds its weights, or the bundled one.
        device: as for `build_world`.

    Raises:
        OptionError: a name comes twice, or there is no such world.
        CheckpointError: a checkpoint is missing or damaged.
    """
    used, entrants = set(), []
    for spec in worlds:
        name, _, own = spec.partition("=")
        fitting = [folder for folder in checkpoints if (folder / FILE_OF.get(name, "")).exists()]
        folder = own or (fitting[0] if fitting and (name in FILE_OF or ":" in name) else None)
        world = build_world(name, checkpoint=folder, device=device)
        used.add(str(folder))
        where = str(folder) if folder else "bundled" if name in FILE_OF else "none"
        shown = name.rpartition(":")[2] + (f" ({Path(own).name})" if own else "")
        entrants.append(Entrant(name=shown, world=world, what=fingerprint(world), checkpoint=where))
    names = [entrant.name for entrant in entrants]
    if len(set(names)) < len(names) or TRUTH in names:
        raise OptionError(f"worlds named {names}", "different names", "name each world once, folders of one name apart")
    unused = [str(folder) for folder in checkpoints if str(folder) not in used]
    if unused:
        raise OptionError(
            f"--checkpoint {' '.join(unused)}, which no world takes",
            f"folders with {' or '.join(FILE_OF.values())} for the worlds {' '.join(worlds)}",
            "name the world that it belongs to, or NAME=CHECKPOINT in --worlds",
        )
    return entrants


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
