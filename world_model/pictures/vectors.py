"""Motion as arrows: of the ego, executed or predicted, and of other agents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import STEP_S

if TYPE_CHECKING:
    from world_model.data.index import Boxes

EXECUTED_COLOR = (0, 229, 160)
PREDICTED_COLOR = (255, 214, 64)
AGENTS_COLOR = (255, 255, 255)
AHEAD_S = 2.0
"""Arrows are as long as the way in this time at the present velocity."""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Arrows of one colour in the ego frame.

    Attributes:
        start_m: (N, 2) where they begin.
        vector_m: (N, 2) from there to the tip.
        color: RGB.
        width_m: thickness of the shaft.
        least_m: shorter ones are not drawn: what hardly moves has no direction.
    """

    start_m: NDArray[Any]
    vector_m: NDArray[Any]
    color: tuple[int, int, int]
    width_m: float = 0.6
    least_m: float = 1.0


def ego_vector(motion: NDArray[Any], color: tuple[int, int, int] = EXECUTED_COLOR) -> Vectors:
    """The ego's motion over one step, dx m, dy m and more columns, as an arrow from the rear axle."""
    way = np.asarray(motion, np.float64)[None, :2] * (AHEAD_S / STEP_S)
    return Vectors(start_m=np.zeros((1, 2)), vector_m=way, color=color, width_m=0.9)


def box_vectors(boxes: Boxes) -> Vectors:
    """Velocities of annotated objects from their centres; what stands, or has no known velocity, has no arrow."""
    return Vectors(start_m=boxes.center_m[:, :2], vector_m=boxes.velocity_mps * AHEAD_S, color=AGENTS_COLOR)


def outline(start_m: NDArray[Any], vector_m: NDArray[Any], width_m: float) -> NDArray[Any]:
    """(7, 2) outline of an arrow with a shaft of this width; the head takes at most half of its length."""
    length = float(np.hypot(*vector_m))
    along = np.asarray(vector_m) / length
    aside = np.array((-along[1], along[0]))
    head = min(2.6 * width_m, length / 2)
    neck, half, wing = length - head, width_m / 2, width_m * 1.25
    shape = ((0, half), (neck, half), (neck, wing), (length, 0), (neck, -wing), (neck, -half), (0, -half))
    return np.array([np.asarray(start_m) + a * along + b * aside for a, b in shape])
