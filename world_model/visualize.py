"""Draw one npz file: labels of a keyframe in any known format, or a forecast that `generate` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from world_model.core.command import run
from world_model.core.errors import DataError, OptionError
from world_model.core.grid import STEP_S
from world_model.pictures.camera import Camera
from world_model.pictures.drive import drive_film, drive_strip, path_from, scene_picture
from world_model.pictures.npz_files import Forecast, grid_of, keys_of, read_forecast, read_keyframe
from world_model.pictures.strip import below, caption, legend
from world_model.pictures.video import write_film, write_png
from world_model.pictures.voxels import CHASE


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
    """Show only the voxels inside the LiDAR or the camera mask (labels that hold masks)."""
    moment: int | None = None
    """Step of a forecast to draw in full size instead of strips and film; 0 is the start."""
    film: Literal["gif", "mp4", "none"] = "gif"
    """Film of a forecast; mp4 needs the extra `video`, else a GIF is written."""
    height: int = 600
    """Height of the picture of one keyframe in pixels."""
    camera_m: tuple[float, float, float] = CHASE.position_m
    """Position of the camera in the ego frame, metres."""
    target_m: tuple[float, float, float] = CHASE.target_m
    """The point in the middle of the picture."""

    def __post_init__(self) -> None:
        if not 50 <= self.height <= 4000:
            raise OptionError(f"--height {self.height}", "50..4000 pixels", "choose another height")


def visualize(options: Visualize) -> list[Path]:
    """Write the pictures and return their files.

    Raises:
        DataError: a file is missing, damaged or of another format, or the two do not fit together.
        OptionError: an option does not fit the file.
        OutputError: a picture cannot be written.
    """
    files = [file for file in (options.file, options.against) if file is not None]
    kinds = {keys_of(file) >= {"occupancy", "ego_to_global"} for file in files}
    if len(kinds) > 1:
        found = f"{options.file} and {options.against}"
        raise DataError(found, "two files of labels or two forecasts", "compare files of one kind")
    names = [f"{file.parent.name}/{file.name}" for file in files]
    if kinds.pop():
        forecasts = [read_forecast(file) for file in files]
        _check_grids(options, [forecast.labels[0] for forecast in forecasts])
        return _forecasts(forecasts, names, options) if options.moment is None else [_moment(forecasts, options)]
    if options.moment is not None:
        raise OptionError(f"--moment {options.moment} of {options.file}", "a forecast", "leave it out for labels")
    labels = [read_keyframe(file, options.mask) for file in files]
    _check_grids(options, labels)
    pictures = [_keyframe(one, options) for one in labels]
    if len(files) > 1:
        pictures = [caption(picture, name) for picture, name in zip(pictures, names, strict=True)]
    return [_write(options, ".png", below(*pictures, legend(pictures[0].shape[1])))]


def _check_grids(options: Visualize, labels: list[NDArray[Any]]) -> None:
    if len({one.shape for one in labels}) > 1:
        raise DataError(f"{options.file} and {options.against} differ in their grids", "files on one grid")


def _keyframe(labels: NDArray[Any], options: Visualize, path_m: NDArray[Any] | None = None) -> NDArray[Any]:
    camera, grid = Camera(position_m=options.camera_m, target_m=options.target_m), grid_of(labels)
    view, height = options.view, options.height
    return scene_picture(labels, view=view, height=height, camera=camera, grid=grid, path_m=path_m, ranges=True)


def _forecasts(forecasts: list[Forecast], names: list[str], options: Visualize) -> list[Path]:
    """Strips over time and a film."""
    if len(set(names)) < len(names):
        names = ["first", "second"]
    rows: dict[str, Sequence[NDArray[Any] | None]] = {n: f.labels for n, f in zip(names, forecasts, strict=True)}
    poses, grid = {n: f.poses for n, f in zip(names, forecasts, strict=True)}, forecasts[0].grid
    ours, theirs = forecasts[0].poses, forecasts[-1].poses
    same = len(names) > 1 and ours.shape == theirs.shape and np.allclose(ours, theirs)
    written = []
    if options.view != "voxels":
        compare = (names[0], names[1]) if same else None
        written.append(_write(options, ".png", drive_strip(rows, poses, title=names[0], grid=grid, compare=compare)))
    if options.view != "bev":
        strip = drive_strip(rows, poses, title=names[0], view="voxels", columns=5, grid=grid)
        written.append(_write(options, "_3d.png", strip))
    if options.film != "none":
        films = [drive_film(f.labels, f.poses, title=n, grid=grid) for n, f in zip(names, forecasts, strict=True)]
        film = [below(*moments) for moments in zip(*films, strict=False)]
        written.append(write_film(_target(options, f".{options.film}"), film))
    return written


def _moment(forecasts: list[Forecast], options: Visualize) -> Path:
    """One step of every forecast in full size."""
    number, pictures = options.moment or 0, []
    for forecast in forecasts:
        step = number - forecast.first
        if not 0 <= step < len(forecast.labels):
            last = forecast.first + len(forecast.labels) - 1
            raise OptionError(f"--moment {number}", f"{forecast.first}..{last}", "choose another step")
        picture = _keyframe(forecast.labels[step], options, path_from(forecast.poses, step, step))
        pictures.append(caption(picture, f"+{number * STEP_S:.1f} s"))
    return _write(options, f"_{number:03d}.png", below(*pictures, legend(pictures[0].shape[1])))


def _target(options: Visualize, ending: str) -> Path:
    target = options.out or options.file.with_suffix("")
    return target.with_name(target.name + ending)


def _write(options: Visualize, ending: str, picture: NDArray[Any]) -> Path:
    return write_png(_target(options, ending), picture)


def main() -> None:
    """Command line."""
    for path in run(Visualize, visualize, "python -m world_model.visualize"):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
