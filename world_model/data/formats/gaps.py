"""What is missing from a data set, and how its scenes are cut so that no frame is missing inside a scene.

A world model takes it for granted that frames are half a second apart, and its memory that no frame was left out. So a
scene is cut wherever a label file is missing, wherever the data say that a frame is missing, and wherever the
timestamps show it. No gap is bridged silently.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import DataError
from world_model.data.index import SceneIndex

USUAL_STEP_S = (0.35, 0.65)
"""Time between keyframes that needs no mention (real ones: 0.40 to 0.60 s)."""
LONGEST_STEP_S = 0.75
"""One and a half steps: between two frames further apart than this, one is missing."""
SHORTEST_PART = 2
"""Frames of the shortest part of a cut scene that is kept: a single frame has no motion."""


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What an import left out, cut or found unusual.

    Attributes:
        frames: frames that the data set names.
        missing_labels: frames without a label file (or without the file of the true labels), which were left out.
        missing_by_split: the same number for every split.
        examples: the first missing files.
        broken_steps: places where the data say that frames between two frames are missing; scenes are cut there.
        long_steps: steps longer than `LONGEST_STEP_S`; scenes are cut there.
        unusual_steps: steps between frames of one scene in the index that are longer or shorter than `USUAL_STEP_S`.
        cut_scenes: scenes of which only parts are left, as NAME, NAME#2, ...
        dropped_scenes: scenes of which nothing is left.
        empty_splits: those of train and val that have no scenes.
        scene_frames: the shortest and the longest scene of the index, in frames.
    """

    frames: int
    missing_labels: int = 0
    missing_by_split: dict[str, int] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    broken_steps: int = 0
    long_steps: int = 0
    unusual_steps: int = 0
    cut_scenes: int = 0
    dropped_scenes: int = 0
    empty_splits: tuple[str, ...] = ()
    scene_frames: tuple[int, int] = (0, 0)

    def warnings(self) -> list[str]:
        """One entry (of one or more lines) for each kind of gap; strict imports refuse data with any."""
        found = []
        if self.missing_labels:
            shares = ", ".join(f"{split} {count}" for split, count in sorted(self.missing_by_split.items()))
            paths = "".join(f"\n    {path}" for path in self.examples)
            found.append(f"{self.missing_labels} of {self.frames} frames without labels left out ({shares}):{paths}")
        if self.broken_steps:
            found.append(f"frames are missing at {self.broken_steps} places between frames that are there")
        if self.long_steps:
            found.append(f"{self.long_steps} steps longer than {LONGEST_STEP_S} s: a frame is missing there")
        if self.cut_scenes or self.dropped_scenes:
            cut = f"{self.cut_scenes} scenes cut into whole parts (NAME, NAME#2, ...)"
            found.append(f"{cut}, {self.dropped_scenes} scenes dropped")
        return found

    def lines(self) -> list[str]:
        """The whole report; the lengths of the scenes alone if nothing is missing or unusual."""
        (low, high), (shortest, longest) = USUAL_STEP_S, self.scene_frames
        lines = [f"scenes of {shortest}..{longest} frames", *(f"WARNING: {text}" for text in self.warnings())]
        if self.cut_scenes or self.dropped_scenes:
            lines[-1] += "; --strict refuses such data"
        if self.unusual_steps:
            lines.append(f"NOTE: {self.unusual_steps} steps between frames lie outside {low}..{high} s")
        return lines + [f"NOTE: split {split!r} is empty: {_WHAT_FAILS[split]}" for split in self.empty_splits]


_WHAT_FAILS = {
    "train": "evaluate and drive with it, but train on other data",
    "val": "evaluate with --split train, and make environments with split='train'",
}


