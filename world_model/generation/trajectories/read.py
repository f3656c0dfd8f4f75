"""Trajectories out of files: CSV, JSON or npz, checked at the door.

CSV     rows dx,dy,dyaw (a first line of names is allowed), or the same as text: "4,0,0; 4,0.2,0.1"
JSON    {"motion": [[dx, dy, dyaw], ...]}, or the bare list
npz     an array of one of the names below; also understood in JSON

motion          (H, 3) dx m, dy m, dyaw rad in the ego frame before the step
next_in_curr    (H, 4, 4) next ego frame -> current ego frame
curr_to_next    (H, 4, 4) its inverse
ego_to_global   (H + 1, 4, 4) poses, the current one first; only the motion between them counts
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import OptionError
from world_model.core.files import DAMAGED_NPZ

KEYS = ("motion", "next_in_curr", "curr_to_next", "ego_to_global")
MAX_STEPS = 10_000
MAX_STEP_M = 30.0
"""Farther in half a second (216 km/h) is a wrong unit, not a car."""
_MAX_BYTES = 64 << 20
_ROWS = "rows dx,dy,dyaw of three finite numbers (metres, metres, radians)"
_REMEDY = 'write "4,0,0; 4,0,0.1" or name a CSV, JSON or npz file (formats: docs/howto/generation.md)'


def read_trajectory(text: str | Path) -> NDArray[Any]:
    """The trajectory in a file, or in the text itself.

    Args:
        text: path of a ``.csv``, ``.txt``, ``.json`` or ``.npz`` file, or "dx,dy,dyaw; dx,dy,dyaw; ...".

    Returns:
        (H, 3) motions, or (H, 4, 4) next ego frame -> current ego frame where the file holds transforms.

    Raises:
        OptionError: the file is missing, too large or damaged, holds other things, numbers that are not finite,
            transforms that are not rigid, or steps that no car can drive.
    """
    path = Path(text)
    if path.suffix.lower() not in (".json", ".npz"):
        return _checked(parse_trajectory(str(text)), "the trajectory")
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise OptionError(f"trajectory file {path} of {size >> 20} MB", f"at most {_MAX_BYTES >> 20} MB", _REMEDY)
        arrays = _from_json(path) if path.suffix.lower() == ".json" else _from_npz(path)
    except OptionError:
        raise
    except (*DAMAGED_NPZ, UnicodeDecodeError, RecursionError) as error:
        raise OptionError(f"trajectory file {path} cannot be read ({error})", f"one of {KEYS}", _REMEDY) from error
    return _checked(_as_steps(arrays, path), str(path))


def parse_trajectory(text: str) -> NDArray[Any]:
    """Ego motions (H, 3) dx m, dy m, dyaw rad out of a CSV file or out of the text itself.

    Raises:
        OptionError: a row does not hold three finite numbers, or there are none.
    """
    is_file = text.endswith((".csv", ".txt")) or ("\n" not in text and len(text) < 4096 and Path(text).is_file())
    try:
        content = Path(text).read_text(encoding="utf-8-sig") if is_file else text
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"trajectory file {text} cannot be read ({error})", _ROWS, _REMEDY) from error
    rows = [row.strip() for row in content.replace(";", "\n").splitlines() if row.strip()]
    if rows and rows[0].replace(" ", "").lower().startswith("dx"):
        rows = rows[1:]
    motions = []
    for number, row in enumerate(rows, 1):
        try:
            values = [float(value) for value in row.split(",")]
        except ValueError:
            values = []
        if len(values) != 3 or not np.isfinite(values).all():
            raise OptionError(f"row {number} of the trajectory is {row[:80]!r}", _ROWS, _REMEDY)
        motions.append(values)
    if not motions:
        raise OptionError("the trajectory is empty", _ROWS, _REMEDY)
    return np.array(motions)


def _from_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    return content if isinstance(content, dict) else {"motion": content}


def _from_npz(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        return {key: archive[key] for key in KEYS if key in archive.files}


def _as_steps(arrays: dict[str, Any], path: Path) -> NDArray[Any]:
    named = [key for key in KEYS if key in arrays]
    if len(named) != 1:
        raise OptionError(f"{path} holds {named or 'none'} of the known arrays", f"one of {KEYS}", _REMEDY)
    key = named[0]
    shape = "(H, 3)" if key == "motion" else "(H + 1, 4, 4)" if key == "ego_to_global" else "(H, 4, 4)"
    try:
        value = np.asarray(arrays[key])
        if value.dtype.kind not in "iuf":
            raise ValueError(f"type {value.dtype}")
        value = value.astype(np.float64)
    except (ValueError, TypeError) as error:
        raise OptionError(f"{key} in {path} is no array of numbers ({error})", shape, _REMEDY) from error
    fits = value.ndim == 2 and value.shape[1] == 3 if key == "motion" else value.ndim == 3 and value.shape[1:] == (4, 4)
    if not fits or len(value) <= (key == "ego_to_global"):
        raise OptionError(f"{key} in {path} is {value.shape}", f"{shape}, H at least 1", _REMEDY)
    if not np.isfinite(value).all():
        raise OptionError(f"{key} in {path} holds values that are not finite", f"finite {shape}", _REMEDY)
    if key == "motion":
        return value
    _check_rigid(value, f"{key} in {path}")
    if key == "ego_to_global":
        value = np.linalg.inv(value[:-1]) @ value[1:]
    return np.linalg.inv(value) if key == "curr_to_next" else value


def _check_rigid(transforms: NDArray[Any], what: str) -> None:
    rotation = transforms[:, :3, :3]
    skew = np.abs(rotation.transpose(0, 2, 1) @ rotation - np.eye(3)).max((1, 2))
    bottom = np.abs(transforms[:, 3] - (0, 0, 0, 1)).max(1)
    bad = np.flatnonzero((skew > 1e-3) | (bottom > 1e-6) | (np.linalg.det(rotation) < 0))
    if len(bad):
        expected = "a rotation and a translation, last row 0 0 0 1"
        raise OptionError(f"number {bad[0]} of {what} is no rigid transform", expected, _REMEDY)


def _checked(steps: NDArray[Any], what: str) -> NDArray[Any]:
    if len(steps) > MAX_STEPS:
        raise OptionError(f"{what} has {len(steps)} steps", f"at most {MAX_STEPS}", "cut it into parts")
    moved = np.linalg.norm(steps[:, :2] if steps.ndim == 2 else steps[:, :3, 3], axis=1)
    turned = np.abs(steps[:, 2]) if steps.ndim == 2 else np.zeros(1)
    if moved.max() > MAX_STEP_M or turned.max() > np.pi:
        worst = int(moved.argmax()) if moved.max() > MAX_STEP_M else int(turned.argmax())
        raise OptionError(
            f"step {worst + 1} of {what} moves {moved.max():.1f} m and turns {np.degrees(turned.max()):.0f} degrees",
            f"at most {MAX_STEP_M:.0f} m and 180 degrees in half a second",
            "check the units: metres and radians for each step, not degrees and not positions",
        )
    return steps
