"""One generated drive on disk: arrays, strips, vectors of motion, a film, and a summary that comes last."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.files import write_json, write_npz
from world_model.core.geometry import planar_motions
from world_model.core.grid import STEP_S, VoxelGrid
from world_model.data.clips import Clips
from world_model.data.labels import unknown_as_free
from world_model.generation.options import Generate
from world_model.pictures.drive import drive_film, drive_strip
from world_model.pictures.vectors import PREDICTED_COLOR, Vectors, box_vectors, ego_vector
from world_model.pictures.video import write_film, write_png
from world_model.rollouts import Rollout

ARRAYS, ABOVE, VOXELS, MOTION, FILM, SUMMARY = (
    "forecast.npz",
    "birds_eye.png",
    "voxels.png",
    "motion.png",
    "drive",
    "summary.json",
)


@dataclass(frozen=True, kw_only=True)
class GeneratedDrive:
    """A finished rollout (batch 1) and what it was about.

    Attributes:
        options: how it was driven, and which files to write.
        rollout: the forecast, with the labels of all steps.
        clips: the clip of a data set that it started from, with its recorded future.
        grid: of the labels.
        asked: the question that it answers, stored with it.
        same_way: the recorded drive has the same poses, so the two can be compared voxel by voxel.
    """

    options: Generate
    rollout: Rollout
    clips: Clips
    grid: VoxelGrid
    asked: dict[str, object]
    same_way: bool

    @cached_property
    def labels(self) -> list[NDArray[Any]]:
        """(X, Y, Z) uint8 labels: observed at the start, forecast after each step in the ego frame of that step."""
        return [self.clips.occupancy[0, -1].numpy(), *(labels[0].numpy() for labels in self.rollout.occupancy.values())]

    @cached_property
    def ego_to_global(self) -> NDArray[Any]:
        """(H + 1, 4, 4) float64 poses, the current one first."""
        return self.rollout.ego_pose[0].numpy()

    @cached_property
    def predicted(self) -> NDArray[Any] | None:
        """(H, 3) float32 motion that the world predicted for each step; None in worlds without a motion model."""
        return None if self.rollout.predicted is None else self.rollout.predicted[0].numpy()

    @property
    def motions(self) -> NDArray[Any]:
        """(H, 3) planar motion of every step."""
        return planar_motions(self.ego_to_global)

    @property
    def recorded(self) -> list[NDArray[Any] | None]:
        """Labels as recorded, None beyond the end of the scene; the start first."""
        later, valid = self.clips.future_occupancy, self.clips.valid[0, self.clips.past + 1 :]
        assert later is not None
        later = unknown_as_free(later)
        return [self.labels[0], *(v.numpy() if ok else None for v, ok in zip(later[0], valid, strict=True))]


def write_drive(folder: Path, drive: GeneratedDrive) -> None:
    """Write everything; ``summary.json`` comes last and marks the folder as finished.

    Raises:
        OutputError: a file cannot be written.
    """
    wanted = drive.options
    _write_arrays(folder, drive)
    if wanted.labels:
        for step, labels in enumerate(drive.labels[1:], 1):
            write_npz(folder / "labels" / f"{step:03d}" / "labels.npz", semantics=labels)
    if wanted.pictures:
        _write_pictures(folder, drive)
    film = ""
    if wanted.film != "none":
        frames = drive_film(drive.labels, drive.ego_to_global, title=wanted.title, grid=drive.grid)
        film = write_film(folder / f"{FILM}.{wanted.film}", frames).name
    write_json(folder / SUMMARY, _summary(drive, film))


def is_finished(folder: Path, asked: dict[str, object], wanted: Generate) -> bool:
    """Whether the folder answers this question with all the files wanted."""
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8-sig"))
        steps, film = int(summary["steps"]), str(summary["film"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    needed = [ARRAYS, *((ABOVE, VOXELS, MOTION) if wanted.pictures else ())]
    needed += [f"labels/{step:03d}/labels.npz" for step in range(1, steps + 1) if wanted.labels]
    # Without the extra `video` a GIF was written instead, which counts.
    films = {"none": (), "gif": (f"{FILM}.gif",), "mp4": (film or f"{FILM}.mp4",)}[wanted.film]
    return summary.get("asked") == asked and all((folder / name).exists() for name in (*needed, *films))


def contents(wanted: Generate) -> list[str]:
    """Names of the files and folders that are written of each drive."""
    pictures = [ABOVE, VOXELS, MOTION] if wanted.pictures else []
    film = [] if wanted.film == "none" else [f"{FILM}.{wanted.film}" + " (or .gif)" * (wanted.film == "mp4")]
    return [ARRAYS, *pictures, *film, *(["labels/"] if wanted.labels else []), SUMMARY]


def _write_arrays(folder: Path, drive: GeneratedDrive) -> None:
    predicted = {} if drive.predicted is None else {"proposed_motion": drive.predicted}
    write_npz(
        folder / ARRAYS,
        occupancy=np.stack(drive.labels[1:]),
        start=drive.labels[0],
        ego_to_global=drive.ego_to_global,
        command=drive.rollout.commands[0].numpy(),
        time_s=np.arange(1, len(drive.labels)) * STEP_S,
        control=np.array(drive.options.title),
        meta=np.array(json.dumps(drive.asked)),
        **predicted,
    )


def _write_pictures(folder: Path, drive: GeneratedDrive) -> None:
    ours, theirs = drive.options.world_name, "recorded" if drive.same_way else "recorded drive"
    rows: dict[str, Sequence[NDArray[Any] | None]] = {ours: drive.labels, theirs: drive.recorded}
    logged = drive.clips.ego_to_global[0, drive.clips.past :].numpy()
    poses = {ours: drive.ego_to_global, theirs: logged}
    title = f"{drive.asked['scene']} ({drive.asked['data_source']}), control: {drive.options.title}"
    compare = (ours, theirs) if drive.same_way else None
    strip: Callable[..., NDArray[Any]] = drive_strip
    write_png(folder / ABOVE, strip(rows, poses, title=title, grid=drive.grid, compare=compare))
    write_png(folder / VOXELS, strip(rows, poses, title=title, view="voxels", columns=5, grid=drive.grid))
    arrows = {ours: _ego_arrows(drive), theirs: _recorded_arrows(drive, logged)}
    what = "driven (green), recorded agents (white), all for 2 s"
    if drive.predicted is not None:
        own = np.allclose(drive.predicted, drive.motions, atol=1e-3)
        what = f"driven as the model proposes{what[6:]}" if own else f"the model's own proposal (yellow), {what}"
    picture = strip(rows, poses, title=f"{title}: {what}", columns=3, height=2 * 200, grid=drive.grid, vectors=arrows)
    write_png(folder / MOTION, picture)


def _ego_arrows(drive: GeneratedDrive) -> list[list[Vectors]]:
    """For every moment the motion that follows, and the one that the model predicted."""
    arrows: list[list[Vectors]] = []
    for step, motion in enumerate(drive.motions):
        predicted = [] if drive.predicted is None else [ego_vector(drive.predicted[step], PREDICTED_COLOR)]
        arrows.append([*predicted, ego_vector(motion)])
    return [*arrows, []]


def _recorded_arrows(drive: GeneratedDrive, logged: NDArray[Any]) -> list[list[Vectors]]:
    arrows, index = [], drive.clips.index
    assert index is not None
    motions, first = planar_motions(logged), drive.clips.frame[0]
    for step, ok in enumerate(drive.clips.valid[0, drive.clips.past :].tolist()):
        boxes = [box_vectors(index.boxes(first + step))] if ok else []
        arrows.append([*boxes, *([ego_vector(motions[step])] if step < len(motions) else [])])
    return arrows


def _summary(drive: GeneratedDrive, film: str) -> dict[str, object]:
    poses, steps = drive.ego_to_global, len(drive.labels) - 1
    moved = np.linalg.norm(np.diff(poses[:, :2, 3], axis=0), axis=1)
    end = np.linalg.inv(poses[0]) @ poses[-1]
    return {
        "asked": drive.asked,
        "steps": steps,
        "seconds": steps * STEP_S,
        "distance_m": round(float(moved.sum()), 3),
        "top_speed_mps": round(float(moved.max() / STEP_S), 3),
        "end_x_m": round(float(end[0, 3]), 3),
        "end_y_m": round(float(end[1, 3]), 3),
        "end_yaw_rad": round(float(np.arctan2(end[1, 0], end[0, 0])), 4),
        "film": film,
    }
