"""A nuScenes-layout folder with Occ3D labels -> `SceneIndex`. Works on the real data set and on synthetic scenes alike.

    ROOT/v1.0-mini/*.json                               the nuScenes tables
    ROOT/gts/<scene name>/<sample token>/labels.npz     Occ3D labels
    ROOT/splits.json                                    optional: {"train": [scene names], "val": [...]}

Without ``splits.json`` the official splits apply, which come with nuscenes-devkit. The tables are read here, so nothing
else needs the devkit. Ego pose of a keyframe: that of its LIDAR_TOP sweep, the frame in which Occ3D labels are given.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from world_model.data.annotations import read_boxes
from world_model.data.ego_motion import commands_from_poses, motion_from_poses
from world_model.data.index import SceneIndex
from world_model.data.splits import read_splits
from world_model.data.tables import Row, lookup, read_by_token, read_table
from world_model.errors import DataError, OptionError
from world_model.geometry import pose_matrix

USUAL_STEP_S = (0.35, 0.65)
"""Time between keyframes that needs no mention."""


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What a person should know about an import beyond the index.

    Attributes:
        missing_labels: frames without a label file, which were left out.
        cut_scenes: scenes that lost frames because of that.
        unusual_steps: steps between keyframes that are longer or shorter than `USUAL_STEP_S`.
    """

    missing_labels: int
    cut_scenes: int
    unusual_steps: int


@dataclass(frozen=True, kw_only=True)
class _Scene:
    name: str
    split: str
    samples: list[Row]
    label_paths: list[Path]


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
    root: str | Path,
    version: str | None = None,
    *,
    label_folder: str = "gts",
    source: str | None = None,
    index_folder: str | Path | None = None,
    allow_missing_labels: bool = False,
) -> tuple[SceneIndex, ImportReport]:
    """Read the tables of a nuScenes-layout folder and look for its labels.

    Args:
        root: the folder with the tables' folder and the label folder.
        version: the tables' folder; the only one there is, if not given.
        label_folder: "gts" for Occ3D labels, "stc-results" for STCOcc predictions, ...
        source: what the data is, shown beside every result; "synthetic" where the
            folder is marked so, else "nuscenes", with the label folder if that is not Occ3D's.
        index_folder: where the index will lie; its label paths are relative to it. The root, if not given.
        allow_missing_labels: leave frames without a label file out, cutting their scenes there, instead of raising.

    Raises:
        DataError: tables are missing, broken or contradict each other, or label files are missing.
        OptionError: synthetic data is to be called something else.
    """
    root = Path(root)
    version = find_version(root) if version is None else version
    folder = root / version
    samples = read_by_token(folder, "sample")
    rows = read_table(folder, "scene")
    splits = read_splits(root, folder, [row["name"] for row in rows])
    scenes: list[_Scene] = []
    for row in rows:
        chain = _scene_samples(folder, row, samples)
        paths = [root / label_folder / row["name"] / sample["token"] / "labels.npz" for sample in chain]
        scenes.append(_Scene(name=row["name"], split=splits[row["name"]], samples=chain, label_paths=paths))
    _check_all_used(folder, scenes, samples)
    complete, missing = _with_labels(root / label_folder, scenes, allow_missing_labels)

    report = ImportReport(
        missing_labels=len(missing),
        cut_scenes=len({path.parent.parent for path in missing}),
        unusual_steps=sum(_unusual_steps(scene) for scene in complete),
    )
    index_folder = Path(index_folder) if index_folder else root
    index = _assemble(folder, complete, samples, index_folder, _source(root, label_folder, source))
    return index, report


def _source(root: Path, label_folder: str, wanted: str | None) -> str:
    """What to call the data: results on synthetic scenes must never pass for results on real ones."""
    synthetic = (root / "synthetic.json").exists()
    if wanted is not None and synthetic and "synthetic" not in wanted:
        raise OptionError(
            f"source {wanted!r} for {root}, which {root / 'synthetic.json'} marks as synthetic",
            'a name with "synthetic" in it',
            "leave --source out",
        )
    name = "synthetic" if synthetic else "nuscenes"
    return wanted or (name if label_folder == "gts" else f"{name}, labels of {label_folder}")


def _assemble(
    folder: Path, scenes: list[_Scene], samples: dict[str, Row], index_folder: Path, source: str
) -> SceneIndex:
    chain = [sample for scene in scenes for sample in scene.samples]
    tokens = [sample["token"] for sample in chain]
    translation, rotation = _read_ego_poses(folder, tokens)
    start = np.cumsum([0, *(len(scene.samples) for scene in scenes)]).astype(np.int64)
    time_us = np.array([sample["timestamp"] for sample in chain], np.int64)
    poses = pose_matrix(torch.from_numpy(translation), torch.from_numpy(rotation)).numpy()
    parts = [slice(a, b) for a, b in itertools.pairwise(start)]
    return SceneIndex(
        root=index_folder,
        source=source,
        scene_name=np.array([scene.name for scene in scenes]),
        scene_split=np.array([scene.split for scene in scenes]),
        scene_start=start,
        token=np.array(tokens),
        label_path=np.array([_relative(path, index_folder) for scene in scenes for path in scene.label_paths]),
        timestamp_us=time_us,
        translation_m=translation,
        rotation=rotation,
        command=np.concatenate([commands_from_poses(poses[part]) for part in parts]),
        motion=np.concatenate([motion_from_poses(poses[part], time_us[part]) for part in parts]),
        **read_boxes(folder, tokens, poses, {token: row["timestamp"] for token, row in samples.items()}),
    )


