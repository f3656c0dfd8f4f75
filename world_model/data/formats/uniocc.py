"""UniOcc (Wang et al., ICCV 2025) -> `DataSet`. It needs no licence click and no devkit.

    ROOT/scene_infos.pkl             [{"scene_name": ..., "occ_in_scene_paths": ["<scene>/<frame>.npz", ...]}, ...]
    ROOT/<scene>/<frame>.npz         occ_label (200, 200, 16), ego_to_world_transformation (4, 4), annotations, ...

ROOT is one of its data sets (NuScenes-via-Occ3D-2Hz-mini, Waymo-via-Occ3D-2Hz-val, ...) or a folder of several. The
folder's name says rate and split: "-train" is the training split, all else is held out; of an even rate every n-th
frame is used (of 10 Hz the fifth). UniOcc has no timestamps: frames are taken to be as far apart as the name says. Its
eleven classes are fewer than Occ3D's eighteen (`world_model.data.labels.UNIOCC_CLASSES`): every motor vehicle on four
wheels is a car.

The npz holds objects as pickled dicts; they are read by `world_model.data.formats.pickles`, so nothing in them is run.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import DataError
from world_model.core.files import DAMAGED_NPZ, read_npy
from world_model.core.grid import CLASS_ID, FREE
from world_model.data.formats.pickles import load_object_array, load_pickle
from world_model.data.formats.poses import poses_of_matrices
from world_model.data.formats.recording import DataSet, Recording, boxes_of
from world_model.data.index import Boxes
from world_model.data.labels import UNIOCC_CLASSES

INFOS = "scene_infos.pkl"
STEP_US = 500_000
WORKERS = 4
"""Files that are read at the same time."""
REMEDY = "download the data set's folder again"


def find_datasets(root: Path) -> list[Path]:
    """The UniOcc data sets in a folder: itself, or those of its subfolders that have a ``scene_infos.pkl``."""
    return [root] if (root / INFOS).is_file() else sorted(path.parent for path in root.glob(f"*/{INFOS}"))


def read_uniocc(root: str | Path) -> DataSet:
    """Read the list of scenes and, out of every npz, pose and objects.

    Args:
        root: a UniOcc data set, or a folder of several.

    Raises:
        DataError: a file is missing, damaged or hostile, or holds impossible values.
    """
    root = Path(root)
    folders = find_datasets(root)
    if not folders:
        raise DataError(f"{root} holds no {INFOS}, nor does a folder in it", "a UniOcc data set", REMEDY)
    recordings: list[Recording] = []
    instances: dict[str, int] = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        for folder in folders:
            scenes = _scenes(folder)
            for number, (name, paths) in enumerate(scenes, start=1):
                recordings.append(_recording(name, folder, paths, list(pool.map(_read_frame, paths)), instances))
                if number % 50 == 0 or number == len(scenes):
                    print(f"{folder.name}: {number} of {len(scenes)} scenes read", flush=True)
    names = ", ".join(folder.name for folder in folders)
    return DataSet(
        root=root,
        name=f"uniocc {names}",
        where=f"{root}: {INFOS}",
        recordings=recordings,
        dataset="uniocc",
        label_format="uniocc",
    )


def _rate(folder: Path) -> tuple[int, int]:
    """Of how many recorded frames one is used, and the microseconds from one of these to the next."""
    rate = re.search(r"(\d+)Hz", folder.name)
    hertz = int(rate.group(1)) if rate else 2
    if hertz == 0:
        raise DataError(f"{folder}: frames at {hertz} Hz", "a rate", REMEDY)
    # Of an odd rate no frame lies half a second after another: it is refused, or resampled, as in every format.
    return (1, round(1e6 / hertz)) if hertz % 2 else (hertz // 2, STEP_US)


def _scenes(folder: Path) -> list[tuple[str, list[Path]]]:
    """Name and keyframe files of every scene; of cooperative scenes, of every vehicle."""
    value = load_pickle(folder / INFOS)
    if not isinstance(value, (list, tuple)) or not all(isinstance(scene, dict) for scene in value):
        raise DataError(f"{folder / INFOS} holds a {type(value).__name__}", "a list of dicts", REMEDY)
    found = []
    for scene in value:
        name = scene.get("scene_name")
        if not isinstance(name, str):
            raise DataError(f"{folder / INFOS}: a scene has the keys {sorted(map(str, scene))}", "scene_name", REMEDY)
        egos = scene.get("egos")
        parts = [scene] if egos is None else list(egos)
        for part in parts:
            label = name if egos is None else f"{name}/{part.get('ego_name')}"
            paths = part.get("occ_in_scene_paths")
            if not isinstance(paths, (list, tuple)) or not all(isinstance(path, str) for path in paths):
                raise DataError(f"{folder / INFOS}: scene {label} has no paths", "occ_in_scene_paths", REMEDY)
            found.append((label, [_inside(folder, path) for path in paths][:: _rate(folder)[0]]))
    return found


def _inside(folder: Path, path: str) -> Path:
    parts = Path(path).parts
    if not parts or Path(path).is_absolute() or ".." in parts:
        raise DataError(f"{folder / INFOS} names the file {path!r}", "a path inside the data set", REMEDY)
    return folder.joinpath(*parts)


def _follows(paths: Sequence[Path], stride: int) -> NDArray[Any]:
    """(N,) bool: files are numbered, and the number before this one's is the one that should be."""
    numbers = [int(path.stem) if path.stem.isdecimal() else None for path in paths]
    pairs = zip([None, *numbers], numbers)
    return np.array([a is None or b is None or b - a == stride for a, b in pairs], bool)


