"""Which scenes train and which are held out: ``splits.json`` of the data folder, else the official nuScenes splits."""

from __future__ import annotations

from pathlib import Path

from world_model.core.errors import DataError, OptionError
from world_model.data.formats.tables import read_json


def read_splits(root: Path, folder: Path, names: list[str]) -> dict[str, str]:
    """Split of every scene.

    Args:
        root: the data folder.
        folder: the folder of the nuScenes version in it.
        names: the scenes of the tables.

    Returns:
        Scene name -> split.

    Raises:
        DataError: a scene is in no split or in two.
        OptionError: the official splits are needed and nuscenes-devkit is not installed.
    """
    path = next((p for p in (root / "splits.json", folder / "splits.json") if p.exists()), None)
    if path is not None:
        table = read_json(path, dict)
        table = {key: value for key, value in table.items() if isinstance(value, list)}
        origin, remedy = str(path), f'list every scene in {path}: {{"train": [...], "val": [...]}}'
    else:
        table = _official_splits(folder)
        origin = "the official splits"
        remedy = f'write {root / "splits.json"}: {{"train": [scene names], "val": [scene names]}}'
    split_of = {name: split for split, scenes in table.items() for name in scenes}
    left = [name for name in names if name not in split_of]
    if left:
        raise DataError(
            f"{len(left)} scenes are in no split of {origin}, e.g. {', '.join(left[:3])}", "a split for each", remedy
        )
    twice = [n for n in names if sum(n in scenes for scenes in table.values()) > 1]
    if twice:
        raise DataError(f"{origin}: {', '.join(twice[:3])} in two splits", "every scene in one split", remedy)
    return split_of


def _official_splits(folder: Path) -> dict[str, list[str]]:
    try:
        from nuscenes.utils.splits import create_splits_scenes
    except ImportError as error:
        raise OptionError(
            f"{folder.parent} has no splits.json, and the official splits need nuscenes-devkit ({error})",
            "splits.json in the data folder, or the devkit installed",
            "pip install 'iiworld[nuscenes]'",
        ) from error
    official = create_splits_scenes()
    prefix = "mini_" if "mini" in folder.name else ""
    return {split: official[prefix + split] for split in ("train", "val")}