def _scene_samples(folder: Path, scene: Row, samples: dict[str, Row]) -> list[Row]:
    """The keyframes of a scene, by following the chain of tokens; every step must go forward in time."""
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
    time_us = np.array([sample["timestamp"] for sample in chain], np.int64)
    wrong = np.flatnonzero(np.diff(time_us) <= 0)
    if len(wrong):
        i = int(wrong[0])
        raise DataError(
            f"{folder / 'sample.json'}: in {scene['name']} sample {i + 1} ({chain[i + 1]['token']}) has the timestamp "
            f"{time_us[i + 1]}, sample {i} before it has {time_us[i]}",
            "timestamps that rise along a scene",
            "fetch sample.json again",
        )
    if len(chain) != scene["nbr_samples"]:
        raise DataError(
            f"{folder / 'sample.json'}: {scene['name']} has {len(chain)} linked samples",
            f"{scene['nbr_samples']}, as scene.json says",
            "fetch scene.json and sample.json from one release",
        )
    return chain


def _check_all_used(folder: Path, scenes: list[_Scene], samples: dict[str, Row]) -> None:
    used = {sample["token"] for scene in scenes for sample in scene.samples}
    left = [token for token in samples if token not in used]
    if left:
        raise DataError(
            f"{folder / 'sample.json'}: {len(left)} samples belong to no scene's chain, e.g. {left[0]}",
            "every sample linked into its scene",
            "fetch scene.json and sample.json from one release",
        )


def _read_ego_poses(folder: Path, tokens: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Translations (F, 3) and unit quaternions (F, 4) of the LIDAR_TOP keyframes of samples."""
    lidars = {row["token"] for row in read_table(folder, "sensor") if row["channel"] == "LIDAR_TOP"}
    mounted = {row["token"] for row in read_table(folder, "calibrated_sensor") if row["sensor_token"] in lidars}
    pose_of: dict[str, str] = {}
    for row in read_table(
        folder, "sample_data", lambda row: row["is_key_frame"] and row["calibrated_sensor_token"] in mounted
    ):
        pose_of[row["sample_token"]] = row["ego_pose_token"]
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
    try:
        translation = np.array([row["translation"] for row in rows], np.float64).reshape(len(rows), 3)
        rotation = np.array([row["rotation"] for row in rows], np.float64).reshape(len(rows), 4)
    except ValueError as error:
        raise DataError(
            f"{folder / 'ego_pose.json'}: poses of uneven length ({error})",
            "3 numbers of translation and 4 of rotation",
            "fetch ego_pose.json again",
        ) from error
    norm = np.linalg.norm(rotation, axis=1, keepdims=True)
    bad = ~(np.isfinite(translation).all(1) & np.isfinite(rotation).all(1) & (np.abs(norm[:, 0] - 1) < 1e-2))
    if bad.any():
        row = rows[int(np.flatnonzero(bad)[0])]
        raise DataError(
            f"{folder / 'ego_pose.json'}: {int(bad.sum())} poses are broken, e.g. {row}",
            "finite translations and unit quaternions",
            "fetch ego_pose.json again",
        )
    return translation, rotation / norm


def _with_labels(folder: Path, scenes: list[_Scene], allow_missing: bool) -> tuple[list[_Scene], list[Path]]:
    """Scenes whose frames all have label files; gaps cut a scene into NAME, NAME#2, ..."""
    if not folder.is_dir():
        raise DataError(
            f"there is no label folder {folder}",
            "<label folder>/<scene>/<sample token>/labels.npz",
            "unpack Occ3D's gts.tar.gz there, or name another folder with --label-folder",
        )
    missing = [path for scene in scenes for path in scene.label_paths if not path.is_file()]
    if missing and not allow_missing:
        listed = "\n    ".join(str(path) for path in missing[:5])
        total = sum(len(scene.samples) for scene in scenes)
        raise DataError(
            f"{len(missing)} of {total} label files are missing, the first:\n    {listed}",
            "a labels.npz for every keyframe",
            "complete the labels, or pass --allow-missing-labels to leave those frames out (scenes are cut there)",
        )
    gone = set(missing)
    complete = [part for scene in scenes for part in _cut(scene, gone)] if gone else scenes
    if not complete:
        raise DataError(f"no keyframe has labels under {folder}", "label files", "unpack the labels there")
    return complete, missing


def _cut(scene: _Scene, gone: set[Path]) -> list[_Scene]:
    runs: list[list[int]] = []
    for i, path in enumerate(scene.label_paths):
        if path in gone:
            continue
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    if runs and len(runs[0]) == len(scene.samples):
        return [scene]
    return [
        _Scene(
            name=scene.name if number == 1 else f"{scene.name}#{number}",
            split=scene.split,
            samples=[scene.samples[i] for i in run],
            label_paths=[scene.label_paths[i] for i in run],
        )
        for number, run in enumerate(runs, start=1)
    ]


def _unusual_steps(scene: _Scene) -> int:
    dt_s = np.diff([sample["timestamp"] for sample in scene.samples]) * 1e-6
    return int(((dt_s < USUAL_STEP_S[0]) | (dt_s > USUAL_STEP_S[1])).sum())


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
