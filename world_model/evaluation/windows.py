"""Which windows are scored: those that lie whole inside a scene and have all their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from world_model.core.errors import DataError, OptionError
from world_model.data.clips import scene_of, windows
from world_model.data.index import SceneIndex

PAST = 4
"""Observed keyframes before the current one."""


@dataclass(frozen=True, kw_only=True)
class ChosenWindows:
    """Windows to score.

    Attributes:
        frames: current frames (numbers in the index) by scene.
        total: windows that the split has.
        unlabelled: windows of the chosen scenes that were left out because a frame in them has no labels.
    """

    frames: dict[int, list[int]]
    total: int
    unlabelled: int

    @property
    def count(self) -> int:
        """How many are scored."""
        return sum(map(len, self.frames.values()))

    def __str__(self) -> str:
        left_out = f"; {self.unlabelled} left out, since labels are missing in them" if self.unlabelled else ""
        return f"{self.count} of {self.total}{left_out}"


def choose_windows(
    index: SceneIndex, split: str, scenes: list[int], future: int, stride: int = 1, most: int | None = None
) -> ChosenWindows:
    """Every ``stride``-th window of the chosen scenes, at most ``most`` of them, evenly spread.

    Raises:
        DataError: the split has no window with labels.
        OptionError: the chosen scenes have none.
    """
    every = windows(index, split, PAST, future)
    chosen = set(scenes)
    inside = [frame for frame in every if scene_of(index, frame) in chosen]
    if not inside:
        raise OptionError(
            "none of the chosen scenes is long enough for a window", "longer scenes", "raise --max-scenes"
        )
    labelled = with_labels(index, inside, future)
    if not labelled:
        raise DataError(
            f"all {len(inside)} windows of split {split!r} have frames without labels",
            f"{PAST + 1 + future} consecutive keyframes with labels",
            "fetch the missing labels and run `python -m world_model.prepare` again",
        )
    by_scene: dict[int, list[int]] = {}
    for frame in spread(labelled[::stride], most):
        by_scene.setdefault(scene_of(index, frame), []).append(frame)
    return ChosenWindows(frames=by_scene, total=len(every), unlabelled=len(inside) - len(labelled))


def with_labels(index: SceneIndex, frames: Sequence[int], future: int) -> list[int]:
    """Those of some current frames that have labels in all frames of their window, observed and true ones."""
    blank = index.label_path == ""
    if index.truth_path is not None:
        blank = blank | (index.truth_path == "")
    missing = np.concatenate(([0], np.cumsum(blank)))
    return [f for f in frames if missing[f + future + 1] == missing[f - PAST]]


def spread(items: Sequence[int], count: int | None) -> list[int]:
    """At most ``count`` of the items, evenly spaced, in order; all of them for None."""
    if count is None or count >= len(items):
        return list(items)
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]
