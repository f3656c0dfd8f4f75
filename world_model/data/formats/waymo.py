"""Occ3D-Waymo (validation) -> `SceneIndex`.

    ROOT/validation/<scene 000..201>/<frame 000..>_04.npz   labels at 0.4 m (or ROOT/voxel04/validation/...)
    ROOT/cam_infos_vali.pkl                                 [scene][frame][camera]["ego2global"], 4 x 4
    ROOT/waymo_infos_val.pkl                                frames: image.image_idx = ...SSSFFF, timestamp

Waymo is recorded at 10 Hz, and every fifth frame makes a keyframe, as in the original: counted through all scenes in
the order of their timestamps, so that scenes begin at different frames. Its vehicle frame is the ego frame of the grid
(x forward, y left, z up). Classes are mapped where labels are read (`world_model.data.labels.WAYMO_CLASSES`). Objects
are not taken over: the index has no boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import DataError
from world_model.data.formats.gaps import LONGEST_STEP_S, ImportReport, keep_whole
from world_model.data.formats.infos import field, load_infos
from world_model.data.formats.pickles import load_pickle
from world_model.data.formats.poses import poses_of_matrices
from world_model.data.formats.recording import Drive, build_index, source_name
from world_model.data.index import SceneIndex

INFOS, POSES = "waymo_infos_val.pkl", "cam_infos_vali.pkl"
LABEL_FOLDERS = ("validation", "voxel04/validation")
STRIDE = 5
"""Every fifth frame of 10 Hz is a keyframe."""


def find_file(root: Path, name: str) -> Path | None:
    """A file in a folder or in one of its subfolders."""
    found = [root / name, *sorted(root.glob(f"*/{name}"))]
    return next((path for path in found if path.is_file()), None)


def read_waymo(
    root: str | Path,
    *,
    label_folder: str | None = None,
    source: str | None = None,
    index_folder: str | Path | None = None,
    strict: bool = False,
    faithful: bool = False,
) -> tuple[SceneIndex, ImportReport]:
    """Read the two pickles (restricted: nothing in them is run) and look for the labels.

    Args:
        root: the folder of all this.
        label_folder: folder of the scenes' folders; found by itself if it has its usual name.
        source: what the data is, shown beside every result.
        index_folder: where the index will lie. The root, if not given.
        strict: raise if a frame is missing, instead of cutting its scene there.
        faithful: as the original evaluates Waymo: all commands "right", no motion features, transforms to the previous
            frame multiplied the other way round, and nothing cut where the clock jumps.

    Raises:
        DataError: a file is missing, damaged or hostile, or holds values that cannot be.
    """
    root = Path(root)
    paths = {name: find_file(root, name) for name in (INFOS, POSES)}
    for name, path in paths.items():
        if path is None:
            found = f"{root} holds no {name}, nor does a folder in it"
            raise DataError(found, f"{INFOS} and {POSES}, published with Occ3D-Waymo", "put both beside validation/")
    infos, poses = Path(str(paths[INFOS])), Path(str(paths[POSES]))
    labels = root / (label_folder or next((f for f in LABEL_FOLDERS if (root / f).is_dir()), LABEL_FOLDERS[0]))
    if not labels.is_dir():
        raise DataError(f"there is no folder {labels}", "validation/<scene>/<frame>_04.npz", "name --label-folder")
    frames = keyframes(load_infos(infos), infos)
    table = load_pickle(poses)
    drives = [_drive(scene, rows, labels, table, poses, faithful) for scene, rows in frames.items()]
    index = build_index(
        drives,
        index_folder=Path(index_folder) if index_folder else root,
        source=source_name(root, "waymo", source),
        where=str(infos),
        dataset="waymo",
        label_format="waymo",
        truth_format="waymo",
        faithful=faithful,
    )
    follows = np.concatenate([np.diff(rows[:, 0], prepend=rows[0, 0] - STRIDE) == STRIDE for rows in frames.values()])
    longest_step_s = float("inf") if faithful else LONGEST_STEP_S
    return keep_whole(index, strict=strict, follows=follows, longest_step_s=longest_step_s)


def keyframes(infos: Sequence[Mapping[str, Any]], file: Path) -> dict[int, NDArray[Any]]:
    """Every fifth frame, counted through all scenes.

    Args:
        infos: the frames of the info file, in any order.
        file: for messages.

    Returns:
        Scene number -> (N, 2) int64 frame numbers and timestamps (microseconds), in time order; scenes by their first
        timestamp.

    Raises:
        DataError: a frame is named twice, or its number or timestamp cannot be.
    """
    rows = np.array([(*_number(info, file), _time_us(info, file)) for info in infos], np.int64).reshape(-1, 3)
    scenes: dict[int, NDArray[Any]] = {}
    for scene in np.unique(rows[:, 0]):
        chosen = rows[rows[:, 0] == scene][:, 1:]
        chosen = chosen[np.argsort(chosen[:, 0], kind="stable")]
        if (np.diff(chosen[:, 0]) == 0).any():
            raise DataError(f"{file}: scene {scene} has a frame twice", "every frame once", "fetch the file again")
        scenes[int(scene)] = chosen
    ordered = sorted(scenes, key=lambda scene: (int(scenes[scene][0, 1]), scene))
    counted, kept = 0, {}
    for scene in ordered:
        part = scenes[scene][-counted % STRIDE :: STRIDE]
        counted += len(scenes[scene])
        if len(part):
            kept[scene] = part
    _check_rate(kept, file)
    return kept


def _check_rate(scenes: Mapping[int, NDArray[Any]], file: Path) -> None:
    steps = [np.diff(rows[:, 1]) for rows in scenes.values() if len(rows) > 1]
    if steps and not 0.3e6 < float(np.median(np.concatenate(steps))) < 0.8e6:
        typical = float(np.median(np.concatenate(steps)))
        raise DataError(
            f"{file}: five frames typically take {typical:g} units of timestamp",
            "about 500000: microseconds, at 10 frames a second",
            "check that the file has all frames of Waymo, with timestamps in microseconds",
        )


def _number(info: Mapping[str, Any], file: Path) -> tuple[int, int]:
    """Scene and frame number, from an image number that ends in SSSFFF."""
    value = field(field(info, "image", file, dict), "image_idx", file)
    digits = str(value)
    if isinstance(value, bool) or not digits.isdecimal() or len(digits) > 9:
        raise DataError(f"{file}: image_idx is {digits[:40]!r}", "a number that ends in SSSFFF", "fetch the file again")
    return int(digits) // 1000 % 1000, int(digits) % 1000


def _time_us(info: Mapping[str, Any], file: Path) -> int:
    value = field(info, "timestamp", file, (int, float, np.number))
    if not np.isfinite(value) or not 0 <= value < 2**62:
        raise DataError(f"{file}: a timestamp is {value}", "microseconds", "fetch the file again")
    return int(value)


def _drive(scene: int, rows: NDArray[Any], labels: Path, table: Any, file: Path, faithful: bool) -> Drive:
    names = [f"{scene:03d}{frame:03d}" for frame in rows[:, 0]]
    matrices = [_pose(table, scene, int(frame), file) for frame in rows[:, 0]]
    translation, rotation = poses_of_matrices(matrices, f"{file}: ego2global", names)
    return Drive(
        name=f"waymo-{scene:03d}",
        split="val",
        token=names,
        timestamp_us=rows[:, 1],
        translation_m=translation,
        rotation=rotation,
        label_path=[labels / f"{scene:03d}" / f"{frame:03d}_04.npz" for frame in rows[:, 0]],
        command=np.zeros(len(rows), np.int8) if faithful else None,
        motion=np.zeros((len(rows), 3), np.float32) if faithful else None,
    )


def _pose(table: Any, scene: int, frame: int, file: Path) -> Any:
    """[scene][frame][0]["ego2global"] of nested lists or dicts."""
    value = table
    for key in (scene, frame, 0, "ego2global"):
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(
                f"{file} has no pose of scene {scene}, frame {frame} (at {key!r})",
                '[scene][frame][0]["ego2global"], 4 x 4, for every frame of the info file',
                "take both files from one release of Occ3D-Waymo",
            ) from error
    return value
