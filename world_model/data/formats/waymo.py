"""Occ3D-Waymo (validation) -> `DataSet`.

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
from world_model.data.formats.gaps import LONGEST_STEP_S
from world_model.data.formats.infos import field, load_infos
from world_model.data.formats.pickles import load_pickle
from world_model.data.formats.poses import poses_of_matrices
from world_model.data.formats.recording import DataSet, Recording

INFOS, POSES = "waymo_infos_val.pkl", "cam_infos_vali.pkl"
LABEL_FOLDERS = ("validation", "voxel04/validation")
STRIDE = 5
"""Every fifth frame of 10 Hz is a keyframe."""


def find_file(root: Path, name: str) -> Path | None:
    """A file in a folder or in one of its subfolders."""
    found = [root / name, *sorted(root.glob(f"*/{name}"))]
    return next((path for path in found if path.is_file()), None)


def read_waymo(root: str | Path, *, label_folder: str | None = None, faithful: bool = False) -> DataSet:
    """Read the two pickles (restricted: nothing in them is run).

    Args:
        root: the folder of all this.
        label_folder: folder of the scenes' folders; found by itself if it has its usual name.
        faithful: as the original evaluates Waymo: all commands "right", no motion features, transforms to the previous
            frame multiplied in the other order, and nothing cut where the timestamps jump.

    Raises:
        DataError: a file is missing, damaged or hostile, or holds impossible values.
    """
    root = Path(root)
    infos, poses = (_required(root, name) for name in (INFOS, POSES))
    labels = root / (label_folder or next((f for f in LABEL_FOLDERS if (root / f).is_dir()), LABEL_FOLDERS[0]))
    if not labels.is_dir():
        raise DataError(f"there is no folder {labels}", "validation/<scene>/<frame>_04.npz", "name --label-folder")
    frames = keyframes(load_infos(infos), infos)
    table = load_pickle(poses)
    return DataSet(
        root=root,
        name="waymo",
        where=str(infos),
        recordings=[_recording(scene, rows, labels, table, poses, faithful) for scene, rows in frames.items()],
        dataset="waymo",
        label_format="waymo",
        faithful=faithful,
        longest_step_s=float("inf") if faithful else LONGEST_STEP_S,
    )


def _required(root: Path, name: str) -> Path:
    path = find_file(root, name)
    if path is None:
        found = f"{root} holds no {name}, nor does a folder in it"
        raise DataError(found, f"{INFOS} and {POSES}, published with Occ3D-Waymo", "put both beside validation/")
    return path


def keyframes(infos: Sequence[Mapping[str, Any]], file: Path) -> dict[int, NDArray[Any]]:
    """Every fifth frame, counted through all scenes.

    Args:
        infos: the frames of the info file, in any order.
        file: for messages.

    Returns:
        Scene number -> (N, 2) int64 frame numbers and timestamps (microseconds), in time order; scenes by their first
        timestamp.

    Raises:
        DataError: a frame is named twice, or its number or timestamp is impossible.
    """
    scenes: dict[int, list[tuple[int, int]]] = {}
    for info in infos:
        scene, frame = _number(info, file)
        scenes.setdefault(scene, []).append((frame, _time_us(info, file)))
    for scene, frames in scenes.items():
        frames.sort()
        if len({frame for frame, _ in frames}) < len(frames):
            raise DataError(f"{file}: scene {scene} has a frame twice", "every frame once", "fetch the file again")
    counted, kept = 0, {}
    for scene in sorted(scenes, key=lambda scene: (scenes[scene][0][1], scene)):
        part = scenes[scene][-counted % STRIDE :: STRIDE]
        counted += len(scenes[scene])
        if part:
            kept[scene] = np.array(part, np.int64)
    _check_rate(kept, file)
    return kept


def _check_rate(scenes: Mapping[int, NDArray[Any]], file: Path) -> None:
    steps = [np.diff(rows[:, 1]) for rows in scenes.values() if len(rows) > 1]
    typical = float(np.median(np.concatenate(steps))) if steps else 5e5
    if not 0.3e6 < typical < 0.8e6:
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


def _recording(scene: int, rows: NDArray[Any], labels: Path, table: Any, file: Path, faithful: bool) -> Recording:
    names = [f"{scene:03d}{frame:03d}" for frame in rows[:, 0]]
    matrices = [_pose(table, scene, int(frame), file) for frame in rows[:, 0]]
    translation, rotation = poses_of_matrices(matrices, f"{file}: ego2global", names)
    return Recording(
        name=f"waymo-{scene:03d}",
        split="val",
        token=names,
        timestamp_us=rows[:, 1],
        translation_m=translation,
        rotation=rotation,
        label_path=[labels / f"{scene:03d}" / f"{frame:03d}_04.npz" for frame in rows[:, 0]],
        command=np.zeros(len(rows), np.int8) if faithful else None,
        motion=np.zeros((len(rows), 3), np.float32) if faithful else None,
        follows=np.diff(rows[:, 0], prepend=rows[0, 0] - STRIDE) == STRIDE,
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