def cut_at_gaps(
    index: SceneIndex,
    *,
    strict: bool,
    follows: NDArray[Any] | None = None,
    longest_step_s: float = LONGEST_STEP_S,
) -> tuple[SceneIndex, ImportReport]:
    """Leave out frames whose label files are missing, and cut scenes wherever a frame is missing.

    Args:
        index: all frames that a data set names.
        strict: raise if a frame is missing.
        follows: (F,) bool, False for frames before which the data say that frames are missing.
        longest_step_s: a longer step means a missing frame; infinity keeps everything together.

    Raises:
        DataError: a frame is missing and ``strict`` is set, or no frame is left.
    """
    files = _label_files(index)
    missing = np.array([not all(map(os.path.isfile, frame)) for frame in files], bool)
    first = np.zeros(len(files), bool)
    first[index.scene_start[:-1]] = True
    broken = np.zeros(len(files), bool) if follows is None else ~follows & ~first
    long = (_steps_s(index) > longest_step_s) & ~first & ~broken
    runs, cut, dropped = [], 0, 0
    for scene, name in enumerate(index.scene_name.tolist()):
        frames = index.frames(scene)
        parts = [p for p in _parts(frames, missing, broken | long) if len(p) >= min(SHORTEST_PART, len(frames))]
        cut += bool(parts) and parts != [frames]
        dropped += not parts
        runs += [(name if n == 1 else f"{name}#{n}", part) for n, part in enumerate(parts, start=1)]
    examples = tuple(f for n in np.flatnonzero(missing)[:5] for f in files[n] if not os.path.isfile(f))
    if not runs and not missing.all():
        raise DataError(
            f"{(~missing).sum()} of {len(files)} frames have labels, but no {SHORTEST_PART} of them follow one another "
            f"({missing.sum()} without labels, {broken.sum()} places where frames are missing, {long.sum()} steps "
            f"longer than {longest_step_s} s){''.join(f'{chr(10)}    without: {path}' for path in examples)}",
            "scenes of frames half a second apart",
            "complete the labels, or prepare the frames that have some with their own tables",
        )
    if not runs:
        listed = "\n    ".join(examples)
        remedy = "unpack the labels there; --label-folder and --truth-folder name other folders"
        raise DataError(f"no frame has labels, the first that are missing:\n    {listed}", "label files", remedy)
    kept = index.part(runs) if (missing | broken | long).any() else index
    step_s = np.delete(_steps_s(kept), kept.scene_start[:-1])
    lengths = np.diff(kept.scene_start)
    split = np.repeat(index.scene_split, np.diff(index.scene_start))[missing]
    report = ImportReport(
        frames=len(files),
        missing_labels=int(missing.sum()),
        missing_by_split={str(name): int((split == name).sum()) for name in np.unique(split)},
        examples=examples,
        broken_steps=int(broken.sum()),
        long_steps=int(long.sum()),
        unusual_steps=int(((step_s < USUAL_STEP_S[0]) | (step_s > USUAL_STEP_S[1])).sum()),
        cut_scenes=cut,
        dropped_scenes=dropped,
        empty_splits=tuple(s for s in ("train", "val") if s not in kept.scene_split),
        scene_frames=(int(lengths.min()), int(lengths.max())),
    )
    if strict and kept is not index:
        found = "\n".join(report.warnings()).replace("\n", "\n  ")
        raise DataError(
            f"data with gaps, refused by --strict:\n  {found}",
            "every frame with its labels",
            "complete the data, or leave --strict out to cut scenes",
        )
    return kept, report


def _steps_s(index: SceneIndex) -> NDArray[Any]:
    """(F,) seconds since the frame before in the index; 0 for the first frame."""
    return np.diff(index.timestamp_us, prepend=index.timestamp_us[:1]) * 1e-6


def _label_files(index: SceneIndex) -> list[tuple[str, ...]]:
    """For every frame the file of its labels and, where they are predictions, that of the true labels."""
    columns = [index.label_path] if index.truth_path is None else [index.label_path, index.truth_path]
    # The folder of the index may not exist yet, so its ".." cannot be left to the file system.
    files = [[os.path.normpath(os.path.join(index.root, path)) for path in column.tolist()] for column in columns]
    return list(zip(*files, strict=True))


def _parts(frames: range, missing: NDArray[Any], cut: NDArray[Any]) -> list[range]:
    """The longest runs of frames of one scene with nothing missing in between."""
    parts: list[range] = []
    for frame in frames:
        if missing[frame]:
            continue
        if parts and parts[-1].stop == frame and not cut[frame]:
            parts[-1] = range(parts[-1].start, frame + 1)
        else:
            parts.append(range(frame, frame + 1))
    return parts
