"""The picture of one moment: bird's eye left, perspective right, a line of text below."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from world_model.core.grid import VoxelGrid
from world_model.pictures.bev import birds_eye
from world_model.pictures.voxels import voxels_3d

VIEW_PX = 400
TEXT_PX = 30
_BACKGROUND = (18, 20, 27)
_TEXT = (226, 230, 240)


def compose_frame(
    labels: NDArray[Any],
    grid: VoxelGrid,
    *,
    path_m: NDArray[Any],
    route_m: NDArray[Any],
    goal_m: NDArray[Any],
    text: str,
) -> NDArray[Any]:
    """Draw one moment.

    Args:
        labels: (X, Y, Z) class ids in the ego frame.
        grid: extent of the labels.
        path_m: (N, 2) driven path in the ego frame, metres.
        route_m: (M, 2) route ahead in the ego frame.
        goal_m: (2,) destination in the ego frame, NaN where there is none.
        text: one line.

    Returns:
        (430, 960, 3) uint8 for the Occ3D grid.
    """
    scale = max(1, VIEW_PX // grid.shape[0])
    above = birds_eye(labels, scale=scale, grid=grid, path_m=path_m, route_m=route_m, goal_m=goal_m, ranges=True)
    height, width = above.shape[0], round(above.shape[0] * 1.4)
    ahead = voxels_3d(labels, size=(width, height), grid=grid, path_m=path_m, route_m=route_m)
    picture = np.concatenate((above, ahead), 1)
    canvas = Image.new("RGB", (picture.shape[1], height + TEXT_PX), _BACKGROUND)
    canvas.paste(Image.fromarray(picture), (0, 0))
    ImageDraw.Draw(canvas).text((10, height + 7), text, fill=_TEXT, font=ImageFont.load_default(15))
    return np.array(canvas)
