"""The worlds under test, from their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from world_model.core.errors import OptionError
from world_model.evaluation.fidelity.result import TRUTH
from world_model.evaluation.partial import fingerprint
from world_model.worlds import World, build_world
from world_model.worlds.kinds import LEARNED_NAMES, WEIGHT_FILES, holds, resolve_world
from world_model.worlds.provenance import weights_source


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A world under test.

    Attributes:
        name: in the tables.
        world: itself.
        fingerprint: hash of its code and weights, which its results depend on.
        checkpoint: where its weights are from, as text.
        weights_source: what they were trained on; None for a world without weights.
    """

    name: str
    world: World
    fingerprint: str
    checkpoint: str
    weights_source: str | None


def load_candidates(worlds: Sequence[str], checkpoints: Sequence[Path], device: str) -> list[Candidate]:
    """Build worlds.

    Args:
        worlds: names of `build_world`, or NAME=CHECKPOINT to say which weights a world takes. What "learned" turns out
            to be is its name in the tables.
        checkpoints: folders; a world without one of its own takes the first that holds its weights, or the bundled one.
        device: as for `build_world`.

    Raises:
        OptionError: a name comes twice, or there is no such world.
        CheckpointError: a checkpoint is missing or damaged.
    """
    used, candidates = set(), []
    for spec in worlds:
        given, _, checkpoint = spec.partition("=")
        fitting = [folder for folder in checkpoints if holds(folder, given)]
        folder = checkpoint or (fitting[0] if fitting and (given in LEARNED_NAMES or ":" in given) else None)
        name = resolve_world(given, folder).rpartition(":")[2] + (f" ({Path(checkpoint).name})" if checkpoint else "")
        world = build_world(given, checkpoint=folder, device=device)
        used.add(str(folder))
        where = str(folder) if folder else "bundled" if given in LEARNED_NAMES else "none"
        candidates.append(
            Candidate(
                name=name,
                world=world,
                fingerprint=fingerprint(world),
                checkpoint=where,
                weights_source=weights_source(given, folder),
            )
        )
    names = [candidate.name for candidate in candidates]
    if len(set(names)) < len(names) or TRUTH in names:
        raise OptionError(f"worlds named {names}", "different names", "name each world once, folders of one name apart")
    unused = [str(folder) for folder in checkpoints if str(folder) not in used]
    if unused:
        files = " or ".join(" and ".join(names) for names in WEIGHT_FILES.values())
        raise OptionError(
            f"--checkpoint {' '.join(unused)}, which no world takes",
            f"folders with {files} for the worlds {' '.join(worlds)}",
            "name the world that it belongs to, or NAME=CHECKPOINT in --worlds",
        )
    return candidates
