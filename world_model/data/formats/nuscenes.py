"""A nuScenes-layout folder with Occ3D labels -> `DataSet`, for the real data set and for synthetic scenes.

    ROOT/v1.0-mini/*.json                               the nuScenes tables
    ROOT/gts/<scene name>/<sample token>/labels.npz     Occ3D labels (`label_folders` says which others)
    ROOT/splits.json                                    optional: {"train": [scene names], "val": [...]}

Without ``splits.json`` the official splits apply, which come with nuscenes-devkit; nothing else needs it. Ego
pose of a keyframe: that of its LIDAR_TOP sweep, the frame in which Occ3D labels are given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from world_model.core.errors import DataError, OptionError
from world_model.core.geometry import pose_matrix
from world_model.data.formats.annotations import read_boxes
from world_model.data.formats.label_folders import LabelFolders
from world_model.data.formats.poses import checked_poses
from world_model.data.formats.recording import DataSet, Recording
from world_model.data.formats.tables import Row, iterate_table, lookup, read_by_token, read_json, read_table


def find_version(root: Path) -> str:
    """The name of the only nuScenes version in a folder.

    Raises:
        DataError: there is none, or more than one.
    """
    found = sorted(p.name for p in root.glob("v1.0-*") if p.is_dir()) if root.is_dir() else []
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{root} holds several versions: {', '.join(found)}", "one", "choose with --version")
    inside = ", ".join(sorted(p.name for p in root.iterdir())[:8]) if root.is_dir() else "it does not exist"
    raise DataError(
        f"{root} holds no folder v1.0-* ({inside or 'it is empty'})",
        "a nuScenes-layout folder, e.g. with v1.0-mini/ and gts/",
        "give the folder above v1.0-mini or v1.0-trainval, or make one with `python -m world_model.make_synthetic`",
    )


def read_nuscenes(
    root: str | Path, version: str | None = None, *, label_folder: str = "gts", truth_folder: str | None = None
) -> DataSet:
    """Read the tables of a nuScenes-layout folder.

    Args:
        root: the folder with the tables' folder and the label folder.
        version: the tables' folder; the only one there is, if not given.
        label_folder: "gts" for Occ3D labels, "stc-results" for STCOcc predictions, ...
        truth_folder: folder of the true labels, where those of ``label_folder`` are predictions.

    Raises:
        DataError: tables are missing, broken or contradict each other, or a label folder does not exist.
    """
    root = Path(root)
    folder = root / (find_version(root) if version is None else version)
    labels = LabelFolders(root=root, labels=label_folder, truth=truth_folder)
    samples = read_by_token(folder, "sample")
    rows = read_table(folder, "scene")
    splits = read_splits(root, folder, [row["name"] for row in rows])
    chains = [_scene_samples(folder, row, samples) for row in rows]
    _check_all_used(folder, chains, samples)
    tokens = [sample["token"] for chain in chains for sample in chain]
    translation, rotation = _read_ego_poses(folder, tokens)
    poses = pose_matrix(torch.from_numpy(translation), torch.from_numpy(rotation)).numpy()
    boxes = read_boxes(folder, tokens, poses, {token: row["timestamp"] for token, row in samples.items()})
    recordings, first = [], 0
    for row, chain in zip(rows, chains):
        part = slice(first, first + len(chain))
        first += len(chain)
        places = [Path(row["name"]) / sample["token"] for sample in chain]
        recordings.append(
            Recording(
                name=row["name"],
                split=splits[row["name"]],
                token=tokens[part],
                timestamp_us=np.array([sample["timestamp"] for sample in chain], np.int64),
                translation_m=translation[part],
                rotation=rotation[part],
                label_path=labels.label_paths(places),
                truth_path=labels.truth_paths(places),
                boxes=boxes[part],
            )
        )
    where = str(folder / "sample.json")
    return DataSet(root=root, name=labels.name, where=where, recordings=recordings, dataset=labels.dataset)


def _scene_samples(folder: Path, scene: Row, samples: dict[str, Row]) -> list[Row]:
    """The keyframes of a scene, by following the chain of tokens."""
    chain: list[Row] = []
    token = scene["first_sample_token"]
    while token:
        chain.append(lookup(samples, token, f"{folder / 'sample.json'}, a keyframe of {scene['name']}"))
        if chain[-1]["scene_token"] != scene["token"] or len(chain) > len(samples):
            raise DataError(
                f"{folder / 'sample.json'}: the samples of {scene['name']} lead out of it or in a circle at {token}",
                "samples linked by `next` within their scene",
                "fetch sample.json again",
            )
        token = chain[-1]["next"]
    if len(chain) != scene["nbr_samples"]:
        raise DataError(
            f"{folder / 'sample.json'}: {scene['name']} has {len(chain)} linked samples",
            f"{scene['nbr_samples']}, as scene.json says",
            "fetch scene.json and sample.json from one release",
        )
    return chain


def _check_all_used(folder: Path, chains: list[list[Row]], samples: dict[str, Row]) -> None:
    used = {sample["token"] for chain in chains for sample in chain}
    left = [token for token in samples if token not in used]
    if left:
        raise DataError(
            f"{folder / 'sample.json'}: {len(left)} samples belong to no scene's chain, e.g. {left[0]}",
            "every sample linked into its scene",
            "fetch scene.json and sample.json from one release",
        )


def _read_ego_poses(folder: Path, tokens: list[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Translations (F, 3) and unit quaternions (F, 4) of the LIDAR_TOP keyframes of samples."""
    lidars = {row["token"] for row in read_table(folder, "sensor") if row["channel"] == "LIDAR_TOP"}
    mounted = {row["token"] for row in read_table(folder, "calibrated_sensor") if row["sensor_token"] in lidars}
    pose_of = {
        row["sample_token"]: row["ego_pose_token"]
        for row in iterate_table(folder, "sample_data")
        if row["is_key_frame"] and row["calibrated_sensor_token"] in mounted
    }
    without = [token for token in tokens if token not in pose_of]
    if without:
        raise DataError(
            f"{folder / 'sample_data.json'}: {len(without)} samples have no LIDAR_TOP keyframe, e.g. {without[0]}",
            "one LIDAR_TOP keyframe for every sample",
            "fetch sample_data.json, sensor.json and calibrated_sensor.json from one release",
        )
    wanted = {pose_of[token] for token in tokens}
    poses = read_by_token(folder, "ego_pose", lambda row: row["token"] in wanted)
    where = f"{folder / 'ego_pose.json'}, named by sample_data.json"
    rows = [lookup(poses, pose_of[token], where) for token in tokens]
    where = str(folder / "ego_pose.json")
    return checked_poses([row["translation"] for row in rows], [row["rotation"] for row in rows], where, tokens)


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
