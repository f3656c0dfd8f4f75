"""UniOcc (Wang et al., ICCV 2025) -> `SceneIndex`. It needs no licence click and no devkit.

    ROOT/scene_infos.pkl             [{"scene_name": ..., "occ_in_scene_paths": ["<scene>/<frame>.npz", ...]}, ...]
    ROOT/<scene>/<frame>.npz         occ_label (200, 200, 16), ego_to_world_transformation (4, 4), annotations, ...

ROOT is one of its data sets (NuScenes-via-Occ3D-2Hz-mini, Waymo-via-Occ3D-2Hz-val, ...) or a folder of several. The
folder's name says rate and split: "-train" is the training split, all else is held out; of 10 Hz every fifth frame is
used. UniOcc has no timestamps: frames are taken to be exactly 0.5 s apart. Its eleven classes are fewer than Occ3D's
eighteen (`world_model.data.labels.UNIOCC_CLASSES`): every motor vehicle on four wheels is a car.

Objects lie in the npz as pickled dicts; they are read by `world_model.data.formats.pickles`, so nothing in them is run.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import DataError
from world_model.core.files import DAMAGED_NPZ
from world_model.core.grid import CLASS_ID, FREE
from world_model.data.formats.gaps import ImportReport, keep_whole
from world_model.data.formats.pickles import load_object_array, load_pickle
from world_model.data.formats.poses import poses_of_matrices
from world_model.data.formats.recording import NO_BOXES, Drive, build_index, source_name
from world_model.data.index import Boxes, SceneIndex
from world_model.data.labels import UNIOCC_CLASSES

INFOS = "scene_infos.pkl"
STEP_US = 500_000
REMEDY = "download the data set's folder again"


def find_datasets(root: Path) -> list[Path]:
    """The UniOcc data sets in a folder: itself, or those of its subfolders that have a ``scene_infos.pkl``."""
    return [root] if (root / INFOS).is_file() else sorted(path.parent for path in root.glob(f"*/{INFOS}"))


def read_uniocc(
    root: str | Path,
    *,
    source: str | None = None,
    index_folder: str | Path | None = None,
    strict: bool = False,
    workers: int = 4,
) -> tuple[SceneIndex, ImportReport]:
    """Read the list of scenes and, out of every npz, pose and objects.

    Args:
        root: a UniOcc data set, or a folder of several.
        source: what the data is, shown beside every result.
        index_folder: where the index will lie. The root, if not given.
        strict: raise if a frame is missing, instead of cutting its scene there.
        workers: files that are read at the same time.

    Raises:
        DataError: a file is missing, damaged or hostile, or holds values that cannot be.
    """
    root = Path(root)
    folders = find_datasets(root)
    if not folders:
        raise DataError(f"{root} holds no {INFOS}, nor does a folder in it", "a UniOcc data set", REMEDY)
    drives: list[Drive] = []
    follows: list[NDArray[Any]] = []
    objects: dict[str, int] = {}
    with ThreadPoolExecutor(workers) as pool:
        for folder in folders:
            scenes = _scenes(folder)
            for number, (name, paths) in enumerate(scenes, start=1):
                frames = list(pool.map(_read_frame, paths))
                drives.append(_drive(name, folder, paths, frames, objects))
                follows.append(_follows(paths, _stride(folder)))
                if number % 50 == 0 or number == len(scenes):
                    print(f"{folder.name}: {number} of {len(scenes)} scenes read", flush=True)
    names = ", ".join(folder.name for folder in folders)
    index = build_index(
        drives,
        index_folder=Path(index_folder) if index_folder else root,
        source=source_name(root, f"uniocc {names}", source),
        where=f"{root}: {INFOS}",
        dataset="uniocc",
        label_format="uniocc",
        truth_format="uniocc",
    )
    return keep_whole(index, strict=strict, follows=np.concatenate(follows))


def _stride(folder: Path) -> int:
    """How many recorded frames make half a second."""
    rate = re.search(r"(\d+)Hz", folder.name)
    hertz = int(rate.group(1)) if rate else 2
    if hertz == 0 or hertz % 2:
        raise DataError(f"{folder}: frames at {hertz} Hz", "an even rate: keyframes are 0.5 s apart", REMEDY)
    return hertz // 2


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
            found.append((label, [_inside(folder, path) for path in paths][:: _stride(folder)]))
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
                pose = np.lib.format.read_array(member, allow_pickle=False)
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


def _drive(
    name: str,
    folder: Path,
    paths: Sequence[Path],
    frames: Sequence[tuple[NDArray[Any], list[Any]] | None],
    numbers: dict[str, int],
) -> Drive:
    tokens = [f"{name}/{path.stem}" for path in paths]
    there = np.array([n for n, frame in enumerate(frames) if frame is not None], np.int64)
    poses = [frame[0] for frame in frames if frame is not None]
    where = f"{folder / name}: ego_to_world_transformation"
    translation, rotation = _filled(*poses_of_matrices(poses, where, [tokens[n] for n in there]), there, len(paths))
    return Drive(
        name=name,
        split="train" if folder.name.endswith("-train") else "val",
        token=tokens,
        timestamp_us=np.arange(len(paths), dtype=np.int64) * STEP_US,
        translation_m=translation,
        rotation=rotation,
        label_path=list(paths),
        boxes=_boxes([frame[1] if frame is not None else [] for frame in frames], paths, numbers),
    )


def _filled(
    translation: NDArray[Any], rotation: NDArray[Any], there: NDArray[Any], count: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Poses of all frames. One that is missing will be left out; its neighbours' motion wants a likely pose for it."""
    if not len(there):
        return np.zeros((count, 3)), np.tile((1.0, 0.0, 0.0, 0.0), (count, 1))
    frames = np.arange(count)
    nearest = np.abs(frames[:, None] - there).argmin(1)
    return np.stack([np.interp(frames, there, translation[:, axis]) for axis in range(3)], -1), rotation[nearest]


