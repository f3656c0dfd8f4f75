"""A drive on disk, and other files that a page can show.

A saved drive is a forecast file of `python -m world_model.generate` (so `visualize` draws it) with the tree of actions
in it: opened again, the drive is driven again in the same world, and goes on from there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ii_world_env.faces.config import EnvConfig
from ii_world_env.view.drives.session import Begin, Session
from ii_world_env.view.geometry.picture import Picture
from world_model.core.errors import DataError
from world_model.core.files import DAMAGED_NPZ, write_npz
from world_model.core.geometry import se2_matrix
from world_model.core.grid import STEP_S
from world_model.pictures.drive import path_from
from world_model.pictures.npz_files import grid_of, keys_of, read_forecast, read_keyframe
from world_model.pictures.voxels import ribbon
from world_model.worlds import WORLD_NAMES

LARGEST_BYTES = 2**32
"""Unpacked size of a file that is opened."""
FIELDS = ("world", "action", "reward", "horizon", "split", "traffic", "agents")
REMEDY = "save the drive again, or open the file with the options of the drive"


def save_drive(path: str | Path, session: Session) -> Path:
    """Write a drive with all its branches, atomically; the forecast in it is the branch in view.

    Raises:
        OutputError: the file cannot be written; an earlier one stays.
    """
    drive = session.drive
    line = drive.line
    labels = [drive.lead.labels(moment) for moment in line]
    poses = torch.cat([drive.lead.at(moment).state.pose for moment in line]).double().cpu()
    moments = drive.moments[1:]
    width = drive.lead.engine.action_mode.size
    actions = [np.zeros(width) if m.action is None else m.action[0].double().cpu().numpy() for m in moments]
    scene, frame, _ = session.start
    begun = {name: getattr(session.begun.config, name) for name in FIELDS}
    meta = {**begun, "scene": scene, "frame": frame, "beside": list(session.begun.beside)}
    write_npz(
        path,
        start=labels[0],
        occupancy=np.stack(labels[1:] or labels[:1]),
        ego_to_global=se2_matrix(*torch.cat((poses, poses[:1] if len(line) == 1 else poses[:0])).unbind(1)).numpy(),
        parent=np.array([m.parent.number if m.parent else -1 for m in moments], np.int64),
        action=np.array(actions, np.float64).reshape(len(moments), width),
        now=np.array(drive.now.number),
        drive=np.array(json.dumps(meta)),
    )
    return Path(path)


def load_drive(path: str | Path, config: EnvConfig) -> Session:
    """Drive a saved drive again.

    Args:
        path: a file of `save_drive`.
        config: where data and checkpoint lie, and the device. World and modes are the file's; a world outside this
            package is taken only if ``config`` names it too, since it is code.

    Raises:
        DataError: a damaged file, or one that does not belong to the data.
        IIWorldError: the world or its data are not here.
    """
    arrays = _arrays(Path(path))
    meta = _meta(arrays, path)
    world = meta["world"]
    if world not in WORLD_NAMES and world != config.world:
        raise DataError(f"{path} was driven in world={world!r}", f"one of {WORLD_NAMES}", f"give --world {world}")
    begun = replace(config, **{name: meta[name] for name in FIELDS})
    beside = tuple(name for name in meta["beside"] if name in WORLD_NAMES)
    session = Session(Begin(config=begun, scene=meta["scene"], frame=meta["frame"], beside=beside))
    drive, mode = session.drive, session.drive.lead.engine.action_mode
    parent, action, now = arrays["parent"], arrays["action"], arrays["now"]
    count = len(parent) if parent.ndim == 1 else -1
    sane = action.shape == (count, mode.size) and parent.dtype.kind == "i" and action.dtype.kind == "f"
    if not (sane and now.shape == () and now.dtype.kind in "iu" and 0 <= int(now) <= count):
        raise DataError(f"{path}: parents {parent.shape}, actions {action.shape}", "a saved drive", REMEDY)
    for number, before in enumerate(parent.tolist()):
        if not 0 <= before <= number:
            raise DataError(f"{path}: moment {number + 1} after moment {before}", "an earlier moment", REMEDY)
        drive.go(before)
        drive.step(torch.from_numpy(action[number : number + 1]))
    drive.go(int(now))
    return session


def is_drive(path: Path) -> bool:
    """Whether a file holds a drive to go on with."""
    _check_size(path)
    return {"parent", "action", "drive"} <= keys_of(path)


@dataclass(kw_only=True)
class Frames:
    """Files side by side: labels, or forecasts over time. What a page shows of them, see `Source`.

    Attributes:
        titles: one a file. labels: (T) labels of each. poses: (T, 4, 4) ego -> global of each.
    """

    titles: list[str]
    labels: list[list[NDArray[Any]]]
    poses: list[NDArray[Any]]
    at: int = field(default=0)

    @property
    def place(self) -> tuple[int, int]:
        return self.at, max(map(len, self.labels))

    def back(self) -> bool:
        self.at, before = max(0, self.at - 1), self.at
        return self.at < before

    def forth(self) -> bool:
        self.at, before = min(self.place[1] - 1, self.at + 1), self.at
        return self.at > before

    def seek(self, place: int) -> None:
        self.at = max(0, min(place, self.place[1] - 1))

    def facts(self) -> dict[str, NDArray[Any]]:
        return {"time_s": np.arange(self.place[1]) * STEP_S}

    def text(self) -> dict[str, str]:
        at, count = self.place
        return {"moment": f"{at} of {count - 1}"} if count > 1 else {}

    def pictures(self) -> list[Picture]:
        return [self._picture(*row) for row in zip(self.titles, self.labels, self.poses, strict=True)]

    def _picture(self, title: str, labels: list[NDArray[Any]], poses: NDArray[Any]) -> Picture:
        at = min(self.at, len(labels) - 1)
        here, grid = labels[at], grid_of(labels[at])
        path = ribbon(path_from(poses, at).astype(np.float32), here, grid)
        return Picture(title=title, labels=here, grid=grid, path=path)


def open_files(paths: tuple[Path, ...]) -> Frames:
    """Label files and forecasts side by side, for instance a forecast and its ground truth.

    Raises:
        DataError: a file is missing, damaged, too large or of no known format.
    """
    titles, labels, poses = [], [], []
    for path in paths:
        _check_size(path)
        if keys_of(path) >= {"occupancy", "ego_to_global"}:
            forecast = read_forecast(path)
            labels.append(forecast.labels)
            poses.append(forecast.poses)
        else:
            labels.append([read_keyframe(path)])
            poses.append(np.eye(4)[None])
        titles.append("/".join(path.absolute().parts[-2:]))
    return Frames(titles=titles, labels=labels, poses=poses)


def _check_size(path: Path) -> None:
    """Refuse a small file that unpacks to more than memory holds."""
    import zipfile

    if not path.is_file():
        raise DataError(f"{path} is no file", "an npz file", "check the path")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except DAMAGED_NPZ as error:
        raise DataError(f"{path} cannot be read ({error})", "an npz file", "write or fetch it again") from error
    if size > LARGEST_BYTES:
        raise DataError(f"{path} unpacks to {size / 2**30:.1f} GiB", f"at most {LARGEST_BYTES / 2**30:.0f} GiB", REMEDY)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    _check_size(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in ("parent", "action", "now", "drive")}
    except DAMAGED_NPZ as error:
        raise DataError(f"{path} is no saved drive ({error})", "a file that the page saved", REMEDY) from error


def _meta(arrays: dict[str, NDArray[Any]], path: str | Path) -> dict[str, Any]:
    """What the drive began with, every value of its type."""
    kinds: dict[str, type] = {**dict.fromkeys(FIELDS, str), "horizon": int, "scene": str, "frame": int, "beside": list}
    try:
        meta = json.loads(str(arrays["drive"]))
        good = isinstance(meta, dict) and all(type(meta.get(name)) is kind for name, kind in kinds.items())
    except (ValueError, RecursionError):
        good = False
    if not good or not all(isinstance(name, str) for name in meta["beside"]) or not 1 <= meta["horizon"] <= 10000:
        raise DataError(f"{path}: its description is damaged", f"{', '.join(kinds)}", REMEDY)
    described: dict[str, Any] = meta
    return described
