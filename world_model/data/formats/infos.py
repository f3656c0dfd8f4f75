"""The original's info files -> `DataSet`: ``world-nuscenes_infos_{train,val}.pkl`` beside the label folder.

Such a file is a pickle of {"infos": [one dict per keyframe], "metadata": {...}}. What is used of a keyframe:

    token, prev, scene_token, timestamp              its names, and its time (microseconds)
    occ_path                                         .../gts/<scene name>/<token>: the folder of its labels
    ego2global_translation, ego2global_rotation      the ego pose at LiDAR time
    gt_ego_fut_cmd                                   one-hot right, left, straight
    gt_boxes, gt_names, gt_velocity                  objects in the LiDAR frame: x, y, z, width, length, height, and the
                                                     yaw s of the older box convention, s = -yaw - pi/2
    lidar2ego_translation, lidar2ego_rotation        LiDAR frame -> ego frame
    gt_ego_lcf_feat                                  (v right, v forward, ., ., yaw rate, ...) along the LiDAR axes,
                                                     only with ``faithful``

The pickle is read by `world_model.data.formats.pickles`, so nothing in it is run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import DataError
from world_model.core.geometry import rotation_matrix
from world_model.data.formats.annotations import class_of_name
from world_model.data.formats.label_folders import LabelFolders
from world_model.data.formats.pickles import load_pickle
from world_model.data.formats.poses import checked_poses
from world_model.data.formats.recording import NO_BOXES, DataSet, Recording, boxes_of
from world_model.data.index import COMMANDS, Boxes

PATTERN = "*infos*_{split}.pkl"
REMEDY = "take the original's file, or one with the same fields"
Info = Mapping[str, Any]


def find_infos(root: Path) -> list[Path]:
    """The info files in a folder: ``world-nuscenes_infos_train.pkl`` and ``..._val.pkl``, or others of that pattern.

    Raises:
        DataError: there are none, or several for one split.
    """
    found = []
    for split in ("train", "val"):
        files = sorted(p for p in root.glob(PATTERN.format(split=split)) if not p.name.startswith("waymo"))
        chosen = [p for p in files if p.name.startswith("world-nuscenes")] or files
        if len(chosen) > 1:
            names = ", ".join(p.name for p in chosen)
            raise DataError(f"{root} holds several info files: {names}", "one for each split", "choose with --infos")
        found += chosen
    if not found:
        raise DataError(f"{root} holds no info file", "world-nuscenes_infos_train.pkl or _val.pkl", "name --infos")
    return found


def read_infos(
    root: str | Path,
    files: Sequence[Path] = (),
    *,
    label_folder: str = "gts",
    truth_folder: str | None = None,
    faithful: bool = False,
) -> DataSet:
    """Read info files.

    Args:
        root: the folder of the label folder, and of the info files unless they are named.
        files: info files, each named ..._train.pkl or ..._val.pkl.
        label_folder, truth_folder: as `world_model.data.formats.nuscenes.read_nuscenes`.
        faithful: take the motion features of the file, as the original's models were trained with; otherwise they
            are derived from the poses.

    Raises:
        DataError: a file is missing, damaged or hostile, lacks a field, or holds impossible values.
    """
    root = Path(root)
    labels = LabelFolders(root=root, labels=label_folder, truth=truth_folder)
    files = list(files) or find_infos(root)
    recordings: list[Recording] = []
    for file in files:
        scenes = _by_scene(load_infos(file), file)
        print(f"{file.name}: {sum(map(len, scenes))} keyframes of {len(scenes)} scenes", flush=True)
        recordings += [_recording(infos, _split_of(file), labels, faithful, file) for infos in scenes]
    return DataSet(
        root=root,
        name=labels.name,
        where=", ".join(map(str, files)),
        recordings=recordings,
        dataset=labels.dataset,
        faithful=faithful,
    )


def load_infos(file: Path) -> list[Info]:
    """The keyframes of an info file.

    Raises:
        DataError: it is missing, damaged or hostile, or of another structure.
    """
    value = load_pickle(file)
    infos = value.get("infos") if isinstance(value, dict) else value
    if not isinstance(infos, (list, tuple)) or not all(isinstance(info, dict) for info in infos):
        found = f"keys {sorted(map(str, value))[:8]}" if isinstance(value, dict) else f"a {type(value).__name__}"
        raise DataError(f"{file} holds {found}", 'a dict with "infos": a list of dicts', REMEDY)
    return list(infos)


def field(info: Info, key: str, file: Path, kind: type | tuple[type, ...] = object) -> Any:
    """A field of a keyframe.

    Raises:
        DataError: it is not there or of another type; names file, keyframe, key.
    """
    where = f"{file}: keyframe {str(info.get('token', info.get('image', '?')))[:60]}"
    if key not in info:
        raise DataError(f"{where} has no {key}; it has {sorted(map(str, info))[:12]}", f"the field {key}", REMEDY)
    if not isinstance(info[key], kind):
        raise DataError(f"{where}: {key} is a {type(info[key]).__name__}", f"{kind}", REMEDY)
    return info[key]


def _split_of(file: Path) -> str:
    for split in ("train", "val"):
        if file.stem.endswith(f"_{split}"):
            return split
    raise DataError(f"info file {file.name}", "a name that ends in _train.pkl or _val.pkl", "rename the file")


def _by_scene(infos: list[Info], file: Path) -> list[list[Info]]:
    """Keyframes by scene, each in time order, scenes in the order in which they come."""
    scenes: dict[str, list[Info]] = {}
    for info in infos:
        field(info, "token", file, str)
        field(info, "timestamp", file, (int, float, np.number))
        scenes.setdefault(field(info, "scene_token", file, str), []).append(info)
    return [sorted(scene, key=lambda info: info["timestamp"]) for scene in scenes.values()]


def _recording(infos: list[Info], split: str, labels: LabelFolders, faithful: bool, file: Path) -> Recording:
    tokens = [info["token"] for info in infos]
    places = [_place(info, file) for info in infos]
    names = {place.parts[0] for place in places}
    if len(names) > 1:
        raise DataError(f"{file}: scene {infos[0]['scene_token']} has the names {sorted(names)}", "one name", REMEDY)
    translation, rotation = checked_poses(
        [field(info, "ego2global_translation", file) for info in infos],
        [field(info, "ego2global_rotation", file) for info in infos],
        f"{file}: ego2global",
        tokens,
    )
    follows = [True] + [info.get("prev", before) in (before, None) for info, before in zip(infos[1:], tokens)]
    return Recording(
        name=names.pop(),
        split=split,
        token=tokens,
        timestamp_us=np.array([int(info["timestamp"]) for info in infos], np.int64),
        translation_m=translation,
        rotation=rotation,
        label_path=labels.label_paths(places),
        truth_path=labels.truth_paths(places),
        command=_commands(infos, file) if any("gt_ego_fut_cmd" in info for info in infos) else None,
        motion=_motion(infos, file) if faithful else None,
        follows=np.array(follows),
        boxes=[_boxes(info, file) for info in infos],
    )


def _place(info: Info, file: Path) -> Path:
    """<scene name>/<token>, the last two parts of occ_path; a path that would lead elsewhere is refused."""
    parts = Path(field(info, "occ_path", file, str).removesuffix("/labels.npz")).parts[-2:]
    if len(parts) != 2 or not all(re.fullmatch(r"[\w+-][\w.+-]*", part) for part in parts):
        raise _impossible(info, "occ_path", repr(info["occ_path"]), ".../<scene name>/<token>", file)
    return Path(*parts)


def _commands(infos: list[Info], file: Path) -> NDArray[Any]:
    """(N,) int8."""
    rows = [np.asarray(field(info, "gt_ego_fut_cmd", file)).reshape(-1) for info in infos]
    for info, row in zip(infos, rows):
        if row.shape != (3,) or row.dtype.kind not in "biuf" or sorted(row.tolist()) != [0, 0, 1]:
            raise _impossible(info, "gt_ego_fut_cmd", row.tolist()[:6], f"one-hot over {COMMANDS}", file)
    command: NDArray[Any] = np.argmax(rows, axis=1).astype(np.int8)
    return command


def _motion(infos: list[Info], file: Path) -> NDArray[Any]:
    """(N, 3) float32 (vx, vy, yaw rate) of the file, turned out of the LiDAR axes (right, forward) into the ego's."""
    rows = [np.asarray(field(info, "gt_ego_lcf_feat", file)).reshape(-1) for info in infos]
    for info, row in zip(infos, rows):
        if row.size < 5 or row.dtype.kind not in "iuf" or not np.isfinite(row[:5]).all():
            expected = "9 finite numbers: v right, v forward, ., ., yaw rate, ..."
            raise _impossible(info, "gt_ego_lcf_feat", row.tolist()[:9], expected, file)
    motion: NDArray[Any] = np.stack([(row[1], -row[0], row[4]) for row in rows]).astype(np.float32)
    return motion


