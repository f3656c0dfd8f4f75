"""What every reader of a format hands over: recordings, frame by frame; and the index made of them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from world_model.core.errors import DataError, OptionError
from world_model.core.geometry import ground_poses, pose_matrix
from world_model.data.ego_motion import commands_from_poses, motion_from_poses
from world_model.data.formats.gaps import LONGEST_STEP_S, ImportReport, cut_at_gaps
from world_model.data.formats.poses import Poses, choose_poses
from world_model.data.formats.tables import read_json
from world_model.data.index import BOX_COLUMNS, Boxes, SceneIndex
from world_model.data.rates import check_rate, half_seconds, recorded_step_s


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One recorded scene of N frames in time order.

    Attributes:
        name: its name, unique in the data set.
        split: "train" or "val".
        token: (N) names of the frames.
        timestamp_us: (N,) int64 rising microseconds.
        translation_m: (N, 3) float64 ego position in the global frame.
        rotation: (N, 4) float64 unit quaternions (w, x, y, z) ego -> global.
        label_path: (N) label files; they may be missing.
        truth_path: (N) files of the true labels, where the labels are predictions.
        command: (N,) int8 commands; derived from the poses if None.
        motion: (N, 3) float32 motion features; derived from the poses if None.
        follows: (N,) bool, False where the data themselves say that frames before this one are missing; all True if
            None.
        boxes: (N) annotated objects of every frame, in its ego frame; None if there are none.
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

    def at_half_seconds(self, where: str) -> Recording:
        """Its frames half a second apart, see `half_seconds`.

        Raises:
            DataError: there are none.
        """
        files = zip(self.label_path, self.truth_path or self.label_path)
        labelled = np.array([all(map(os.path.isfile, pair)) for pair in files], bool)
        rows, joined = half_seconds(self.timestamp_us, labelled, f"{where}: {self.name}")
        if len(rows) == len(self.token):
            return self
        # Nothing may be missing anywhere between two frames that follow one another.
        gaps = np.zeros(len(self.token), int) if self.follows is None else np.cumsum(~self.follows)
        joined &= gaps[rows] == gaps[np.roll(rows, 1)]
        joined[0] = True

        def some(values: Sequence[Any] | None) -> Any:
            return None if values is None else [values[row] for row in rows]

        return replace(
            self,
            token=some(self.token),
            timestamp_us=self.timestamp_us[rows],
            translation_m=self.translation_m[rows],
            rotation=self.rotation[rows],
            label_path=some(self.label_path),
            truth_path=some(self.truth_path),
            command=None if self.command is None else self.command[rows],
            motion=None if self.motion is None else self.motion[rows],
            follows=joined,
            boxes=some(self.boxes),
        )


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """All recordings that a data folder names.

    Attributes:
        root: the data folder.
        name: what real data of this kind are called.
        where: the file that names the frames, for messages.
        recordings: in the order that they have in the index.
        dataset, label_format, faithful: see `SceneIndex`.
        longest_step_s: a longer step means a missing frame; infinity keeps everything together.
    """

    root: Path
    name: str
    where: str
    recordings: Sequence[Recording]
    dataset: str = "nuscenes"
    label_format: str = "occ3d"
    faithful: bool = False
    longest_step_s: float = LONGEST_STEP_S

    def with_labels(self, label_format: str) -> DataSet:
        """The same with label files of another convention.

        Raises:
            OptionError: the format of the data has only one.
        """
        if self.label_format != "occ3d":
            found = f"--labels {label_format} for labels of the format {self.label_format}"
            raise OptionError(found, "--labels only for nuscenes, infos, stcocc", "leave it out")
        return replace(self, label_format=label_format)

    def to_index(
        self,
        *,
        source: str | None = None,
        index_folder: Path | None = None,
        strict: bool = False,
        poses: Poses = "auto",
        to_two_hertz: bool = False,
    ) -> tuple[SceneIndex, ImportReport]:
        """The index of all frames whose label files exist, and what was left out.

        Args:
            source: what the data are, shown beside every result; "synthetic" where the folder is marked so, else
                ``name``.
            index_folder: folder of the index to write; its label paths are relative to it. The root, if not given.
            strict: raise if a frame is missing, instead of cutting its scene there.
            poses: "raw", "planar" (see `ground_poses`) or "auto" (see `choose_poses`; "raw" for ``faithful`` data,
                because published scores were made with such poses).
            to_two_hertz: take the frames half a second apart out of faster recordings (see `half_seconds`).

        Raises:
            DataError: there is no frame, two recordings have the same name, timestamps do not rise, frames are not half
                a second apart, no label file exists, or a frame is missing and ``strict`` is set.
            OptionError: synthetic data would get the name of real data.
        """
        recordings = [recording for recording in self.recordings if len(recording.token)]
        if not recordings:
            raise DataError(f"{self.where} names no frames", "at least one scene", "check the file or folder")
        _check(recordings, self.where)
        step_s = recorded_step_s({recording.name: recording.timestamp_us for recording in recordings})
        if to_two_hertz:
            recordings = [recording.at_half_seconds(self.where) for recording in recordings]
        check_rate({recording.name: recording.timestamp_us for recording in recordings}, self.where)
        index = _index(recordings, index_folder or self.root, self, _source(self.root, self.name, source), poses)
        index = replace(index, recorded_step_s=step_s)
        follows = [np.ones(len(r.token), bool) if r.follows is None else r.follows for r in recordings]
        return cut_at_gaps(index, follows=np.concatenate(follows), longest_step_s=self.longest_step_s, strict=strict)


def boxes_of(
    center_m: NDArray[Any],
    size_m: NDArray[Any],
    yaw_rad: NDArray[Any],
    velocity_mps: NDArray[Any],
    class_id: Any,
    instance: Any,
) -> Boxes:
    """`Boxes` in the number types of the index; see there for shapes and units."""
    return Boxes(
        center_m=center_m.astype(np.float32),
        size_m=size_m.astype(np.float32),
        yaw_rad=yaw_rad.astype(np.float32),
        velocity_mps=velocity_mps.astype(np.float32),
        class_id=np.array(class_id, np.uint8),
        instance=np.array(instance, np.int64),
    )


NO_BOXES = boxes_of(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros((0, 2)), [], [])


def _source(root: Path, name: str, wanted: str | None) -> str:
    """What to call the data: results on synthetic scenes must not look like results on real ones."""
    synthetic = (root / "synthetic.json").exists()
    if synthetic and (recorded := _recorded_in(root)):
        if wanted is not None and "scenarionet" not in wanted:
            remedy = "leave --source out: labels of other data are not comparable with these drawn ones"
            raise OptionError(f"source {wanted!r} for recorded scenarios", 'a name with "scenarionet" in it', remedy)
        return wanted or f"scenarionet ({', '.join(recorded)}; drawn labels)"
    if wanted is not None and synthetic and "synthetic" not in wanted:
        raise OptionError(
            f"source {wanted!r} for {root}, which {root / 'synthetic.json'} marks as synthetic",
            'a name with "synthetic" in it',
            "leave --source out",
        )
    if wanted is not None or not synthetic:
        return wanted or name
    return name.replace("nuscenes", "synthetic") if name.startswith("nuscenes") else f"synthetic, as {name}"


def _recorded_in(root: Path) -> list[str]:
    """The data sets whose recorded scenarios a folder was drawn from; none for procedural scenes."""
    drives = read_json(root / "synthetic.json", dict).get("drives")
    if not isinstance(drives, list):
        return []
    return sorted({str(drive[1]) for drive in drives if isinstance(drive, list) and len(drive) > 1})


def _check(recordings: Sequence[Recording], where: str) -> None:
    seen: set[str] = set()
    for recording in recordings:
        if recording.name in seen:
            found = f"{where}: several scenes are called {recording.name}"
            raise DataError(found, "a name for each", "check the scene names")
        seen.add(recording.name)
        time_us = recording.timestamp_us
        for i in np.flatnonzero(np.diff(time_us) <= 0)[:1]:
            raise DataError(
                f"{where}: in {recording.name} frame {i + 1} ({recording.token[i + 1]}) has the timestamp "
                f"{time_us[i + 1]}, frame {i} before it has {time_us[i]}",
                "timestamps that rise along a scene",
                "fetch the file again",
            )


def _index(recordings: Sequence[Recording], folder: Path, data: DataSet, source: str, wanted: Poses) -> SceneIndex:
    """All frames of all recordings, whether their label files exist or not; label paths relative to ``folder``."""
    start = np.cumsum([0, *(len(r.token) for r in recordings)]).astype(np.int64)
    translation = np.concatenate([r.translation_m for r in recordings])
    rotation = np.concatenate([r.rotation for r in recordings])
    kind = choose_poses("raw" if data.faithful and wanted == "auto" else wanted, translation, rotation)
    if kind == "planar":
        translation, rotation = ground_poses(translation, rotation)
    time_us = np.concatenate([r.timestamp_us for r in recordings]).astype(np.int64)
    poses = pose_matrix(torch.from_numpy(translation), torch.from_numpy(rotation)).numpy()
    command, motion = [], []
    for r, (a, b) in zip(recordings, itertools.pairwise(start)):
        command.append(commands_from_poses(poses[a:b]) if r.command is None else r.command)
        motion.append(motion_from_poses(poses[a:b], time_us[a:b]) if r.motion is None else r.motion)
    boxes = [one for r in recordings for one in (r.boxes or [NO_BOXES] * len(r.token))]
    truth = [_relative(path, folder) for r in recordings for path in r.truth_path or ()]
    return SceneIndex(
        root=folder,
        source=source,
        scene_name=np.array([r.name for r in recordings]),
        scene_split=np.array([r.split for r in recordings]),
        scene_start=start,
        token=np.array([token for r in recordings for token in r.token]),
        label_path=np.array([_relative(path, folder) for r in recordings for path in r.label_path]),
        truth_path=np.array(truth) if truth else None,
        timestamp_us=time_us,
        translation_m=translation,
        rotation=rotation,
        command=np.concatenate(command).astype(np.int8),
        motion=np.concatenate(motion).astype(np.float32),
        box_start=np.cumsum([0, *(len(one.class_id) for one in boxes)]).astype(np.int64),
        **{column: np.concatenate([getattr(one, name) for one in boxes]) for column, name in BOX_COLUMNS.items()},
        dataset=data.dataset,
        label_format=data.label_format,
        truth_format=data.label_format,
        faithful=data.faithful,
        poses=kind,
    )


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
