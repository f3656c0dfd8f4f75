"""Look at one npz file: labels of a keyframe in any known format, or a forecast that `generate` wrote."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from world_model.core.errors import DataError, IIWorldError, OptionError
from world_model.core.files import DAMAGED_NPZ
from world_model.core.grid import FREE, OCC3D, STEP_S, VoxelGrid
from world_model.data.labels import LABEL_FORMATS, read_labels, read_labels_of
from world_model.pictures.bev import birds_eye
from world_model.pictures.camera import Camera
from world_model.pictures.drive import drive_film, drive_strip, path_from
from world_model.pictures.strip import below, beside, caption, legend
from world_model.pictures.video import write_film, write_png
from world_model.pictures.voxels import CHASE, voxels_3d


@dataclass(frozen=True, kw_only=True)
class Visualize:
    """Draw an npz file as a picture; a forecast also as a film.

    Labels of Occ3D, STCOcc, Occ3D-Waymo and UniOcc are recognised by the name of their array.

    Try:
      python -m world_model.visualize gts/scene-0001/TOKEN/labels.npz
      python -m world_model.visualize gts/scene-0001/TOKEN/labels.npz --mask camera --height 900
      python -m world_model.visualize stc-results/scene-0001/TOKEN/labels.npz --against gts/scene-0001/TOKEN/labels.npz
      python -m world_model.visualize outputs/generate/scene-0001_004_logged/forecast.npz
      python -m world_model.visualize outputs/generate/scene-0001_004_logged/forecast.npz --moment 6
    """

    file: Annotated[Path, tyro.conf.Positional]
    """A labels file, or a forecast.npz of `python -m world_model.generate`."""
    against: Path | None = None
    """A second file of the same kind, drawn below the first; from above also where the two differ, if their poses are
    the same."""
    out: Path | None = None
    """Where to write, without suffix. If not given: beside the file, under its name."""
    view: Literal["both", "bev", "voxels"] = "both"
    """From above, in 3D, or both."""
    mask: Literal["none", "lidar", "camera"] = "none"
    """Show only the voxels that the lidar or the cameras have seen (labels that hold masks)."""
    moment: int | None = None
    """Step of a forecast to draw in full size instead of strips and film; 0 is the start."""
    film: Literal["gif", "mp4", "none"] = "gif"
    """Film of a forecast; mp4 needs the extra `video`, else a GIF is written."""
    height: int = 600
    """Height of the picture of one keyframe in pixels."""
    camera_m: tuple[float, float, float] = CHASE.position_m
    """Place of the camera in the ego frame, metres."""
    target_m: tuple[float, float, float] = CHASE.target_m
    """The point the camera looks at."""

    def __post_init__(self) -> None:
        if not 50 <= self.height <= 4000:
            raise OptionError(f"--height {self.height}", "50..4000 pixels", "choose another height")


@dataclass(frozen=True, kw_only=True)
class _Forecast:
    """Labels of every moment, the observed start first where the file has it, with the poses of the ego."""

    labels: list[NDArray[Any]]
    poses: NDArray[Any]
    first: int

    @property
    def grid(self) -> VoxelGrid:
        return _grid_of(self.labels[0])


def visualize(options: Visualize) -> list[Path]:
    """Write the pictures and return where they lie.

    Raises:
        DataError: a file is missing, damaged or of another format, or the two do not fit together.
        OptionError: an option does not fit the file.
        OutputError: a picture cannot be written.
    """
    target = options.out or options.file.with_suffix("")
    kinds = [_is_forecast(file) for file in (options.file, options.against) if file is not None]
    if len(set(kinds)) > 1:
        found = f"{options.file} and {options.against}"
        raise DataError(found, "two files of labels or two forecasts", "compare files of one kind")
    if kinds[0]:
        return _forecasts(options, target)
    if options.moment is not None:
        raise OptionError(f"--moment {options.moment} of {options.file}", "a forecast", "leave it out for labels")
    pictures = [_keyframe(_labels(options.file, options.mask), options)]
    if options.against is not None:
        pictures.append(_keyframe(_labels(options.against, options.mask), options))
        if pictures[0].shape != pictures[1].shape:
            raise DataError(f"{options.file} and {options.against} differ in their grids", "labels on one grid")
        names = (options.file, options.against)
        pictures = [caption(picture, _short(name)) for picture, name in zip(pictures, names, strict=True)]
    picture = below(*pictures, legend(pictures[0].shape[1]))
    return [write_png(_named(target, ".png"), picture)]


def _keyframe(labels: NDArray[Any], options: Visualize, path_m: NDArray[Any] | None = None) -> NDArray[Any]:
    camera, grid = Camera(position_m=options.camera_m, target_m=options.target_m), _grid_of(labels)
    views = []
    if options.view != "bev":
        size = (options.height * 4 // 3, options.height)
        views.append(voxels_3d(labels, size=size, camera=camera, grid=grid, path_m=path_m))
    if options.view != "voxels":
        scale = max(1, options.height // labels.shape[0])
        views.append(birds_eye(labels, scale=scale, grid=grid, ranges=True, path_m=path_m))
    return beside(*views)


def _labels(file: Path, mask: str) -> NDArray[Any]:
    keys = _keys(file)
    name = next((name for name, kind in LABEL_FORMATS.items() if kind.key in keys), None)
    if name is None:
        known = [kind.key for kind in LABEL_FORMATS.values()]
        raise DataError(f"{file} has the keys {sorted(keys)}", f"one of {known}, or a forecast", "check the file")
    shape = _array(file, LABEL_FORMATS[name].key).shape
    if len(shape) != 3 or not all(shape):
        raise DataError(f"{file}: {LABEL_FORMATS[name].key} is {shape}", "(X, Y, Z)", "check the file")
    labels = read_labels_of(file, name, shape)
    if mask == "none":
        return labels
    return np.where(read_labels(file, f"mask_{mask}", shape) > 0, labels, FREE).astype(np.uint8)


def _forecasts(options: Visualize, target: Path) -> list[Path]:
    ours = _read_forecast(options.file)
    theirs = _read_forecast(options.against) if options.against is not None else None
    if theirs is not None and theirs.labels[0].shape != ours.labels[0].shape:
        raise DataError(f"{options.file} and {options.against} differ in their grids", "forecasts on one grid")
    if options.moment is not None:
        return [_moment([f for f in (ours, theirs) if f is not None], options, target)]
    names = [_short(file) for file in (options.file, options.against) if file is not None]
    both = [forecast for forecast in (ours, theirs) if forecast is not None]
    rows: dict[str, Sequence[NDArray[Any] | None]] = {n: f.labels for n, f in zip(names, both, strict=True)}
    if len(rows) < len(both):
        names = ["first", "second"]
        rows = {n: f.labels for n, f in zip(names, both, strict=True)}
    poses = {n: f.poses for n, f in zip(names, both, strict=True)}
    same = theirs is not None and ours.poses.shape == theirs.poses.shape and np.allclose(ours.poses, theirs.poses)
    compare = (names[0], names[1]) if same else None
    written = []
    if options.view != "voxels":
        strip = drive_strip(rows, poses, title=names[0], grid=ours.grid, compare=compare)
        written.append(write_png(_named(target, ".png"), strip))
    if options.view != "bev":
        strip = drive_strip(rows, poses, title=names[0], view="voxels", columns=5, grid=ours.grid)
        written.append(write_png(_named(target, "_3d.png"), strip))
    if options.film != "none":
        frames = [drive_film(f.labels, f.poses, title=n, grid=f.grid) for n, f in zip(names, both, strict=True)]
        film = [below(*moments) for moments in zip(*frames, strict=False)]
        written.append(write_film(_named(target, f".{options.film}"), film))
    return written


def _moment(forecasts: list[_Forecast], options: Visualize, target: Path) -> Path:
    pictures = []
    for forecast in forecasts:
        step = (options.moment or 0) - forecast.first
        if not 0 <= step < len(forecast.labels):
            last = forecast.first + len(forecast.labels) - 1
            raise OptionError(f"--moment {options.moment}", f"{forecast.first}..{last}", "choose another step")
        picture = _keyframe(forecast.labels[step], options, path_from(forecast.poses, step, step))
        pictures.append(caption(picture, f"+{(options.moment or 0) * STEP_S:.1f} s"))
    picture = below(*pictures, legend(pictures[0].shape[1]))
    return write_png(_named(target, f"_{options.moment:03d}.png"), picture)


def _read_forecast(file: Path) -> _Forecast:
    occupancy, poses = (_array(file, key) for key in ("occupancy", "ego_to_global"))
    remedy = "write it again with `python -m world_model.generate`"
    if (
        occupancy.ndim != 4
        or not occupancy.size
        or occupancy.dtype.kind not in "iu"
        or occupancy.min() < 0
        or occupancy.max() > FREE
    ):
        found = f"{file}: occupancy is {occupancy.dtype} {occupancy.shape}"
        raise DataError(found, f"(H, X, Y, Z) integers 0..{FREE}", remedy)
    if (
        poses.shape != (len(occupancy) + 1, 4, 4)
        or poses.dtype.kind != "f"
        or not np.isfinite(poses).all()
        or (np.abs(np.linalg.det(poses)) < 1e-6).any()
    ):
        found = f"{file}: ego_to_global is {poses.dtype} {poses.shape}"
        raise DataError(found, f"{(len(occupancy) + 1, 4, 4)} finite poses", remedy)
    start = [_start(file, occupancy.shape[1:])] if "start" in _keys(file) else []
    labels = [frame.astype(np.uint8) for frame in (*start, *occupancy)]
    return _Forecast(labels=labels, poses=poses[-len(labels) :], first=1 - len(start))


def _start(file: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    start = _array(file, "start")
    if start.shape != shape or start.dtype.kind not in "iu" or start.min() < 0 or start.max() > FREE:
        raise DataError(
            f"{file}: start is {start.dtype} {start.shape}", f"{shape} integers 0..{FREE}", "write it again"
        )
    return start


def _grid_of(labels: NDArray[Any]) -> VoxelGrid:
    """The grid of labels that do not say theirs: Occ3D's, or one with its voxels around the ego."""
    if labels.shape == OCC3D.shape:
        return OCC3D
    x, y, z = labels.shape
    return VoxelGrid(shape=(x, y, z), lower_m=(-x * 0.2, -y * 0.2, OCC3D.lower_m[2]))


def _is_forecast(file: Path) -> bool:
    return _keys(file) >= {"occupancy", "ego_to_global"}


def _short(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"


def _named(target: Path, ending: str) -> Path:
    return target.with_name(target.name + ending)


def _keys(file: Path) -> set[str]:
    if not file.exists():
        raise DataError(f"{file} does not exist", "an npz file", "check the path")
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return set(archive.files)
    except (*DAMAGED_NPZ, AttributeError, TypeError) as error:
        raise DataError(f"{file} cannot be read ({error})", "an npz file", "write or fetch it again") from error


def _array(file: Path, key: str) -> NDArray[Any]:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return archive[key]
    except DAMAGED_NPZ as error:
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
