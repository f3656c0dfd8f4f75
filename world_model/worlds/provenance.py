"""Which data the weights of a world were trained on, beside the data that it runs on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from world_model.checkpoints.checkpoint import read_card
from world_model.worlds.kinds import LEARNED_NAMES, WEIGHT_FILES, Checkpoint, member_kind, member_paths

UNKNOWN = "unknown data"


def weights_source(name: str, checkpoint: Checkpoint = None) -> str | None:
    """What the weights of a world were trained on, as their checkpoints say.

    Args:
        name: as for `build_world`.
        checkpoint: as for `build_world`.

    Returns:
        E.g. "synthetic"; several, joined by " + ", where members of an ensemble or tokenizer and forecaster differ;
        None for worlds without weights of this package.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
    """
    if name not in LEARNED_NAMES:
        return None
    files = [(path, file) for path in member_paths(checkpoint) for file in WEIGHT_FILES[member_kind(name, path)]]
    return " + ".join(dict.fromkeys(file_source(path, file) for path, file in files))


def file_source(path: str | Path | None, file: str) -> str:
    """What one file of a checkpoint was trained on; see `read_card`."""
    return str(read_card(path, file).get("data_source", UNKNOWN))


def same_source(weights: str | None, data: str) -> bool:
    """Whether weights and data are of one kind: one name holds the other; also where there are no weights.

    "Occ3D-nuScenes (weights of the original)" and "nuscenes" are of one kind, "synthetic" and "nuscenes" are not.
    """
    own, other = (weights or "").lower(), data.lower()
    return weights is None or own in other or other in own


def provenance(weights: Iterable[str | None], data: str) -> str:
    """The line of every report: "weights trained on X, data Y".

    Args:
        weights: of all worlds in the report, from `weights_source`.
        data: what they ran on.
    """
    found = dict.fromkeys(source for source in weights if source is not None)
    return f"weights trained on {' + '.join(found)}, data {data}" if found else f"no weights, data {data}"