def _read_frame(path: Path) -> tuple[NDArray[Any], list[Any]] | None:
    """Pose and objects of a frame; None if there is no such file (a label that is missing, reported later)."""
    key = "ego_to_world_transformation"
    try:
        with open(path, "rb") as stream, zipfile.ZipFile(stream) as archive:
            if f"{key}.npy" not in archive.namelist():
                raise DataError(f"{path} has the keys {archive.namelist()}", f"the key {key}", REMEDY)
            with archive.open(f"{key}.npy") as member:
                pose = read_npy(member)
            if "annotations.npy" not in archive.namelist():
                return pose, []
            with archive.open("annotations.npy") as member:
                # A plain array of no objects is what numpy makes of an empty list.
                objects = (
                    [] if archive.getinfo("annotations.npy").file_size <= 128 else load_object_array(member, str(path))
                )
    except FileNotFoundError:
        return None
    except DataError:
        raise
    except DAMAGED_NPZ as error:
        raise DataError(f"{path} cannot be read ({error})", "an intact npz file", REMEDY) from error
    objects = objects.tolist() if isinstance(objects, np.ndarray) else objects
    objects = objects if isinstance(objects, list) else [objects]
    if not all(isinstance(one, dict) for one in objects):
        raise DataError(f"{path}: annotations hold {type(objects[0]).__name__}", "dicts", REMEDY)
    return pose, objects


def _recording(
    name: str,
    folder: Path,
    paths: Sequence[Path],
    frames: Sequence[tuple[NDArray[Any], list[Any]] | None],
    instances: dict[str, int],
) -> Recording:
    tokens = [f"{name}/{path.stem}" for path in paths]
    there = np.array([n for n, frame in enumerate(frames) if frame is not None], np.int64)
    poses = [frame[0] for frame in frames if frame is not None]
    where = f"{folder / name}: ego_to_world_transformation"
    translation, rotation = _filled(*poses_of_matrices(poses, where, [tokens[n] for n in there]), there, len(paths))
    objects = [_objects(frame[1] if frame else [], path) for frame, path in zip(frames, paths)]
    stride, step_us = _rate(folder)
    return Recording(
        name=name,
        split="train" if folder.name.endswith("-train") else "val",
        token=tokens,
        timestamp_us=np.arange(len(paths), dtype=np.int64) * step_us,
        translation_m=translation,
        rotation=rotation,
        label_path=list(paths),
        follows=_follows(paths, stride),
        boxes=_boxes(objects, instances, step_us * 1e-6),
    )


