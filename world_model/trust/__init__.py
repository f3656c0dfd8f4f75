"""How far a forecast can be trusted: raw figures of a state, calibrated on held-out drives to a number in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from world_model.errors import CheckpointError
from world_model.trust.calibration import TRUST_FILE, Calibration
from world_model.trust.figures import Figures, figures_for
from world_model.worlds.protocol import World, WorldState

__all__ = ["Calibration", "Trust", "calibrated_trust", "figures_for", "members_of", "trust_path"]


class Trust:
    """A calibrated world: state -> (B,) trust in [0, 1].

    Args:
        figures: raw figures of the world's states.
        calibration: fitted for them.
    """

    def __init__(self, figures: Figures, calibration: Calibration) -> None:
        self.figures, self.calibration = figures, calibration

    def __call__(self, state: WorldState) -> Tensor:
        return self.calibration.of(self.figures(state))


def calibrated_trust(world: World, checkpoint: str | Path | Sequence[str | Path] | None = None) -> Trust | None:
    """The trust that belongs to a learned world, or None where it was never calibrated.

    Args:
        world: what `build_world("learned", checkpoint=checkpoint)` made; other worlds have no calibration.
        checkpoint: what it was made from.

    Raises:
        CheckpointError: the calibration is damaged, or belongs to other weights.
    """
    models, figures = members_of(world, checkpoint), figures_for(world)
    if not models or figures is None:
        return None
    path = trust_path(checkpoint)
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


def trust_path(checkpoint: str | Path | Sequence[str | Path] | None = None) -> Path:
    """Where the calibration of a checkpoint lies: beside it; that of an ensemble beside its first member."""
    from world_model.checkpoint import bundled_path
    from world_model.worlds.ensemble import member_paths

    first, *others = member_paths(checkpoint)
    folder = bundled_path() if first is None else Path(first)
    folder = folder.parent if folder.suffix == ".safetensors" else folder
    return folder / (f"trust_ensemble{1 + len(others)}.json" if others else TRUST_FILE)


def members_of(world: World, checkpoint: str | Path | Sequence[str | Path] | None = None) -> tuple[str, ...]:
    """Hashes of the weights of a learned world, tokenizer and forecaster of each member.

    Empty for other worlds, and for weights that run with another ``faithful`` switch than they were calibrated with.
    """
    from world_model.checkpoint import load_world
    from world_model.worlds.ensemble import EnsembleWorld, member_paths
    from world_model.worlds.learned import LearnedWorld

    members = world.members if isinstance(world, EnsembleWorld) else (world,)
    names: list[str] = []
    for member, path in zip(members, member_paths(checkpoint), strict=True):
        if type(member) is not LearnedWorld:
            return ()
        weight = next(member.tokenizer.parameters())
        # The very model that the world runs on: it is read once per process.
        model = load_world(path, device=str(weight.device), dtype=weight.dtype)
        if (model.tokenizer.config, model.forecaster.config) != (member.tokenizer.config, member.forecaster.config):
            return ()
        card = model.card
        names += [str(card["tokenizer"]["weights"]), str(card["weights"])]
    return tuple(names)
