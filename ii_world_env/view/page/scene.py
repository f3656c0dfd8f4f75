"""The 3D scene of the page: one frame for each picture, and in it the voxels, the car, the way and the others.

Everything stands in the ego frame, so that a camera that was chosen keeps its view of the car; between two moments the
surroundings glide past along the executed motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ii_world_env.view.geometry.colors import class_faces, difference_faces
from ii_world_env.view.geometry.faces import SIDES, Faces
from ii_world_env.view.geometry.overlays import ego_car, quads
from ii_world_env.view.geometry.picture import Picture
from world_model.core.errors import ConfigError
from world_model.core.grid import VoxelGrid
from world_model.pictures.bev import PATH_COLOR, ROUTE_COLOR

GAP_M = 6.0
CUBE = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)], np.float32)
CUBE_FACES = np.array(
    [
        *((0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1)),
        *((2, 3, 7), (2, 7, 6), (1, 5, 7), (1, 7, 3), (0, 2, 6), (0, 6, 4)),
    ],
    np.uint32,
)
"""Two triangles for each of `SIDES`, and last the two that look down."""
SKY_TOP, SKY_LOW = (74, 104, 150), (176, 190, 208)
CAMERAS = {
    "chase": ((-13.0, 0.0, 8.0), (9.0, 0.0, 0.0)),
    "driver": ((1.3, 0.35, 1.7), (12.0, 0.2, 1.2)),
    "bird's eye": ((-0.1, 0.0, 92.0), (0.0, 0.0, 0.0)),
    "orbit": ((-38.0, 34.0, 32.0), (4.0, 0.0, 0.0)),
}
"""Where a camera stands and looks at, metres in the ego frame of the first picture; all can be orbited by the mouse."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What of the labels is shown.

    Attributes:
        hidden: classes that are left out. heights: layers [low, high), all if None.
        differs_from: number of the picture that the first one is compared with; None: no difference is shown.
        boxes: show the boxes of other road users.
    """

    hidden: tuple[int, ...] = ()
    heights: tuple[int, int] | None = None
    differs_from: int | None = None
    boxes: bool = True


class Scene:
    """Pictures on a viser server.

    Args:
        server: a `viser.ViserServer`.
    """

    def __init__(self, server: Any) -> None:
        self.scene, self._atomic = server.scene, server.atomic
        self._shown: list[_Shown] = []
        self.places: list[tuple[float, float, float]] = []
        self.scene.set_up_direction("+z")
        self.scene.configure_default_lights(False)
        self.scene.configure_environment_map(None)
        self.scene.set_background_image(sky(), format="png")
        self.scene.configure_fog(90.0, 600.0, color=SKY_LOW)
        self.scene.add_light_hemisphere(
            "/light/sky", sky_color=(222, 234, 255), ground_color=(96, 92, 88), intensity=2.5
        )
        self.scene.add_light_directional(
            "/light/sun", color=(255, 246, 228), intensity=2.3, position=(0.45, 0.75, 1.0), cast_shadow=False
        )

    def show(self, pictures: Sequence[Picture], look: Look) -> None:
        """Replace what is shown.

        Raises:
            ConfigError: two pictures that are compared differ in their grids.
        """
        geometry = [class_faces(one.labels, look.hidden, look.heights) for one in pictures]
        titles, grids = [one.title for one in pictures], [one.grid for one in pictures]
        other = look.differs_from
        if other is not None and 0 < other < len(pictures):
            if pictures[other].labels.shape != pictures[0].labels.shape:
                raise ConfigError("pictures on different grids", "one grid", "compare worlds or files on one grid")
            labels = pictures[0].labels, pictures[other].labels
            geometry.append(difference_faces(*labels, look.hidden, look.heights))
            titles.append(f"{titles[0]} against {titles[other]}")
            grids.append(grids[0])
            pictures = [*pictures, replace(pictures[0], cars=())]
        with self._atomic():
            self._arrange(titles, grids)
            for shown, picture, (faces, colors) in zip(self._shown, pictures, geometry, strict=True):
                shown.show(picture, faces, colors, look)

    def glide(self, poses: Sequence[NDArray[Any]]) -> None:
        """Move the surroundings of each picture to where they are seen from a pose (3,) of the step that is driven."""
        with self._atomic():
            for shown, pose in zip(self._shown, poses, strict=False):
                shown.move(pose)

    @property
    def width_m(self) -> float:
        """From the middle of the first picture to that of the last."""
        return abs(self.places[-1][1] - self.places[0][1]) if self.places else 0.0

    def voxels(self, number: int) -> NDArray[Any]:
        """(N, 3) middles of the voxels of a picture whose faces the page has, metres."""
        return np.concatenate([side.batched_positions for side in self._shown[number].voxels if side.visible])

    def camera(self, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Position and target (3,) of a camera; the outer ones take in all pictures."""
        position, target = (np.array(one) for one in CAMERAS[name])
        if name in ("bird's eye", "orbit") and self.width_m:
            middle, wide = (np.array(self.places[0]) + self.places[-1]) / 2, self.width_m
            if name == "orbit":
                position, target = np.array((-40.0 - 0.45 * wide, 0.0, 30.0 + 0.5 * wide)), np.array((2.0, 0.0, 0.0))
            else:
                position = position * (1 + wide / 130)
            position, target = position + middle, target + middle
        return position, target

    def _arrange(self, titles: list[str], grids: list[VoxelGrid]) -> None:
        """One frame for each picture, from left to right, the first in the middle of the world."""
        if [shown.title for shown in self._shown] == titles and [shown.grid for shown in self._shown] == grids:
            return
        for shown in self._shown:
            shown.remove()
        right, self.places = 0.0, []
        for number, grid in enumerate(grids):
            right -= (GAP_M - grid.lower_m[1] + _upper(grids[number - 1])) if number else 0.0
            self.places.append((0.0, right, 0.0))
        self._shown = [
            _Shown(self.scene, f"/picture/{number}", title, grid, place, named=len(titles) > 1)
            for number, (title, grid, place) in enumerate(zip(titles, grids, self.places, strict=True))
        ]