def _filled(
    translation: NDArray[Any], rotation: NDArray[Any], there: NDArray[Any], count: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Poses of all frames. A missing frame is left out later; until then its neighbours' motion needs a likely pose."""
    if not len(there):
        return np.zeros((count, 3)), np.tile((1.0, 0.0, 0.0, 0.0), (count, 1))
    frames = np.arange(count)
    nearest = np.abs(frames[:, None] - there).argmin(1)
    return np.stack([np.interp(frames, there, translation[:, axis]) for axis in range(3)], -1), rotation[nearest]


@dataclass(frozen=True, kw_only=True)
class _Objects:
    """N objects of one frame: tokens, (N, 4, 4) poses in the ego and the world frame, (N, 3) sizes, (N,) classes."""

    token: list[str]
    to_ego: NDArray[Any]
    to_world: NDArray[Any]
    size_m: NDArray[Any]
    class_id: NDArray[Any]

    def position(self) -> dict[str, NDArray[Any]]:
        """Token -> (3,) position in the world."""
        return {token: pose[:3, 3] for token, pose in zip(self.token, self.to_world)}


def _objects(annotations: Sequence[Mapping[str, Any]], path: Path) -> _Objects:
    rows = [one for one in annotations if _class_of(one, path) != FREE]
    return _Objects(
        token=[str(one.get("token")) for one in rows],
        size_m=_numbers(rows, "size", (3,), path),
        to_ego=_numbers(rows, "agent_to_ego", (4, 4), path),
        to_world=_numbers(rows, "agent_to_world", (4, 4), path),
        class_id=np.array([_class_of(one, path) for one in rows], np.uint8),
    )


def _boxes(frames: Sequence[_Objects], instances: dict[str, int], step_s: float) -> list[Boxes]:
    """Objects of every frame in its ego frame; velocities from their positions one frame before and after."""
    order = [1, 0, 2] if _width_first(frames) else [0, 1, 2]
    positions = [objects.position() for objects in frames]
    return [
        boxes_of(
            objects.to_ego[:, :3, 3],
            objects.size_m[:, order],
            np.arctan2(objects.to_ego[:, 1, 0], objects.to_ego[:, 0, 0]),
            _velocities(
                objects, positions[i - 1] if i else {}, positions[i + 1] if i + 1 < len(frames) else {}, step_s
            ),
            objects.class_id,
            [instances.setdefault(token, len(instances)) for token in objects.token],
        )
        for i, objects in enumerate(frames)
    ]


def _velocities(
    objects: _Objects, before: Mapping[str, NDArray[Any]], after: Mapping[str, NDArray[Any]], step_s: float
) -> NDArray[Any]:
    """(N, 2) m/s along the ego axes, NaN for objects that are in neither of the neighbouring frames."""
    velocity = np.full((len(objects.token), 2), np.nan)
    for n, (token, to_ego, to_world) in enumerate(zip(objects.token, objects.to_ego, objects.to_world)):
        steps = (token in before) + (token in after)
        if steps:
            moved = after.get(token, to_world[:3, 3]) - before.get(token, to_world[:3, 3])
            world_to_ego = to_ego[:3, :3] @ to_world[:3, :3].T
            velocity[n] = (world_to_ego @ moved)[:2] / (steps * step_s)
    return velocity


def _width_first(frames: Sequence[_Objects]) -> bool:
    """Whether sizes are (width, length, height): its README says length first, some of its scripts width first.

    Cars are longer than they are wide, so the data show it.
    """
    cars = [objects.size_m[objects.class_id == CLASS_ID["car"]] for objects in frames]
    longer = np.concatenate([size[:, 1] - size[:, 0] for size in cars]) if cars else np.zeros(0)
    return bool(len(longer)) and bool(np.median(longer) > 0)


def _class_of(one: Mapping[str, Any], path: Path) -> int:
    value = one.get("category_id")
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or int(value) not in UNIOCC_CLASSES:
        raise DataError(f"{path}: an annotation of category_id {value!r}", f"one of {sorted(UNIOCC_CLASSES)}", REMEDY)
    return UNIOCC_CLASSES[int(value)]


def _numbers(rows: Sequence[Mapping[str, Any]], key: str, shape: tuple[int, ...], path: Path) -> NDArray[Any]:
    """(N, *shape) float64 of a key of all objects."""
    values = [np.asarray(one.get(key)) for one in rows]
    for value in values:
        if value.shape != shape or value.dtype.kind not in "iuf" or not np.isfinite(value).all():
            raise DataError(f"{path}: {key} of an annotation is {str(value)[:60]}", f"finite numbers {shape}", REMEDY)
    return np.array(values, np.float64).reshape(-1, *shape)
