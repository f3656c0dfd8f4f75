"""Draws frames so that rare classes are drawn as often as common ones.

Class-balanced sampling as in CBGS (Zhu et al., 2019): draw a class, then a frame that shows it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.data.index import SceneIndex


class BalancedFrames:
    """Frames of a split by the classes of the objects near the ego vehicle.

    Args:
        index: the data set.
        frames: the frame numbers to draw from.
        range_m: objects farther away, along x or y, do not count: their labels are mostly missing.
    """

    def __init__(self, index: SceneIndex, frames: NDArray[Any], range_m: float = 30.0) -> None:
        near = (np.abs(index.box_center_m[:, :2]) < range_m).all(1)
        frame_of_box = np.repeat(np.arange(len(index.token)), np.diff(index.box_start))
        allowed = np.zeros(len(index.token), bool)
        allowed[frames] = True
        self.groups = [frames]
        for class_id in np.unique(index.box_class):
            chosen = np.unique(frame_of_box[near & (index.box_class == class_id)])
            chosen = chosen[allowed[chosen]]
            if len(chosen):
                self.groups.append(chosen)

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[Any]:
        """Frame numbers (count,): each from a group drawn at random (all frames, or those that show one class)."""
        groups = rng.integers(len(self.groups), size=count)
        return np.array([self.groups[g][rng.integers(len(self.groups[g]))] for g in groups])
