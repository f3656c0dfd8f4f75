"""Import checkpoints of the original: ``python -m world_model.import_checkpoint ii_scene_tokenizer_4f.pth``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from world_model.checkpoints.import_i2world import import_files
from world_model.core.command import run


@dataclass(frozen=True, kw_only=True)
class ImportCheckpoint:
    """Turn checkpoints of the original (.pth) into this package's format, with faithful=True.

    Every parameter is matched by name and shape against the published model; the full list of what is matched, missing,
    unexpected and wrongly shaped is printed, and nothing is written unless all of it fits. Files are read without
    executing anything in them. mmcv's state_dict/meta wrapping, averaged (EMA) weights in files of their own, and
    prefixes such as module. are understood; so is a world model with the tokenizer inside its file.
    """

    file: Annotated[Path, tyro.conf.Positional]
    """Checkpoint of the tokenizer, e.g. ii_scene_tokenizer_4f.pth; or of a world model that holds its tokenizer."""
    world: Path | None = None
    """Checkpoint of the world model. Its own tokenizer, if it holds one, must be the given one."""
    out: Path
    """Folder for tokenizer.safetensors and forecaster.safetensors."""
    data_source: str = "Occ3D-nuScenes (weights of the original)"
    """What the weights were trained on, as every result will show it."""
    overwrite: bool = False
    """Replace files that are there already."""


def import_checkpoint(options: ImportCheckpoint) -> list[Path]:
    """Import, and return the files written."""
    files = [options.file] if options.world is None else [options.file, options.world]
    return import_files(files, options.out, data_source=options.data_source, overwrite=options.overwrite)


def main() -> None:
    """Command line."""
    run(ImportCheckpoint, import_checkpoint, "python -m world_model.import_checkpoint")


if __name__ == "__main__":
    main()
