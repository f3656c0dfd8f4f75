"""Import released checkpoints: ``python -m world_model.import_checkpoint ii_scene_tokenizer_4f.pth``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from world_model.checkpoints.import_i2world import import_files
from world_model.core.command import run
from world_model.models.occsora import Trajectory


@dataclass(frozen=True, kw_only=True)
class ImportCheckpoint:
    """Turn released checkpoints of I2-World (with faithful=True), OccWorld or OccSora into this package's format.

    Every parameter is matched by name and shape against the published model; the full list of what is matched, missing,
    unexpected and wrongly shaped is printed, and nothing is written unless all of it fits. Files are read without
    executing anything in them. mmcv's state_dict/meta wrapping, averaged (EMA) weights in files of their own, and
    prefixes such as module. are understood; so is a world model with the tokenizer inside its file. Of OccSora's
    transformer the averaged weights are taken.
    """

    file: Annotated[Path, tyro.conf.Positional]
    """Checkpoint of the tokenizer, e.g. ii_scene_tokenizer_4f.pth or epoch_125.pth; or of a world model that holds its
    tokenizer, as OccWorld's latest.pth does."""
    world: Path | None = None
    """Checkpoint of the world model. Its own tokenizer, if it holds one, must be the given one."""
    out: Path
    """Folder for tokenizer.safetensors and forecaster.safetensors, or the files of OccSora or OccWorld."""
    data_source: str = "Occ3D-nuScenes (weights of the original)"
    """What the weights were trained on, as every result will show it."""
    trajectory: Trajectory = "path_metres"
    """What OccSora's transformer was told of a drive, which its release does not say: positions in metres, the same
    scaled to 0..1, displacements in metres, or the flags of the commands."""
    overwrite: bool = False
    """Replace files that are there already."""


def import_checkpoint(options: ImportCheckpoint) -> list[Path]:
    """Import, and return the files written."""
    files = [options.file] if options.world is None else [options.file, options.world]
    return import_files(
        files,
        options.out,
        data_source=options.data_source,
        trajectory=options.trajectory,
        overwrite=options.overwrite,
    )


def main() -> None:
    """Command line."""
    run(ImportCheckpoint, import_checkpoint, "python -m world_model.import_checkpoint")


if __name__ == "__main__":
    main()
