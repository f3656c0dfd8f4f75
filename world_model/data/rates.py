"""How far apart frames are, and how faster recordings are brought to the half second that everything here steps by.

A horizon in seconds is a number of frames, so frames must truly lie `STEP_S` apart. Faster recordings (10 or 12 Hz) are
thinned; nothing is made up between the frames of slower ones (1 Hz), which are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import DataError
from world_model.core.grid import STEP_S

TYPICAL_STEP_S = (0.4, 0.6)
"""The median time between frames, of which the models take every one for 0.5 s."""
EXACT_S = 0.01
"""Every n-th frame is taken where n steps make half a second as exactly as this; else the nearest ones."""
COARSEST_S = 0.201
"""The nearest of frames further apart than this would be more than 0.1 s off."""
WITHIN_S = 0.101
"""A frame further from its half second than this is missing there."""
_EXPECTED = f"keyframes {TYPICAL_STEP_S[0]} to {TYPICAL_STEP_S[1]} s apart (2 a second)"

Times = Mapping[str, NDArray[np.int64]]
"""Timestamps (N,) of recordings by name, microseconds."""


def typical_step_s(steps_us: NDArray[Any]) -> float:
    """The median of steps in microseconds, as seconds; `STEP_S` of none."""
    return float(np.median(steps_us)) * 1e-6 if len(steps_us) else STEP_S


def is_typical(step_s: float) -> bool:
    """Whether a typical step may be taken for half a second."""
    return TYPICAL_STEP_S[0] <= step_s <= TYPICAL_STEP_S[1]


def rate_words(step_s: float) -> str:
    """A step in words for messages."""
    return f"{step_s:.3g} s apart ({1 / step_s:.3g} a second)"


def recorded_step_s(times: Times) -> float:
    """Typical time between the frames of all recordings, seconds; `STEP_S` where no recording has two."""
    return typical_step_s(np.concatenate([np.diff(time_us) for time_us in times.values()]))


def check_rate(times: Times, where: str) -> None:
    """Everything here takes frames for half a second apart.

    Raises:
        DataError: they are not, in the whole data set; or one recording is faster than that.
    """
    whole = recorded_step_s(times)
    if whole > TYPICAL_STEP_S[1]:
        raise _too_slow(where, whole)
    step, name = min((typical_step_s(np.diff(time_us)), name) for name, time_us in times.items())
    # A scene of a few frames may be unusual by chance; keyframes of real scenes lie 0.40 to 0.60 s apart.
    if whole < TYPICAL_STEP_S[0] or step < 0.75 * TYPICAL_STEP_S[0]:
        those, typical = ("frames", whole) if whole < TYPICAL_STEP_S[0] else (f"frames of {name}", step)
        found = f"{where}: {those} are typically {rate_words(typical)}"
        raise DataError(found, _EXPECTED, "give --resample 2, which takes the frames half a second apart")


def half_seconds(
    time_us: NDArray[np.int64], labelled: NDArray[np.bool_], where: str
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The frames of a recording that lie half a second apart, of those that have labels.

    Every n-th frame where n steps make half a second (of 12 a second every sixth), else the one nearest to each half
    second. Where frames are missing, counting begins anew at the next one. A recording whose frames, or labelled
    frames, lie half a second apart keeps them all.

    Args:
        time_us: (N,) rising timestamps.
        labelled: (N,) which frames have labels; where hardly one has, all are taken for labelled.
        where: file and recording, for messages.

    Returns:
        Rising frame numbers (M,), and (M,) whether each follows the one before: False where frames are missing.

    Raises:
        DataError: the recording is slower, or so that the nearest frames would be more than 0.1 s off.
    """
    rows = np.arange(len(time_us))
    step_s = typical_step_s(np.diff(time_us))
    if not is_typical(step_s) and labelled.sum() > 1:
        rows = np.flatnonzero(labelled)
        step_s = typical_step_s(np.diff(time_us[rows]))
    if is_typical(step_s):
        return rows, np.ones(len(rows), bool)
    if step_s > TYPICAL_STEP_S[1]:
        raise _too_slow(where, step_s)
    exact = abs(round(STEP_S / step_s) * step_s - STEP_S) <= EXACT_S
    if not exact and step_s > COARSEST_S:
        raise DataError(
            f"{where}: frames are typically {rate_words(step_s)}, and none lie {STEP_S} s apart",
            "a multiple of 2 frames a second, or at least 5",
            "prepare the recording at its full rate",
        )
    chosen, joined = _nearest((time_us[rows] - time_us[0]) * 1e-6, exact)
    return rows[chosen], joined


def _nearest(time_s: NDArray[np.float64], exact: bool) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Of N times the numbers of those half a second apart, and whether each follows the one before."""
    chosen, joined, target, follows = list[int](), list[bool](), float(time_s[0]), True
    while target <= time_s[-1] + WITHIN_S:
        here = int(np.abs(time_s - target).argmin())
        if abs(time_s[here] - target) <= WITHIN_S and not (chosen and here <= chosen[-1]):
            chosen.append(here)
            joined.append(follows)
            # Of an exact rate the clock may drift; of another one the half seconds must not.
            target, follows = (float(time_s[here]) if exact else target) + STEP_S, True
        else:
            later = np.flatnonzero(time_s > target)
            if not len(later):
                break
            target, follows = float(time_s[later[0]]), False
    return np.array(chosen, np.int64), np.array(joined, bool)


def _too_slow(where: str, step_s: float) -> DataError:
    remedy = "prepare the recording at its full rate of keyframes: frames in between cannot be made up"
    return DataError(f"{where}: frames are typically {rate_words(step_s)}", _EXPECTED, remedy)
