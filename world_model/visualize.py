"""Look at one npz file: occupancy labels of a keyframe, or a forecast that `generate` wrote."""

from __future__ import annotations

import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from world_model.data.labels import read_labels
from world_model.errors import DataError, IIWorldError
from world_model.grid import FREE, OCC3D, VoxelGrid
from world_model.pictures.bev import birds_eye
from world_model.pictures.camera import Camera
from world_model.pictures.drive import drive_film, drive_strip
from world_model.pictures.strip import beside, legend
from world_model.pictures.video import write_gif, write_png
from world_model.pictures.voxels import CHASE, voxels_3d


@dataclass(frozen=True, kw_only=True)
class Visualize:
    """Draw an npz file as a picture; a forecast also as a film.

    Examples:
      python -m world_model.visualize gts/scene-0001/TOKEN/labels.npz
      python -m world_model.visualize outputs/generate/scene-0001_004_logged/forecast.npz
    """

    file: Annotated[Path, tyro.conf.Positional]
    """An Occ3D labels.npz, or a forecast.npz of `python -m world_model.generate`."""
    out: Path | None = None
    """Where to write, without suffix. If not given: beside the file, under its name."""
    view: Literal["both", "bev", "voxels"] = "both"
    """From above, in 3D, or both (labels only; a forecast gets all)."""
    height: int = 600
    """Height of the picture of one keyframe in pixels."""
    camera_m: tuple[float, float, float] = CHASE.position_m
    """Place of the camera in the ego frame, metres."""
    target_m: tuple[float, float, float] = CHASE.target_m
    """The point the camera looks at."""


def visualize(options: Visualize) -> list[Path]:
    """Write the pictures and return where they lie.

    Raises:
        DataError: the file is missing, damaged or of another format.
        OutputError: a picture cannot be written.
    """
    if not options.file.exists():
        raise DataError(f"{options.file} does not exist", "an npz file", "check the path")
    target = options.out or options.file.with_suffix("")
    if _keys(options.file) >= {"occupancy", "ego_to_global"}:
        return _forecast(options.file, target)
    labels = read_labels(options.file)
    return [write_png(target.with_name(target.name + ".png"), _keyframe(labels, options))]


def _keyframe(labels: np.ndarray, options: Visualize) -> np.ndarray:
    camera = Camera(position_m=options.camera_m, target_m=options.target_m)
    views = []
    if options.view != "bev":
        views.append(voxels_3d(labels, size=(options.height * 4 // 3, options.height), camera=camera))
    if options.view != "voxels":
        views.append(birds_eye(labels, scale=max(1, options.height // labels.shape[0]), ranges=True))
    picture = beside(*views)
    return np.concatenate((picture, legend(picture.shape[1])))


def _forecast(file: Path, target: Path) -> list[Path]:
    occupancy, poses = (_array(file, key) for key in ("occupancy", "ego_to_global"))
    if (
        occupancy.ndim != 4
        or not len(occupancy)
        or occupancy.dtype.kind not in "iu"
        or occupancy.min() < 0
        or occupancy.max() > FREE
    ):
        raise DataError(f"{file}: occupancy is {occupancy.dtype} {occupancy.shape}", f"(H, X, Y, Z) integers 0..{FREE}")
    start = [_array(file, "start")] if "start" in _keys(file) else []
    film = [*start, *occupancy]
    if poses.shape != (len(occupancy) + 1, 4, 4) or not np.isfinite(poses).all():
        raise DataError(f"{file}: ego_to_global is {poses.shape}", f"{(len(occupancy) + 1, 4, 4)} finite poses")
    poses = poses[-len(film) :]
    grid = OCC3D if film[0].shape == OCC3D.shape else VoxelGrid(shape=film[0].shape)
    title = f"{file.parent.name}/{file.name}"
    return [
        write_png(target.with_name(target.name + ".png"), drive_strip({"": film}, {"": poses}, title=title, grid=grid)),
        write_png(
            target.with_name(target.name + "_3d.png"),
            drive_strip({"": film}, {"": poses}, title=title, view="voxels", columns=5, grid=grid),
        ),
        write_gif(target.with_name(target.name + ".gif"), drive_film(film, poses, grid=grid)),
    ]


def _keys(file: Path) -> set[str]:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return set(archive.files)
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} cannot be read ({error})", "an npz file", "write or fetch it again") from error


def _array(file: Path, key: str) -> np.ndarray:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return archive[key]
    except (OSError, ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{key} in {file} cannot be read ({error})", "an intact npz file", "write it again") from error


def main() -> None:
    """Command line."""
    try:
        for path in visualize(tyro.cli(Visualize, prog="python -m world_model.visualize")):
            print(f"wrote {path}")
    except IIWorldError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
