"""The scene index: everything about a data set except its labels, in one small file.

``python -m world_model.prepare`` writes it once. Training, evaluation and the environment read only this file and the
label files that it names. It is a plain npz of numbers and strings (no pickles), frames in columns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import DataError
from world_model.core.files import DAMAGED_NPZ, cause_of, digest_of_files, remedy_for, write_npz
from world_model.core.geometry import rotation_matrix
from world_model.core.grid import FREE, IGNORE, OCC3D
from world_model.data.labels import LABEL_FORMATS, read_labels_of, read_mask
from world_model.data.rates import is_typical, rate_words, typical_step_s

INDEX_NAME = "iiworld_index.npz"
INDEX_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Version 1 knew one label format and no separate truth; such files are read as Occ3D labels that are the truth."""
DATASETS = ("nuscenes", "stcocc", "waymo", "uniocc")
COMMANDS = ("right", "left", "straight")
POSES = ("raw", "planar")
PARTS_OF_TRAIN, TUNE_PART = ("fit", "tune"), 4
"""Splits that are parts of "train" in data sets that do not name them themselves, and which part is "tune"."""
BOX_COLUMNS = {
    "box_center_m": "center_m",
    "box_size_m": "size_m",
    "box_yaw_rad": "yaw_rad",
    "box_velocity_mps": "velocity_mps",
    "box_class": "class_id",
    "box_instance": "instance",
}
"""Column of the index -> attribute of `Boxes`."""
_META = ("source", "dataset", "label_format", "truth_format", "faithful", "poses", "recorded_step_s")
_FRAME_COLUMNS = {
    **dict.fromkeys(("token", "label_path", "truth_path", "timestamp_us", "command"), ()),
    **{"translation_m": (3,), "rotation": (4,), "motion": (3,)},
}
"""Columns with one row for each frame, and the shape of a row."""
_REMEDY = "run `python -m world_model.prepare` again on the data set"


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Annotated objects of one keyframe, in its ego frame.

    Attributes:
        center_m: (N, 3) box centres, metres.
        size_m: (N, 3) length, width, height, metres.
        yaw_rad: (N,) heading, 0 along ego x.
        velocity_mps: (N, 2) ground velocity along the ego axes, NaN where unknown.
        class_id: (N,) uint8 class ids 0..16.
        instance: (N,) int64 identity, stable over a scene; -1 where the data have none.
    """

    center_m: NDArray[Any]
    size_m: NDArray[Any]
    yaw_rad: NDArray[Any]
    velocity_mps: NDArray[Any]
    class_id: NDArray[Any]
    instance: NDArray[Any]

    def select(self, rows: slice | NDArray[Any]) -> Boxes:
        """Some of the boxes: a slice, a mask (N,) or row numbers."""
        return Boxes(**{name: getattr(self, name)[rows] for name in BOX_COLUMNS.values()})


@dataclass(frozen=True, kw_only=True)
class SceneIndex:
    """All keyframes of a data set, scene after scene, each scene in time order.

    S scenes, F keyframes, N boxes.

    Attributes:
        root: folder that ``label_path`` is relative to (not stored: the folder of the index unless given).
        source: what the data are, e.g. "synthetic" or "nuscenes"; shown beside every result.
        scene_name: (S,) str.
        scene_split: (S,) str, "train" or "val".
        scene_start: (S + 1,) int64, first frame of each scene; the last entry is F.
        token: (F,) str sample tokens.
        label_path: (F,) str, relative to ``root``; empty where the frame has no labels.
        timestamp_us: (F,) int64 microseconds.
        translation_m: (F, 3) float64 ego position in the global frame.
        rotation: (F, 4) float64 unit quaternion (w, x, y, z) ego -> global.
        command: (F,) int8: 0 right, 1 left, 2 straight.
        motion: (F, 3) float32: velocity along ego x and y (m/s) and yaw rate (rad/s), over the step into the frame.
        box_start: (F + 1,) int64, first box of each frame.
        box_center_m, box_size_m, box_yaw_rad, box_velocity_mps, box_class, box_instance: see `Boxes`.
        dataset: which data set it is, one of `DATASETS`: what an environment id asks for.
        label_format: how the files of ``label_path`` are read, one of `LABEL_FORMATS`.
        truth_path: (F,) str, relative to ``root``: the true labels, where ``label_path`` holds the predictions of a
            perception model; None where ``label_path`` is the truth.
        truth_format: how the files of ``truth_path`` are read.
        faithful: prepared with ``--faithful``: commands, motion and (Waymo) frame transforms are the original's.
        poses: one of `POSES`: "raw" as recorded, "planar" projected on the ground plane by ``prepare --poses``.
        recorded_step_s: typical time between the frames of the data set, before ``prepare --resample``; None: unknown.
    """

    root: Path
    source: str
    scene_name: NDArray[Any]
    scene_split: NDArray[Any]
    scene_start: NDArray[Any]
    token: NDArray[Any]
    label_path: NDArray[Any]
    timestamp_us: NDArray[Any]
    translation_m: NDArray[Any]
    rotation: NDArray[Any]
    command: NDArray[Any]
    motion: NDArray[Any]
    box_start: NDArray[Any]
    box_center_m: NDArray[Any]
    box_size_m: NDArray[Any]
    box_yaw_rad: NDArray[Any]
    box_velocity_mps: NDArray[Any]
    box_class: NDArray[Any]
    box_instance: NDArray[Any]
    dataset: str = "nuscenes"
    label_format: str = "occ3d"
    truth_path: NDArray[Any] | None = None
    truth_format: str = "occ3d"
    faithful: bool = False
    poses: str = "raw"
    recorded_step_s: float | None = None

    def __post_init__(self) -> None:
        scenes, frames, boxes = len(self.scene_name), len(self.token), len(self.box_class)
        wanted = {
            "scene_split": (scenes,),
            "scene_start": (scenes + 1,),
            **{name: (frames, *row) for name, row in _FRAME_COLUMNS.items()},
            "box_start": (frames + 1,),
            **{name: (boxes,) for name in BOX_COLUMNS},
            **{"box_center_m": (boxes, 3), "box_size_m": (boxes, 3), "box_velocity_mps": (boxes, 2)},
        }
        for name, shape in wanted.items():
            column = getattr(self, name)
            if column is not None and column.shape != shape:
                raise DataError(f"index column {name} has shape {column.shape}", str(shape), _REMEDY)
        for name, end in (("scene_start", frames), ("box_start", boxes)):
            start = getattr(self, name)
            if start[0] != 0 or start[-1] != end or (np.diff(start) < 0).any():
                found = f"index column {name} is not a list of offsets from 0 to {end}"
                raise DataError(found, "rising offsets", _REMEDY)
        if not (np.isfinite(self.translation_m).all() and np.isfinite(self.rotation).all()):
            raise DataError("the index holds ego poses that are not finite", "finite poses", _REMEDY)
        if not ((self.command >= 0) & (self.command < 3)).all():
            raise DataError("the index holds commands outside 0..2", "0 right, 1 left, 2 straight", _REMEDY)
        if not (self.box_class < FREE).all():
            raise DataError("the index holds box classes outside 0..16", "Occ3D class ids", _REMEDY)
        choices = {"dataset": DATASETS, "label_format": LABEL_FORMATS, "truth_format": LABEL_FORMATS, "poses": POSES}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise DataError(f"the index says {name} = {getattr(self, name)!r}", f"one of {tuple(known)}", _REMEDY)

    def scenes(self, split: str) -> list[int]:
        """Scene numbers of a split.

        Args:
            split: "train", "val", any other that the data set has (such as "test"), or "all"; "tune", the last quarter
                of the train scenes, and "fit", the rest of them, to choose a recipe on scenes that never judge it.

        Raises:
            DataError: the split has no scenes.
        """
        whole = "train" if split in PARTS_OF_TRAIN and split not in self.scene_split else split
        found = [i for i, s in enumerate(self.scene_split) if whole in ("all", s)]
        if whole != split:
            cut = len(found) - len(found) // TUNE_PART
            found = found[cut:] if split == "tune" else found[:cut]
        if not found:
            known = ", ".join(f"{name} ({(self.scene_split == name).sum()})" for name in sorted(set(self.scene_split)))
            raise DataError(
                f"split {split!r} of {self.root} has no scenes", f"one of: {known or 'none'}", "choose another split"
            )
        return found

    def frames(self, scene: int) -> range:
        """Frame numbers of a scene, in time order."""
        return range(int(self.scene_start[scene]), int(self.scene_start[scene + 1]))

    def read_labels(self, frame: int, shape: tuple[int, ...] = OCC3D.shape, *, unknown: int = FREE) -> NDArray[Any]:
        """The observed labels (X, Y, Z) uint8 of a keyframe, in Occ3D classes whatever the files hold; ``unknown``
        (free, as models see it, or `IGNORE`) where they hold 255.

        Raises:
            DataError: the frame has no labels, or its file is missing or damaged.
        """
        return self._read(self.label_path, self.label_format, frame, shape, unknown)

    def read_truth(self, frame: int, shape: tuple[int, ...] = OCC3D.shape) -> NDArray[Any]:
        """The true labels (X, Y, Z) uint8 of a keyframe: what forecasts are scored against; `IGNORE` where nothing is
        known.

        Raises:
            DataError: as `read_labels`.
        """
        if self.truth_path is None:
            return self.read_labels(frame, shape, unknown=IGNORE)
        return self._read(self.truth_path, self.truth_format, frame, shape, IGNORE)

    def read_mask(self, frame: int, mask: str, shape: tuple[int, ...] = OCC3D.shape) -> NDArray[Any]:
        """(X, Y, Z) bool: what the "camera" or the "lidar" of a keyframe has seen, as its true labels say.

        Raises:
            DataError: there is no such mask.
        """
        paths, kind = self.label_path, self.label_format
        if self.truth_path is not None:
            paths, kind = self.truth_path, self.truth_format
        if LABEL_FORMATS[kind].key != "semantics":
            found = f"labels of the format {kind}, which hold no visibility mask"
            raise DataError(found, "Occ3D's mask_camera and mask_lidar", "score without --mask")
        return read_mask(self.root / str(paths[frame]), mask, shape)

    def _read(
        self, paths: NDArray[Any], label_format: str, frame: int, shape: tuple[int, ...], unknown: int
    ) -> NDArray[Any]:
        if not str(paths[frame]):
            raise DataError(
                f"frame {frame} (sample {self.token[frame]}) has no labels in the index",
                "a label file for every frame that is read",
                "run `python -m world_model.prepare` again once the label folder is complete",
            )
        return read_labels_of(self.root / str(paths[frame]), label_format, shape, unknown=unknown)

    def curr_to_prev(self, frame: int) -> NDArray[Any]:
        """(4, 4) float64 transform from a frame's ego frame to that of the frame before it in the index.

        The original's Waymo reader multiplies the poses in the wrong order. A faithful index does the same, because
        published scores were made with it.
        """
        before, now = self.ego_to_global[frame - 1], self.ego_to_global[frame]
        wrong = self.faithful and self.dataset == "waymo"
        transform: NDArray[Any] = now @ np.linalg.inv(before) if wrong else np.linalg.inv(before) @ now
        return transform

    def part(self, runs: Sequence[tuple[str, range]]) -> SceneIndex:
        """Some runs of consecutive frames as scenes of their own.

        Args:
            runs: at least one: name of the new scene and its frame numbers here, all of one scene.
        """
        owner = [int(np.searchsorted(self.scene_start, run.start, side="right")) - 1 for _, run in runs]
        frames = np.concatenate([np.arange(run.start, run.stop) for _, run in runs])
        boxes = np.concatenate([np.arange(self.box_start[run.start], self.box_start[run.stop]) for _, run in runs])
        columns = {name: getattr(self, name)[frames] for name in _FRAME_COLUMNS if getattr(self, name) is not None}
        return replace(
            self,
            scene_name=np.array([name for name, _ in runs], dtype=str),
            scene_split=self.scene_split[owner],
            scene_start=np.cumsum([0, *(len(run) for _, run in runs)]).astype(np.int64),
            box_start=np.cumsum([0, *np.diff(self.box_start)[frames]]).astype(np.int64),
            **columns,
            **{name: getattr(self, name)[boxes] for name in BOX_COLUMNS},
        )

    def boxes(self, frame: int) -> Boxes:
        """Annotated objects of a keyframe, in its ego frame."""
        rows = slice(int(self.box_start[frame]), int(self.box_start[frame + 1]))
        return Boxes(**{name: getattr(self, column)[rows] for column, name in BOX_COLUMNS.items()})

    @cached_property
    def ego_to_global(self) -> NDArray[Any]:
        """(F, 4, 4) float64 poses."""
        pose = np.zeros((len(self.token), 4, 4))
        pose[:, :3, :3] = rotation_matrix(self.rotation / np.linalg.norm(self.rotation, axis=1, keepdims=True))
        pose[:, :3, 3] = self.translation_m
        pose[:, 3, 3] = 1
        return pose

    @cached_property
    def step_s(self) -> float:
        """Typical (median) time between the frames of a scene, seconds; `STEP_S` where no scene has two."""
        return typical_step_s(np.delete(np.diff(self.timestamp_us), self.scene_start[1:-1] - 1))

    @property
    def words(self) -> str:
        """Which index it is, for reports: fingerprint and kind of poses."""
        return f"index {self.fingerprint}, {self.poses} poses"

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of the frames (tokens, poses, commands, splits); every checkpoint stores it."""
        digest = hashlib.sha256(self.source.encode())
        for column in (self.scene_name, self.scene_split, self.token, self.label_path):
            digest.update("\n".join(column.tolist()).encode())
        for column in (self.scene_start, self.timestamp_us, self.translation_m, self.rotation, self.command):
            digest.update(np.ascontiguousarray(column).tobytes())
        # Columns of version 2 count only where they say something, so that older fingerprints stay valid.
        if (self.dataset, self.label_format, self.truth_format, self.faithful) != ("nuscenes", "occ3d", "occ3d", False):
            digest.update(f"{self.dataset} {self.label_format} {self.truth_format} {self.faithful}".encode())
        if self.truth_path is not None:
            digest.update("\n".join(self.truth_path.tolist()).encode())
        return digest.hexdigest()[:16]

    @cached_property
    def labels_digest(self) -> str:
        """Short hash of the label files: paths and sizes of all, and the bytes of some spread over the set. What was
        computed from labels is kept under it; `fingerprint`, which checkpoints name, knows nothing of the labels."""
        columns = [self.label_path] if self.truth_path is None else [self.label_path, self.truth_path]
        return digest_of_files(self.root, [path for column in columns for path in column.tolist()])

    def save(self, path: str | Path) -> None:
        """Write the index atomically."""
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("root", *_META)}
        columns = {name: column for name, column in columns.items() if column is not None}
        meta = {"format": "iiworld-index", "version": INDEX_VERSION, "step_s": self.step_s}
        meta |= {name: getattr(self, name) for name in _META}
        write_npz(path, meta=np.array(json.dumps(meta)), **columns)

    @classmethod
    def load(cls, path: str | Path, root: str | Path | None = None) -> SceneIndex:
        """Read an index file, or the one inside a data folder.

        Args:
            path: the index file, or a folder that holds one.
            root: folder of the labels; the folder of the index, unless given.

        Raises:
            DataError: there is no index, it is damaged or of another version, or its frames are not half a second
                apart (`prepare` once wrote such indexes).
        """
        path = Path(path).expanduser()
        if path.is_dir():
            path = path / INDEX_NAME
        remedy = f"run `python -m world_model.prepare --data-root {quote(str(path.parent))}`"
        if not path.exists():
            raise DataError(f"no index at {path}", f"the file {INDEX_NAME} that prepare writes", remedy)
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
                columns = {name: archive[name] for name in archive.files}
            meta = json.loads(str(columns.pop("meta")))
        except DAMAGED_NPZ as error:
            found = f"the index {path} cannot be read ({cause_of(path, error)})"
            raise DataError(found, "an npz that prepare wrote", remedy_for(error, remedy)) from error
        if meta.get("format") != "iiworld-index" or meta.get("version") not in READABLE_VERSIONS:
            raise DataError(f"the index {path} says {meta}", f"format iiworld-index, version {INDEX_VERSION}", remedy)
        wanted = {f.name for f in fields(cls)} - {"root", *_META}
        if set(columns) | {"truth_path"} != wanted:
            raise DataError(f"the index {path} has columns {sorted(columns)}", f"{sorted(wanted)}", remedy)
        known = {name: meta[name] for name in _META if name in meta}
        if not isinstance(known.pop("source", None), str) or not isinstance(known.get("faithful", False), bool):
            raise DataError(f"the index {path} says {meta}", "a source by name", remedy)
        index = cls(
            root=Path(root).expanduser() if root else path.parent, source=str(meta["source"]), **known, **columns
        )
        if not is_typical(index.step_s):
            found = f"the index {path} has frames that are typically {rate_words(index.step_s)}"
            raise DataError(found, "2 a second: horizons in seconds are counted in frames", f"{remedy} --resample 2")
        return index