def _boxes(frames: Sequence[list[Mapping[str, Any]]], paths: Sequence[Path], numbers: dict[str, int]) -> list[Boxes]:
    """Objects of every frame in its ego frame; velocities from where they stand one frame before and after."""
    local: list[tuple[list[str], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]] = []
    for objects, path in zip(frames, paths):
        rows = [one for one in objects if _class_of(one, path) != FREE]
        names = [str(one.get("token")) for one in rows]
        size = np.array([_size(one, path) for one in rows], np.float64).reshape(-1, 3)
        to_ego = _matrices(rows, "agent_to_ego", path)
        to_world = _matrices(rows, "agent_to_world", path)
        classes = np.array([_class_of(one, path) for one in rows], np.uint8)
        local.append((names, to_ego, to_world, size, classes))
    swap = _width_first(local)
    places = [{token: pose[:3, 3] for token, pose in zip(names, world)} for names, _, world, _, _ in local]
    found = []
    for i, (names, to_ego, to_world, size, classes) in enumerate(local):
        if not names:
            found.append(NO_BOXES)
            continue
        before, after = places[max(i - 1, 0)], places[min(i + 1, len(places) - 1)]
        velocity = np.full((len(names), 2), np.nan)
        for n, token in enumerate(names):
            steps = (i > 0 and token in before) + (i + 1 < len(places) and token in after)
            if steps:
                moved = after.get(token, to_world[n, :3, 3]) - before.get(token, to_world[n, :3, 3])
                turn = to_ego[n, :3, :3] @ to_world[n, :3, :3].T
                velocity[n] = (turn @ moved)[:2] / (steps * STEP_US * 1e-6)
        found.append(
            Boxes(
                center_m=to_ego[:, :3, 3].astype(np.float32),
                size_m=(size[:, [1, 0, 2]] if swap else size).astype(np.float32),
                yaw_rad=np.arctan2(to_ego[:, 1, 0], to_ego[:, 0, 0]).astype(np.float32),
                velocity_mps=velocity.astype(np.float32),
                class_id=classes,
                instance=np.array([numbers.setdefault(token, len(numbers)) for token in names], np.int64),
            )
        )
    return found


def _width_first(local: Sequence[tuple[list[str], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]]) -> bool:
    """Whether sizes are (width, length, height): its README says length first, some of its scripts width first.

    Cars are longer than they are wide, so the data tell.
    """
    sizes = [size[classes == CLASS_ID["car"]] for _, _, _, size, classes in local]
    cars = np.concatenate(sizes) if sizes else np.zeros((0, 3))
    return bool(len(cars)) and bool(np.median(cars[:, 1] - cars[:, 0]) > 0)


def _class_of(one: Mapping[str, Any], path: Path) -> int:
    value = one.get("category_id")
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or int(value) not in UNIOCC_CLASSES:
        raise DataError(f"{path}: an annotation of category_id {value!r}", f"one of {sorted(UNIOCC_CLASSES)}", REMEDY)
    return UNIOCC_CLASSES[int(value)]


def _size(one: Mapping[str, Any], path: Path) -> list[float]:
    size = np.asarray(one.get("size"))
    if size.shape != (3,) or size.dtype.kind not in "iuf" or not np.isfinite(size).all():
        raise DataError(f"{path}: an annotation of size {str(one.get('size'))[:60]}", "3 finite numbers", REMEDY)
    return [float(v) for v in size]


def _matrices(rows: Sequence[Mapping[str, Any]], key: str, path: Path) -> NDArray[Any]:
    """(N, 4, 4) of a key of all objects."""
    values = [np.asarray(one.get(key)) for one in rows]
    if any(v.shape != (4, 4) or v.dtype.kind not in "iuf" or not np.isfinite(v).all() for v in values):
        raise DataError(f"{path}: an annotation without a finite 4 x 4 {key}", "4 x 4 transforms", REMEDY)
    return np.array(values, np.float64).reshape(-1, 4, 4)
