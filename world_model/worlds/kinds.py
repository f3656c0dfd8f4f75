"""The learned worlds, and which of them a checkpoint holds.

A checkpoint folder holds a geometry-first forecaster, the published token architecture (a tokenizer and its
forecaster), OccWorld, OccSora, or several of them. ``world="learned"`` means the best of these.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from world_model.checkpoints.checkpoint import (
    FORECASTER_FILE,
    GEOMETRIC_FILE,
    OCCWORLD_FILE,
    SORA_TOKENIZER_FILE,
    SORA_TRANSFORMER_FILE,
    TOKENIZER_FILE,
    bundled_path,
    read_card,
)
from world_model.core.errors import CheckpointError, OptionError
from world_model.models.occworld.config import FAITHFUL, MODES

LEARNED, GEOMETRIC, II_WORLD = "learned", "geometric", "ii-world"
OCCWORLD, OCCSORA = "occworld", "occsora"
OCCWORLD_MODES = {f"{OCCWORLD}-{mode}": mode for mode in MODES}
"""OccWorld by the way in which it answers actions; ``occworld`` alone leaves it to the checkpoint."""
WEIGHT_FILES = {
    GEOMETRIC: (GEOMETRIC_FILE,),
    II_WORLD: (TOKENIZER_FILE, FORECASTER_FILE),
    **dict.fromkeys((OCCWORLD, *OCCWORLD_MODES), (OCCWORLD_FILE,)),
    OCCSORA: (SORA_TOKENIZER_FILE, SORA_TRANSFORMER_FILE),
}
"""Files of each learned world in a checkpoint; the better forecaster comes first (docs/results/fidelity.md)."""
WITH_MOTION = (II_WORLD, OCCWORLD, *OCCWORLD_MODES)
"""Learned worlds that forecast the ego's own motion."""
LEARNED_NAMES = (LEARNED, *WEIGHT_FILES)
"""Names of worlds that take a checkpoint of this package."""
Checkpoint = str | Path | Sequence[str | Path] | None
"""Where a trained model lies, or several for an ensemble; None is the bundled one."""


def resolve_world(name: str, checkpoint: Checkpoint = None) -> str:
    """What a world's name means: "learned" becomes the name of the world that the checkpoint holds.

    Args:
        name: as for `build_world`; every other name stays as it is.
        checkpoint: as for `build_world`.

    Returns:
        For an ensemble of both kinds, both names: "geometric+ii-world". "occworld" becomes the name of its mode.

    Raises:
        CheckpointError: "learned", but there is no such folder, or it holds neither world.
        OptionError: the checkpoint is no name of a folder, nor a list of them.
    """
    if name not in (LEARNED, OCCWORLD):
        return name
    return "+".join(dict.fromkeys(_with_mode(member_kind(name, path), path) for path in member_paths(checkpoint)))


def _with_mode(kind: str, path: str | Path | None) -> str:
    return f"{kind}-{read_card(path, OCCWORLD_FILE).get('mode', FAITHFUL)}" if kind == OCCWORLD else kind


def member_kind(name: str, checkpoint: str | Path | None) -> str:
    """`resolve_world` for a single folder, which is what each member of an ensemble comes from."""
    if name != LEARNED:
        return name
    folder = bundled_path() if checkpoint is None else Path(checkpoint)
    if folder.is_file():
        return OCCWORLD if folder.name == OCCWORLD_FILE else GEOMETRIC  # the worlds that are complete in one file
    found = next((kind for kind in WEIGHT_FILES if holds(folder, kind)), None)
    if found is None:
        raise CheckpointError(
            f"{folder} holds no learned world" if folder.is_dir() else f"no checkpoint at {folder}",
            f"a folder with {GEOMETRIC_FILE}, with {TOKENIZER_FILE} and {FORECASTER_FILE}, with {OCCWORLD_FILE}, or "
            f"with {SORA_TOKENIZER_FILE} and {SORA_TRANSFORMER_FILE}",
            "give a folder that train_geometric, train_forecaster, train_occworld or train_occsora wrote, or leave "
            "checkpoint= out",
        )
    return found


def holds(folder: Path, name: str) -> bool:
    """Whether a checkpoint folder has the weights of a world; of worlds of one's own only that it exists."""
    if name == LEARNED:
        return any(holds(folder, kind) for kind in WEIGHT_FILES)
    return all((folder / file).exists() for file in WEIGHT_FILES.get(name, ("",)))


def member_paths(checkpoint: Checkpoint) -> list[str | Path | None]:
    """Checkpoints of the members.

    Args:
        checkpoint: a folder, None for the bundled one; several as a list, as JSON list, or separated by commas.

    Raises:
        OptionError: an empty list, or one that holds something else than names.
    """
    if checkpoint is None or isinstance(checkpoint, Path):
        return [checkpoint]
    names: object = checkpoint
    if isinstance(checkpoint, str):
        try:
            names = json.loads(checkpoint) if checkpoint.lstrip().startswith("[") else checkpoint.split(",")
        except ValueError:
            names = None
    paths = (
        [name.strip() if isinstance(name, str) else name for name in names] if isinstance(names, (list, tuple)) else []
    )
    if not paths or not all(isinstance(path, Path) or (isinstance(path, str) and path) for path in paths):
        raise OptionError(
            f"checkpoint={checkpoint!r}",
            'a folder, or several: ["a", "b"] or "a,b"',
            "name the folders that the training commands wrote",
        )
    return paths
