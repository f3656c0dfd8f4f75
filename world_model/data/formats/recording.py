"""What every reader of a format hands over: drives, frame by frame; and the index made of them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from world_model.core.errors import DataError, OptionError
from world_model.core.geometry import pose_matrix
from world_model.data.ego_motion import commands_from_poses, motion_from_poses
from world_model.data.index import Boxes, SceneIndex


@dataclass(frozen=True, kw_only=True)
class Drive:
    """One recorded scene of N frames in time order, as a reader found it.

    Attributes:
        name: its name, unique in the data set.
        split: "train" or "val".
        token: (N) names of the frames.
        timestamp_us: (N,) int64 rising microseconds.
        translation_m: (N, 3) float64 ego position in the global frame.
        rotation: (N, 4) float64 unit quaternions (w, x, y, z) ego -> global.
        label_path: (N) label files, there or not.
        truth_path: (N) files of the true labels, where the labels are predictions.
        command: (N,) int8 commands; derived from the poses if None.
        motion: (N, 3) float32 motion features; derived from the poses if None.
        follows: (N,) bool, False where the data themselves say that frames before this one are missing.
        boxes: (N) annotated objects of every frame, in its ego frame; None if there are none or they come separately.
    """

    name: str
    split: str
    token: Sequence[str]
    timestamp_us: NDArray[Any]
    translation_m: NDArray[Any]
    rotation: NDArray[Any]
    label_path: Sequence[Path]
    truth_path: Sequence[Path] | None = None
    command: NDArray[Any] | None = None
    motion: NDArray[Any] | None = None
    follows: NDArray[Any] | None = None
    boxes: Sequence[Boxes] | None = None


NO_BOXES = Boxes(
    center_m=np.zeros((0, 3), np.float32),
    size_m=np.zeros((0, 3), np.float32),
    yaw_rad=np.zeros(0, np.float32),
    velocity_mps=np.zeros((0, 2), np.float32),
    class_id=np.zeros(0, np.uint8),
    instance=np.zeros(0, np.int64),
)


def build_index(
    drives: Sequence[Drive],
    *,
    index_folder: Path,
    source: str,
    where: str,
    boxes: dict[str, NDArray[Any]] | None = None,
    dataset: str = "nuscenes",
    label_format: str = "occ3d",
    truth_format: str = "occ3d",
    faithful: bool = False,
) -> SceneIndex:
    """All frames of all drives as an index, whether their label files are there or not.

    Args:
        drives: at least one, each with at least one frame.
        index_folder: where the index will lie; label paths are relative to it.
        source: what the data are, shown beside every result.
        where: the file that names the frames, for messages.
        boxes: the box columns of the index, where the drives have none.
        dataset, label_format, truth_format, faithful: see `SceneIndex`.

    Raises:
        DataError: there is no frame, two drives have the same name, or timestamps do not rise.
    """
    drives = [drive for drive in drives if len(drive.token)]
    if not drives:
        raise DataError(f"{where} names no frames", "at least one scene", "check that this is the right file or folder")
    _check(drives, where)
    start = np.cumsum([0, *(len(drive.token) for drive in drives)]).astype(np.int64)
    translation = np.concatenate([drive.translation_m for drive in drives])
    rotation = np.concatenate([drive.rotation for drive in drives])
    time_us = np.concatenate([drive.timestamp_us for drive in drives]).astype(np.int64)
    poses = pose_matrix(torch.from_numpy(translation), torch.from_numpy(rotation)).numpy()
    command, motion = [], []
    for drive, (a, b) in zip(drives, itertools.pairwise(start)):
        command.append(commands_from_poses(poses[a:b]) if drive.command is None else drive.command)
        motion.append(motion_from_poses(poses[a:b], time_us[a:b]) if drive.motion is None else drive.motion)
    truth = [_relative(path, index_folder) for drive in drives for path in drive.truth_path or ()]
    return SceneIndex(
        root=index_folder,
        source=source,
        scene_name=np.array([drive.name for drive in drives]),
        scene_split=np.array([drive.split for drive in drives]),
        scene_start=start,
        token=np.array([token for drive in drives for token in drive.token]),
        label_path=np.array([_relative(path, index_folder) for drive in drives for path in drive.label_path]),
        truth_path=np.array(truth) if truth else None,
        timestamp_us=time_us,
        translation_m=translation,
        rotation=rotation,
        command=np.concatenate(command).astype(np.int8),
        motion=np.concatenate(motion).astype(np.float32),
        dataset=dataset,
        label_format=label_format,
        truth_format=truth_format,
        faithful=faithful,
        **(_box_columns(drives) if boxes is None else boxes),
    )


def source_name(root: Path, name: str, wanted: str | None) -> str:
    """What to call the data: results on synthetic scenes must never pass for results on real ones.

    Args:
        root: the data folder; ``synthetic.json`` in it marks synthetic data.
        name: what real data of this kind are called.
        wanted: what the user wants to call them.

    Raises:
        OptionError: synthetic data are to be called something else.
    """
    synthetic = (root / "synthetic.json").exists()
    if wanted is not None and synthetic and "synthetic" not in wanted:
        raise OptionError(
            f"source {wanted!r} for {root}, which {root / 'synthetic.json'} marks as synthetic",
            'a name with "synthetic" in it',
            "leave --source out",
        )
    if wanted is not None or not synthetic:
        return wanted or name
    return name.replace("nuscenes", "synthetic") if name.startswith("nuscenes") else f"synthetic, as {name}"


def _check(drives: Sequence[Drive], where: str) -> None:
    names = [drive.name for drive in drives]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DataError(f"{where}: several scenes are called {twice[0]}", "a name for each", "check the scene names")
    for drive in drives:
        wrong = np.flatnonzero(np.diff(drive.timestamp_us) <= 0)
        if len(wrong):
            i = int(wrong[0])
            raise DataError(
                f"{where}: in {drive.name} frame {i + 1} ({drive.token[i + 1]}) has the timestamp "
                f"{drive.timestamp_us[i + 1]}, frame {i} before it has {drive.timestamp_us[i]}",
                "timestamps that rise along a scene",
                "fetch the file again",
            )


def _box_columns(drives: Sequence[Drive]) -> dict[str, NDArray[Any]]:
    frames = [boxes for drive in drives for boxes in (drive.boxes or [NO_BOXES] * len(drive.token))]
    columns = {
        f"box_{column}": np.concatenate([getattr(boxes, name) for boxes in frames])
        for column, name in (
            *(("center_m", "center_m"), ("size_m", "size_m"), ("yaw_rad", "yaw_rad")),
            *(("velocity_mps", "velocity_mps"), ("class", "class_id"), ("instance", "instance")),
        )
    }
    counts = [len(boxes.class_id) for boxes in frames]
    return {"box_start": np.cumsum([0, *counts]).astype(np.int64), **columns}


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
