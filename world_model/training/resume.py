"""The file that a run resumes from, and whether it belongs to the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from world_model.core.errors import CheckpointError

REMEDY = "train into another folder with --out, or delete this one to start again"


def read_state(path: Path) -> dict[str, Any]:
    """What `Trainer.save` wrote.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        int(state["iteration"]), dict(state["identity"])
    except Exception as error:  # torch raises many kinds for damaged files
        raise CheckpointError(f"{path} cannot be read ({error})", "an intact checkpoint", REMEDY) from error
    return state


def check_identity(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Check that a stored run is the one to resume.

    Raises:
        CheckpointError: it had another configuration or other data; the message names every difference.
    """
    before, now = _flatten(_of_this_version(found)), _flatten(wanted)
    different = [k for k in sorted({*before, *now}) if not _alike(k, before, now)]
    if different:
        lines = "; ".join(f"{k}: {before.get(k)} (now {now.get(k)})" for k in different)
        raise CheckpointError(f"{path} was trained with {lines}", "the same configuration and data", REMEDY)


def _of_this_version(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity as this version writes it; version 0.1 knew one process, one group and one kind of precision."""
    loss = identity.get("loss")
    if isinstance(loss, dict):
        identity = {**identity, "loss": {FORMER_NAMES.get(name, name): value for name, value in loss.items()}}
    train = identity.get("train")
    if not isinstance(train, dict) or "amp" not in train:
        return identity
    new = {k: v for k, v in train.items() if k != "amp"}
    return {**identity, "train": {**new, "group": train["batch"], "precision": "auto" if train["amp"] else "float32"}}


FORMER_NAMES = {"taught_share": "teacher_forcing_ratio", "recalled_share": "memory_ratio"}
"""Fields of loss configurations that had another name when a run began."""


def _alike(name: str, found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether two identities agree on a name; a switch that only one version knows, and that is off there, is none."""
    if name in found and name in wanted:
        return bool(found[name] == wanted[name])
    return not found.get(name, wanted.get(name))


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names, so that a difference can be named."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
