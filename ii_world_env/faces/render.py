"""The picture of one moment: bird's eye left, perspective right, a line of text below."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ii_world_env.ego.route import points_at
from ii_world_env.engine import Engine, State
from world_model.core.geometry import into
from world_model.core.grid import STEP_S
from world_model.pictures.bev import birds_eye
from world_model.pictures.voxels import voxels_3d

VIEW_PX = 400
TEXT_PX = 30
_BACKGROUND = (18, 20, 27)
_TEXT = (226, 230, 240)


def draw_moment(
    labels: NDArray[Any], engine: Engine, state: State, driven: Tensor, *, place: str, ending: str
) -> NDArray[Any]:
    """Draw one moment of an episode.

    Args:
        labels: (X, Y, Z) class ids in the ego frame.
        engine: of the episode.
        state: of this episode alone.
        driven: (N, 3) poses so far, in the frame of the start.
        place, ending: first and last part of the line of text.

    Returns:
        (430, 960, 3) uint8 for the Occ3D grid.
    """
    reach_m = torch.arange(0.0, 60.0, 2.0, dtype=torch.float32, device=state.pose.device)[None]
    route = into(state.pose, points_at(state.route, reach_m + state.progress_m[:, None]))[0].cpu().numpy()
    path = into(state.pose, driven[None, :, :2])[0].cpu().numpy()
    goal = into(state.pose, points_at(state.route, state.route.goal_m[:, None]))
    if float(state.route.goal_m[0]) < engine.config.shortest_goal_m:
        goal = torch.full_like(goal, float("nan"))
    text = (
        f"{place}  +{STEP_S * int(state.steps[0]):.1f} s   {float(state.speed_mps[0]) * 3.6:.0f} km/h   "
        f"{float(state.progress_m[0]):.0f} of {float(state.route.goal_m[0]):.0f} m   {ending}"
    )
    grid, goal_m = engine.world.grid, goal[0, 0].cpu().numpy()
    scale = max(1, VIEW_PX // grid.shape[0])
    above = birds_eye(labels, scale=scale, grid=grid, path_m=path, route_m=route, goal_m=goal_m, ranges=True)
    height, width = above.shape[0], round(above.shape[0] * 1.4)
    ahead = voxels_3d(labels, size=(width, height), grid=grid, path_m=path, route_m=route)
    picture = np.concatenate((above, ahead), 1)
    canvas = Image.new("RGB", (picture.shape[1], height + TEXT_PX), _BACKGROUND)
    canvas.paste(Image.fromarray(picture), (0, 0))
    ImageDraw.Draw(canvas).text((10, height + 7), text, fill=_TEXT, font=ImageFont.load_default(15))
    return np.array(canvas)