def _impossible(info: Info, key: str, value: object, expected: str, file: Path) -> DataError:
    return DataError(f"{file}: keyframe {info['token']}: {key} is {value}", expected, REMEDY)


def _boxes(info: Info, file: Path) -> Boxes:
    """The objects of a keyframe, out of the LiDAR frame into the ego frame."""
    if "gt_boxes" not in info:
        return NO_BOXES
    boxes = np.asarray(info["gt_boxes"])
    names = list(field(info, "gt_names", file, (list, tuple, np.ndarray)))
    velocity = np.asarray(info.get("gt_velocity", np.full((len(names), 2), np.nan)))
    if not len(names):
        return NO_BOXES
    if not (_rows(boxes, len(names), 7) and _rows(velocity, len(names), 2) and np.isfinite(boxes[:, :7]).all()):
        found = f"{file}: keyframe {info['token']}: gt_boxes {boxes.shape} {boxes.dtype}, {len(names)} gt_names, "
        expected = "N finite rows of 7 numbers, N names, N velocities of 2 numbers"
        raise DataError(f"{found}gt_velocity {velocity.shape} {velocity.dtype}", expected, REMEDY)
    place, quaternion = checked_poses(
        [field(info, "lidar2ego_translation", file)],
        [field(info, "lidar2ego_rotation", file)],
        str(file),
        [info["token"]],
    )
    rotation = rotation_matrix(quaternion[0])
    yaw = -boxes[:, 6].astype(np.float64) - np.pi / 2
    heading = np.stack((np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)), -1) @ rotation.T
    flat = np.concatenate((velocity[:, :2].astype(np.float64), np.zeros((len(names), 1))), 1)
    return boxes_of(
        boxes[:, :3].astype(np.float64) @ rotation.T + place[0],
        boxes[:, [4, 3, 5]],
        np.arctan2(heading[:, 1], heading[:, 0]),
        (flat @ rotation.T)[:, :2],
        [class_of_name(str(name)) for name in names],
        np.full(len(names), -1),
    )


def _rows(values: NDArray[Any], count: int, width: int) -> bool:
    """Whether values are ``count`` rows of at least ``width`` numbers."""
    return values.ndim == 2 and len(values) == count and values.shape[1] >= width and values.dtype.kind in "iuf"
