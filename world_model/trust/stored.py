"""The calibration that lies beside a checkpoint, and whether it belongs to its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from world_model.checkpoints.checkpoint import bundled_path
from world_model.checkpoints.shared import load_world, shared_geometric
from world_model.core.errors import CheckpointError
from world_model.trust.calibration import Calibration, Trust
from world_model.trust.figures import figures_for
from world_model.worlds.ensemble import EnsembleWorld
from world_model.worlds.geometric import GeometricWorld
from world_model.worlds.kinds import GEOMETRIC, II_WORLD, member_paths
from world_model.worlds.protocol import World
from world_model.worlds.token import TokenWorld

KINDS: dict[type, str] = {GeometricWorld: GEOMETRIC, TokenWorld: II_WORLD}


def calibrated_trust(world: World, checkpoint: str | Path | Sequence[str | Path] | None = None) -> Trust | None:
    """The trust that belongs to a learned world, or None where it was never calibrated.

    Args:
        world: a learned world that `build_world` made; other worlds have no calibration.
        checkpoint: what it was made from.

    Raises:
        CheckpointError: the calibration is damaged, or belongs to other weights.
    """
    models, figures = members_of(world, checkpoint), figures_for(world)
    if not models or figures is None:
        return None
    path = trust_path(checkpoint, kind_of(world))
    if not path.exists():
        return None
    calibration = Calibration.load(path)
    if calibration.models != models:
        raise CheckpointError(
            f"{path} was calibrated for weights {', '.join(calibration.models)}, "
            f"but those beside it are {', '.join(models)}",
            "a calibration of these weights",
            "run `python -m world_model.calibrate_trust` for this checkpoint, or delete the file",
        )
    return Trust(figures, calibration)


def trust_path(checkpoint: str | Path | Sequence[str | Path] | None, kind: str) -> Path:
    """Where the calibration of a checkpoint lies: beside it; that of an ensemble beside its first member.

    Args:
        checkpoint: as for `build_world`.
        kind: of `kind_of`; a folder that holds both kinds of world has a calibration of each.
    """
    first, *others = member_paths(checkpoint)
    folder = bundled_path() if first is None else Path(first)
    folder = folder.parent if folder.suffix == ".safetensors" else folder
    return folder / f"trust_{kind}{f'_ensemble{1 + len(others)}' if others else ''}.json"


def kind_of(world: World) -> str:
    """Name of a learned world, "geometric" or "ii-world", of an ensemble those of its members; "" for other worlds."""
    kinds = [KINDS.get(type(member), "") for member in _members(world)]
    return "+".join(dict.fromkeys(kinds)) if all(kinds) else ""


def members_of(world: World, checkpoint: str | Path | Sequence[str | Path] | None = None) -> tuple[str, ...]:
    """Hashes of the weights of a learned world, member by member.

    Empty for other worlds, and for weights that run with another ``faithful`` switch than they were calibrated with.
    """
    if not kind_of(world):
        return ()
    hashes = [_weights_of(*pair) for pair in zip(_members(world), member_paths(checkpoint), strict=True)]
    return sum(hashes, ()) if all(hashes) else ()


def _members(world: World) -> Sequence[World]:
    return world.members if isinstance(world, EnsembleWorld) else (world,)


def _weights_of(member: World, path: str | Path | None) -> tuple[str, ...]:
    # The very model that the world runs on: it is read once per process.
    if isinstance(member, GeometricWorld):
        _, card = shared_geometric(path, next(member.model.parameters()).device)
        return (str(card["weights"]),)
    assert isinstance(member, TokenWorld)
    weight = next(member.tokenizer.parameters())
    model = load_world(path, device=str(weight.device), dtype=weight.dtype)
    if (model.tokenizer.config, model.forecaster.config) != (member.tokenizer.config, member.forecaster.config):
        return ()
    return str(model.card["tokenizer"]["weights"]), str(model.card["weights"])