def _upper(grid: VoxelGrid) -> float:
    return grid.upper_m[1]


class _Shown:
    """The nodes of one picture."""

    def __init__(
        self, scene: Any, root: str, title: str, grid: VoxelGrid, place: tuple[float, float, float], named: bool
    ) -> None:
        self.scene, self.root, self.title, self.grid = scene, root, title, grid
        self._frame = scene.add_frame(root, show_axes=False, position=place)
        self._around = scene.add_frame(f"{root}/around", show_axes=False)
        low, high = np.array(grid.lower_m), np.array(grid.upper_m)
        middle = (low + high) / 2
        instances(
            scene,
            f"{root}/around/plate",
            np.array([(*middle[:2], low[2] - 0.3)], np.float32),
            np.array([(*(high - low)[:2], 0.4)], np.float32),
            np.array([(13, 15, 19)], np.uint8),
        )
        instances(scene, f"{root}/car", *ego_car())
        if named:
            scene.add_label(
                f"{root}/title",
                title,
                position=(high[0] + 1.0, 0.0, 3.0),
                anchor="bottom-center",
                font_screen_scale=1.4,
            )
        self.voxels: list[Any] = []
        self._lines: Any = None
        self._bands: dict[str, Any] = {}
        self._labels: list[Any] = []

    def remove(self) -> None:
        """Take all nodes off the page."""
        self._frame.remove()

    def move(self, pose: NDArray[Any]) -> None:
        """See `Scene.glide`."""
        x, y, yaw = (float(value) for value in pose)
        c, s = np.cos(yaw), np.sin(yaw)
        self._around.wxyz = (np.cos(yaw / 2), 0.0, 0.0, -np.sin(yaw / 2))
        self._around.position = (-(c * x + s * y), s * x - c * y, 0.0)

    def show(self, picture: Picture, faces: Faces, colors: NDArray[Any], look: Look) -> None:
        """Replace everything that changes."""
        self.move(np.zeros(3))
        self._show_voxels(faces, colors)
        for name, corners, color in (("route", picture.route, ROUTE_COLOR), ("path", picture.path, PATH_COLOR)):
            self._show_band(name, corners, color)
        self._show_cars(picture if look.boxes else None)

    def _show_voxels(self, faces: Faces, colors: NDArray[Any]) -> None:
        """One set of instances for each side: its face of the cube, stretched."""
        centers, sizes = faces.centers_m(self.grid), faces.sizes_m(self.grid)
        ends = np.searchsorted(faces.side, np.arange(len(SIDES) + 1))
        nothing = np.zeros((1, 3), np.float32), np.zeros((1, 3), np.float32), np.zeros((1, 3), np.uint8)
        for side in range(len(SIDES)):
            part = slice(ends[side], ends[side + 1])
            filled = ends[side] < ends[side + 1]
            at, edges, color = (centers[part], sizes[part], colors[part]) if filled else nothing
            if side == len(self.voxels):
                name = f"{self.root}/around/voxels/{side}"
                shape = CUBE_FACES[2 * side : 2 * side + 2]
                self.voxels.append(instances(self.scene, name, at, edges, color, shape))
            else:
                node = self.voxels[side]
                node.batched_positions, node.batched_scales, node.batched_colors = at, edges, color
                node.batched_wxyzs = upright(len(at))
            self.voxels[side].visible = bool(filled)

    def _show_band(self, name: str, corners: NDArray[Any], color: tuple[int, int, int]) -> None:
        band = self._bands.get(name)
        if not len(corners):
            if band is not None:
                band.visible = False
            return
        vertices, faces = quads(corners)
        if band is None:
            self._bands[name] = self.scene.add_mesh_simple(
                f"{self.root}/around/{name}",
                vertices,
                faces,
                color=color,
                side="double",
                material="toon3",
                cast_shadow=False,
                receive_shadow=False,
            )
            return
        band.vertices, band.faces, band.visible = vertices, faces, True

    def _show_cars(self, picture: Picture | None) -> None:
        for label in self._labels:
            label.remove()
        self._labels = []
        if self._lines is not None:
            self._lines.remove()
            self._lines = None
        cars = picture.cars if picture is not None else ()
        if not cars:
            return
        lines = np.concatenate([car.lines for car in cars])
        colors = np.repeat(np.array([car.color for car in cars], np.uint8), 24, axis=0).reshape(-1, 2, 3)
        self._lines = self.scene.add_line_segments(f"{self.root}/around/cars", lines, colors, thickness=0.09)
        for number, car in enumerate(cars):
            if car.text:
                self._labels.append(
                    self.scene.add_label(
                        f"{self.root}/around/speed/{number}",
                        car.text,
                        position=car.top,
                        anchor="bottom-center",
                        font_screen_scale=0.8,
                    )
                )


def instances(
    scene: Any,
    name: str,
    centers: NDArray[Any],
    sizes: NDArray[Any],
    colors: NDArray[Any],
    faces: NDArray[Any] = CUBE_FACES,
) -> Any:
    """Boxes (N) as instances of one cube, or of some of its faces; colours of linear light."""
    return scene.add_batched_meshes_simple(
        name,
        CUBE,
        faces,
        batched_wxyzs=upright(len(centers)),
        batched_positions=centers,
        batched_scales=sizes,
        batched_colors=colors,
        lod="off",
        flat_shading=True,
        cast_shadow=False,
        receive_shadow=False,
    )


def upright(count: int) -> NDArray[Any]:
    """(N, 4) quaternions of no rotation."""
    wxyz = np.zeros((count, 4), np.float32)
    wxyz[:, 0] = 1
    return wxyz


def sky() -> NDArray[Any]:
    """(256, 2, 3) uint8, lighter towards the horizon."""
    down = np.linspace(0, 1, 256)[:, None, None] ** 0.8
    shade: NDArray[Any] = np.array(SKY_TOP) * (1 - down) + np.array(SKY_LOW) * down
    return shade.repeat(2, 1).astype(np.uint8)
