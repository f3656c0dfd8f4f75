"""Where a forecast agrees with the recording, seen from above."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import ConfigError
from world_model.core.grid import FREE
from world_model.pictures.bev import UNSEEN_COLOR, class_map

AGREES, OTHER_CLASS, MISSED, INVENTED = 1, 2, 3, 4
COLORS = np.array((UNSEEN_COLOR, (120, 132, 150), (255, 196, 60), (70, 150, 255), (255, 84, 84)), np.uint8)
"""RGB: nothing on either side, agrees, another class, only recorded, only forecast."""
NAMES = ("agrees", "another class", "only recorded", "only forecast")


def difference_map(forecast: NDArray[Any], recorded: NDArray[Any]) -> NDArray[Any]:
    """Compare the highest voxel of every column.

    Args:
        forecast: (X, Y, Z) class ids.
        recorded: the same of what happened.

    Returns:
        (X, Y) uint8: 0 empty on both sides, else `AGREES`, `OTHER_CLASS`, `MISSED` or `INVENTED`.

    Raises:
        ConfigError: the shapes differ.
    """
    if forecast.shape != recorded.shape:
        raise ConfigError(f"a forecast of {forecast.shape} and labels of {recorded.shape}", "one grid")
    ours, theirs = class_map(forecast), class_map(recorded)
    table = np.where(ours == theirs, AGREES, OTHER_CLASS)
    table = np.where(ours == FREE, MISSED, table)
    table = np.where(theirs == FREE, INVENTED, table)
    return np.where((ours == FREE) & (theirs == FREE), 0, table).astype(np.uint8)


def difference_picture(forecast: NDArray[Any], recorded: NDArray[Any], scale: int = 1) -> NDArray[Any]:
    """`difference_map` in `COLORS`, (X * scale, Y * scale, 3) uint8, x up and y left like `birds_eye`."""
    picture: NDArray[Any] = COLORS[difference_map(forecast, recorded)][::-1, ::-1]
    return picture.repeat(scale, 0).repeat(scale, 1)
