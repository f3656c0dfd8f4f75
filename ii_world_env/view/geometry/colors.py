"""What colour a face has: the class colours, baked light, and where two worlds differ.

A key is a row of a palette: the class (or the kind of difference) times the levels of light.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ii_world_env.view.geometry.faces import TOP, Faces, merged, visible
from world_model.core.errors import ConfigError
from world_model.core.grid import FREE
from world_model.pictures.bev import PICTURE_COLORS
from world_model.pictures.difference import AGREES, COLORS, INVENTED, MISSED, OTHER_CLASS
from world_model.pictures.voxels import crowding, shadow

LIGHT = np.array((1.0, 0.86, 0.72, 0.58), np.float32)
"""Brightness of the levels: in the sun, and darker where things stand around or between it and the sun."""
_LEVELS = len(LIGHT)


def linear(colors: NDArray[Any]) -> NDArray[Any]:
    """sRGB (..., 3) of 0..255 -> linear light (..., 3) uint8, which is what instances of a page take."""
    value = np.clip(np.asarray(colors, np.float32) / 255, 0, 1)
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    rounded: NDArray[Any] = np.round(light * 255).astype(np.uint8)
    return rounded


def _palette(colors: NDArray[Any]) -> NDArray[Any]:
    """(rows * levels, 3) linear uint8."""
    return linear((np.asarray(colors, np.float32)[:, None] * LIGHT[:, None]).reshape(-1, 3))


CLASS_PALETTE = _palette(PICTURE_COLORS)
DIFFERENCE_PALETTE = _palette(np.array((COLORS[0], (74, 80, 92), *COLORS[OTHER_CLASS:]), np.float32))
"""What agrees is dim, so that the rest shows."""


def lit(filled: NDArray[Any]) -> NDArray[Any]:
    """(X, Y, Z) uint8 level of light on top of every voxel, by what stands around and above it."""
    filled = np.pad(filled, 1)
    above = (slice(1, -1), slice(1, -1), slice(2, None))
    dark = 0.55 * shadow(filled)[above] + 0.8 * crowding(filled)[above]
    level: NDArray[Any] = np.clip(np.round(dark * _LEVELS), 0, _LEVELS - 1).astype(np.uint8)
    return level


def class_faces(
    labels: NDArray[Any], hidden: tuple[int, ...] = (), heights: tuple[int, int] | None = None
) -> tuple[Faces, NDArray[Any]]:
    """The visible faces of labels as few rectangles.

    Args:
        labels: (X, Y, Z) class ids.
        hidden: classes that are left out.
        heights: layers [low, high) that are shown; all if None.

    Returns:
        N rectangles, and their colours (N, 3) uint8 of linear light.
    """
    labels = chosen(labels, hidden, heights)
    faces = _lit_faces(labels < FREE, labels)
    return faces, CLASS_PALETTE[faces.key]


def _lit_faces(filled: NDArray[Any], rows: NDArray[Any]) -> Faces:
    """Faces whose keys are rows (X, Y, Z) of a palette with the level of light."""
    cells, sides = visible(filled)
    place = tuple(cells.T)
    # Walls are lit from the side, by the page.
    level = np.where(sides == TOP, lit(filled)[place], 0)
    return merged(cells, sides, rows[place] * np.int64(_LEVELS) + level, filled.shape)


def chosen(labels: NDArray[Any], hidden: tuple[int, ...], heights: tuple[int, int] | None) -> NDArray[Any]:
    """Labels without some classes and layers, which become free."""
    keep = np.ones(256, np.bool_)
    keep[list(hidden)] = False
    seen = np.where(keep[labels], labels, np.uint8(FREE))
    if heights is not None:
        seen[:, :, : heights[0]] = FREE
        seen[:, :, heights[1] :] = FREE
    return seen


def differences(ours: NDArray[Any], theirs: NDArray[Any]) -> NDArray[Any]:
    """Voxel by voxel, as `world_model.pictures.difference.difference_map` does it column by column.

    Args:
        ours, theirs: (X, Y, Z) class ids of a forecast, and of what it is compared with.

    Returns:
        (X, Y, Z) uint8: 0 free on both sides, else `AGREES`, `OTHER_CLASS`, `MISSED` (only theirs), `INVENTED` (only
        ours).

    Raises:
        ConfigError: the shapes differ.
    """
    if ours.shape != theirs.shape:
        raise ConfigError(f"labels of {ours.shape} and of {theirs.shape}", "one grid")
    kind = np.where(ours == theirs, AGREES, OTHER_CLASS).astype(np.uint8)
    kind[(ours >= FREE) & (theirs < FREE)] = MISSED
    kind[(ours < FREE) & (theirs >= FREE)] = INVENTED
    kind[(ours >= FREE) & (theirs >= FREE)] = 0
    return kind


def difference_faces(
    ours: NDArray[Any],
    theirs: NDArray[Any],
    hidden: tuple[int, ...] = (),
    heights: tuple[int, int] | None = None,
) -> tuple[Faces, NDArray[Any]]:
    """Where two worlds differ, as `class_faces`: dim where they agree, else in the colours of the kinds."""
    ours, theirs = chosen(ours, hidden, heights), chosen(theirs, hidden, heights)
    kind = differences(ours, theirs)
    faces = _lit_faces(kind > 0, kind)
    return faces, DIFFERENCE_PALETTE[faces.key]
