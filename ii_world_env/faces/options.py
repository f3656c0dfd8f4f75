"""Command-line options that the commands which drive share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from world_model.core.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class DriveOptions:
    """World, data, modes and device of a command that drives."""

    world: str = "learned"
    """learned (what the checkpoint holds), geometric, ii-world, occworld, occsora, transport, replay,
    simulated, or package.module:Class."""
    checkpoint: Path | None = None
    """Folder of a trained world model. If not given: the bundled one."""
    index: Path | None = None
    """Index file, or the data folder that holds it. If not given: the bundled demo scenes."""
    action: str = "kinematic"
    """kinematic, delta, waypoints, meta or command."""
    reward: str = "default"
    """default, pdms, pdms_loss, sparse or package.module:function."""
    horizon: int = 16
    """Steps of 0.5 s in an episode."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def keywords(self) -> dict[str, Any]:
        """These options as keywords of an environment."""
        paths = {name: getattr(self, name) for name in ("checkpoint", "index")}
        names = ("world", "action", "reward", "horizon", "device")
        return {
            **{name: None if path is None else str(path) for name, path in paths.items()},
            **{name: getattr(self, name) for name in names},
        }

    def check_counts(self, *names: str) -> None:
        """Refuse options below 1; None is no number.

        Raises:
            OptionError: names the option.
        """
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"--{name.replace('_', '-')} {value}", "at least 1", "give a larger number")
