"""Label styles: the same scene as another label maker would have written it, on ground of another shape.

Synthetic labels all come from one simulated sensor on a flat town. A network that has only seen these takes every other
texture for an error. A style is a draw from a family of label makers: thick and rough ground, holes, isolated voxels,
thinner and thicker vegetation and walls, flicker, class confusions at borders, missing classes; and of ground shapes:
hills, slopes, kerbs, a constant offset. Domain randomisation after Tobin et al. (IROS 2017).

What belongs to the world (heights, most gaps, confusions) is a function of global coordinates, so it stays where it is
from frame to frame; flicker is drawn for each frame.

Legend: (X, Y, Z) voxels of one frame.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.grid import FREE, IGNORE, MOVABLE, OCC3D, VoxelGrid

_Voxels = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]
"""Columns (N,) as x * Y + y, height indices (N,) and classes (N,)."""
TILE = 256
"""Edge of the periodic noise maps, columns."""
GROUND = (11, 12, 13, 14)
MANMADE, VEGETATION = 15, 16
CONFUSIONS = ((13, 14), (14, 13), (12, 13), (14, 16), (15, 16), (16, 15), (13, 11), (11, 13), (15, 0), (14, 11))
"""Classes that label makers take for each other, wrong for right."""
MERGES = ((12, 11), (13, 11), (14, 13), (0, FREE), (12, FREE), (14, 16), (0, 15), (13, 14), (6, 3), (10, 4), (9, 10))
"""Classes that a data set may not have, and what it calls them."""


@dataclass(frozen=True, kw_only=True)
class Terrain:
    """The height of the ground: a sum of waves.

    Attributes:
        wave: (K, 2) wave vectors, rad/m. phase: (K,) rad. height_m: (K,) amplitudes.
        offset_m: height of the ego frame's origin over the ground of flat scenes.
        tilts: whether the ego frame pitches and rolls with the road.
        kerb: voxels by which all beside the road is raised.
    """

    wave: NDArray[np.float64]
    phase: NDArray[np.float64]
    height_m: NDArray[np.float64]
    offset_m: float = 0.0
    tilts: bool = True
    kerb: int = 0

    def at(self, place_m: NDArray[Any]) -> NDArray[np.float64]:
        """Heights (...) m of places (..., 2) m."""
        angle = place_m @ self.wave.T + self.phase
        return np.asarray((np.sin(angle) * self.height_m).sum(-1))

    def slope(self, place_m: NDArray[Any]) -> NDArray[np.float64]:
        """Gradients (..., 2) of the height."""
        angle = place_m @ self.wave.T + self.phase
        return np.asarray((np.cos(angle) * self.height_m) @ self.wave)


@dataclass(frozen=True, kw_only=True)
class LabelStyle:
    """One label maker; shares are of the columns or voxels concerned.

    Attributes:
        seed: places the noise maps in the world.
        terrain: the shape of the ground.
        classes: (18,) uint8, what each class is called.
        confused: pairs of classes with the share of the area in which the first is taken for the second.
        thick, rough: share of ground columns that are two voxels thick, and that lie one voxel higher or lower.
        ground_gap: share of ground columns that are missing, near the ego and at the edge of the grid.
        thinned: share of vegetation and of manmade voxels that are missing.
        thickened: whether vegetation and walls are a voxel thicker along x and y.
        object_gap: share of the voxels of objects that are missing.
        speckle: share of the voxels over known columns that are wrongly occupied.
        flicker: share of the static voxels that are missing in one frame alone.
        range_m: beyond this voxels thin out.
        rough_lattice: columns that are rough together.
    """

    seed: int = 0
    terrain: Terrain | None = None
    classes: tuple[int, ...] = tuple(range(18))
    confused: tuple[tuple[int, int, float], ...] = ()
    thick: float = 0.0
    rough: float = 0.0
    ground_gap: tuple[float, float] = (0.0, 0.0)
    thinned: tuple[float, float] = (0.0, 0.0)
    thickened: bool = False
    object_gap: float = 0.0
    speckle: float = 0.0
    flicker: float = 0.0
    range_m: float = 100.0
    rough_lattice: int = 1

    @property
    def unchanged(self) -> bool:
        """Whether this is the simulator's own style, on flat ground."""
        return self.terrain is None and replace(self, seed=0) == LabelStyle()

    def pose(self, ego_to_global: NDArray[Any], planar: bool) -> NDArray[np.float64]:
        """The pose (4, 4) of a frame on this ground; planar keeps it level, as the recorded one is."""
        pose = np.array(ego_to_global, np.float64)
        if self.terrain is None or planar:
            return pose
        place, rotation = pose[:2, 3].copy(), pose[:3, :3].copy()
        pose[2, 3] += float(self.terrain.at(place))
        if self.terrain.tilts:
            slope = rotation[:2, :2].T @ self.terrain.slope(place)
            pitch, roll = np.arctan(slope)
            # Up along x is a negative turn about y, up along y a positive one about x.
            c, s, d, t = np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
            about_y = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
            about_x = np.array([[1, 0, 0], [0, d, -t], [0, t, d]])
            pose[:3, :3] = rotation @ about_y @ about_x
        return pose

    def draw(
        self, labels: NDArray[np.uint8], ego_to_global: NDArray[Any], frame: int, grid: VoxelGrid = OCC3D
    ) -> NDArray[np.uint8]:
        """The labels of one frame as this label maker writes them.

        Args:
            labels: (X, Y, Z) of the plain scene; unknown voxels (255) stay so, and rise with the ground.
            ego_to_global: (4, 4) its recorded pose, level.
            frame: fixes what flickers.
            grid: of the labels.
        """
        if self.unchanged:
            return labels
        size_z = grid.shape[2]
        classes = np.full(IGNORE + 1, IGNORE, np.uint8)
        classes[: len(self.classes)] = self.classes
        flat = classes[labels.reshape(-1)]
        voxel = np.flatnonzero(flat != FREE)
        column, z = np.divmod(voxel, size_z)
        name = flat[voxel]
        place = _places(ego_to_global, grid).reshape(-1, 2)
        cell = np.floor(place / grid.voxel_m).astype(np.int64)
        self._confuse(name, column, cell)
        extra = [*self._mend_ground(name, column, z, cell), *self._thickened(name, column, z, grid)]
        kept = ~self._gaps(name, column, z, cell, frame, grid)
        extra += self._speckles(column, cell, size_z)
        # What is added comes first: where a voxel stands already, that one stays.
        parts = [*extra, (column[kept], z[kept], name[kept])]
        column, z, name = (np.concatenate([part[n] for part in parts]) for n in range(3))
        if self.terrain is not None:
            z = z + self._lift(name, column, place, np.asarray(ego_to_global)[:2, 3], grid)[column]
        inside = (z >= 0) & (z < size_z)
        out = np.full(labels.size, FREE, np.uint8)
        out[column[inside] * size_z + z[inside]] = name[inside]
        return out.reshape(labels.shape)

    def _map(self, cell: NDArray[np.int64], scale: int, number: int) -> NDArray[np.float32]:
        """(N,) uniform noise in [0, 1) of columns (N, 2), smooth over about ``scale`` columns."""
        shift = (self.seed * 7919 + number * 104729) % 65521
        noise: NDArray[np.float32] = _noise(scale)[(cell[:, 0] + shift) % TILE, (cell[:, 1] + 3 * shift) % TILE]
        return noise

    def _voxels(self, cell: NDArray[np.int64], z: NDArray[np.int64], number: int, size_z: int) -> NDArray[np.uint8]:
        """(N,) uniform noise 0..255 of voxels at height indices z (N,) of columns (N, 2)."""
        shift = (self.seed * 7919 + number * 104729) % 65521
        noise: NDArray[np.uint8] = _noise_3d(size_z)[(cell[:, 0] + shift) % TILE, (cell[:, 1] + 3 * shift) % TILE, z]
        return noise

    def _confuse(self, name: NDArray[np.uint8], column: NDArray[np.int64], cell: NDArray[np.int64]) -> None:
        for number, (right, wrong, share) in enumerate(self.confused):
            here = np.flatnonzero(name == right)
            name[here[self._map(cell[column[here]], 8, 10 + number) < share]] = wrong

    def _mend_ground(
        self, name: NDArray[np.uint8], column: NDArray[np.int64], z: NDArray[np.int64], cell: NDArray[np.int64]
    ) -> list[_Voxels]:
        """Rough ground, in place, and the voxels that make it thick."""
        if not (self.thick or self.rough):
            return []
        ground = np.flatnonzero((name >= GROUND[0]) & (name <= GROUND[-1]))
        _, first = np.unique(column[ground], return_index=True)
        lowest = ground[first]
        place = cell[column[lowest]]
        rough = self._map(place, self.rough_lattice, 1) < self.rough
        z[lowest[rough]] += np.where(self._map(place[rough], 1, 2) < 0.5, -1, 1)
        thick = self._map(place, 2, 3) < self.thick
        above = z[lowest[thick]] + np.where(self._map(place[thick], 4, 4) < 0.7, 1, -1)
        return [(column[lowest[thick]], above, name[lowest[thick]])]

    def _thickened(
        self, name: NDArray[np.uint8], column: NDArray[np.int64], z: NDArray[np.int64], grid: VoxelGrid
    ) -> list[_Voxels]:
        if not self.thickened:
            return []
        size_x, size_y, _ = grid.shape
        solid = np.flatnonzero((name == MANMADE) | (name == VEGETATION))
        along_x = solid[column[solid] < (size_x - 1) * size_y]
        along_y = solid[column[solid] % size_y < size_y - 1]
        return [
            (column[along_x] + size_y, z[along_x], name[along_x]),
            (column[along_y] + 1, z[along_y], name[along_y]),
        ]

    def _gaps(
        self,
        name: NDArray[np.uint8],
        column: NDArray[np.int64],
        z: NDArray[np.int64],
        cell: NDArray[np.int64],
        frame: int,
        grid: VoxelGrid,
    ) -> NDArray[np.bool_]:
        """(N,) the voxels that are missing."""
        size_z = grid.shape[2]
        place, level = cell[column], z % size_z
        noise = self._voxels(place, level, 5, size_z)
        share = np.zeros(IGNORE + 1, np.float32)
        share[MANMADE], share[VEGETATION], share[list(MOVABLE)] = self.thinned[1], self.thinned[0], self.object_gap
        gone = noise < (256 * share)[name]
        if self.flicker:
            # A noise of its own in every frame.
            gone |= self._voxels(place + 31 * (frame % 509), level, 6, size_z) < 256 * self.flicker
        near, far = self.ground_gap
        range_m = _range_m(grid)[column]
        if near or far:
            missing = self._map(place, 3, 7) < near + (far - near) * np.clip(range_m / 50, 0, 1)
            gone |= missing & (name >= GROUND[0]) & (name <= GROUND[-1])
        if self.range_m < 57:
            gone |= noise < 256 * np.clip((range_m - self.range_m) / 20, 0, 0.95)
        return np.asarray(gone & (name != IGNORE))

    def _speckles(self, column: NDArray[np.int64], cell: NDArray[np.int64], size_z: int) -> list[_Voxels]:
        """Single voxels over known columns."""
        if not self.speckle:
            return []
        known = np.unique(column)
        known = known[self._map(cell[known], 1, 8) < size_z * self.speckle]
        z = (self._map(cell[known], 1, 9) * size_z).astype(np.int64)
        name = np.where(self._map(cell[known], 8, 30) < 0.5, VEGETATION, MANMADE).astype(np.uint8)
        return [(known, z, name)]

    def _lift(
        self,
        name: NDArray[np.uint8],
        column: NDArray[np.int64],
        place: NDArray[np.float64],
        ego: NDArray[np.float64],
        grid: VoxelGrid,
    ) -> NDArray[np.int64]:
        """(X * Y,) voxels by which columns stand higher than on flat ground."""
        terrain = self.terrain
        assert terrain is not None
        height = terrain.at(place) - float(terrain.at(ego)) + terrain.offset_m
        if terrain.tilts:
            height = height - (place - ego) @ terrain.slope(ego)
        lift = np.round(height / grid.voxel_m).astype(np.int64)
        if terrain.kerb:
            beside = np.ones(len(lift), np.bool_)
            beside[column[(name == GROUND[0]) | np.isin(name, MOVABLE)]] = False
            lift += terrain.kerb * beside
        return np.asarray(lift)


def draw_style(rng: np.random.Generator, *, plain: float = 0.2, flat: float = 0.35) -> LabelStyle:
    """A label maker and a ground.

    Args:
        rng: makes the choice.
        plain: chance of unchanged labels (on whatever ground).
        flat: chance of flat ground.
    """
    terrain = None if rng.random() < flat else draw_terrain(rng)
    seed = int(rng.integers(2**31))
    if rng.random() < plain:
        return LabelStyle(seed=seed, terrain=terrain)

    def some(chance: float, most: float) -> float:
        return float(rng.uniform(0, most)) if rng.random() < chance else 0.0

    classes = list(range(18))
    for missing, instead in MERGES:
        if rng.random() < 0.06:
            classes[missing] = instead
    confused = tuple((right, wrong, float(rng.uniform(0, 0.5))) for right, wrong in CONFUSIONS if rng.random() < 0.12)
    return LabelStyle(
        seed=seed,
        terrain=terrain,
        classes=tuple(classes),
        confused=confused,
        thick=some(0.6, 0.6),
        rough=some(0.6, 0.4),
        rough_lattice=int(rng.choice([1, 2, 4])),
        ground_gap=(some(0.5, 0.35), some(0.6, 0.7)),
        thinned=(some(0.6, 0.7), some(0.5, 0.6)),
        thickened=rng.random() < 0.25,
        object_gap=some(0.5, 0.4),
        speckle=some(0.4, 0.004),
        flicker=some(0.5, 0.3),
        range_m=float(rng.uniform(20, 50)) if rng.random() < 0.3 else 100.0,
    )


def draw_terrain(rng: np.random.Generator, steepest: float = 6.0) -> Terrain:
    """Smooth ground whose slopes reach up to ``steepest`` degrees."""
    count = 4
    length = np.exp(rng.uniform(np.log(30), np.log(250), count))
    angle = rng.uniform(0, 2 * np.pi, count)
    wave = 2 * np.pi / length[:, None] * np.stack((np.cos(angle), np.sin(angle)), -1)
    slope = np.tan(np.radians(rng.uniform(0.5, steepest))) * rng.dirichlet(np.ones(count))
    return Terrain(
        wave=wave,
        phase=rng.uniform(0, 2 * np.pi, count),
        height_m=slope * length / (2 * np.pi),
        offset_m=float(rng.choice([0.0, rng.uniform(-0.8, 0.8)])),
        tilts=rng.random() < 0.75,
        kerb=int(rng.random() < 0.4),
    )


def _places(ego_to_global: NDArray[Any], grid: VoxelGrid) -> NDArray[np.float64]:
    """(X, Y, 2) global positions of the columns, m."""
    pose = np.asarray(ego_to_global, np.float64)
    x, y = (grid.lower_m[a] + grid.voxel_m * (np.arange(grid.shape[a]) + 0.5) for a in (0, 1))
    return np.asarray(
        x[:, None, None] * pose[:2, 0] + y[None, :, None] * pose[:2, 1] + pose[:2, 3],
    )


@functools.lru_cache(maxsize=4)
def _range_m(grid: VoxelGrid) -> NDArray[np.float64]:
    """(X * Y,) distance of the columns from the ego, m."""
    return np.asarray(np.linalg.norm(_places(np.eye(4), grid), axis=-1).reshape(-1))


@functools.lru_cache(maxsize=16)
def _noise(scale: int) -> NDArray[np.float32]:
    """(TILE, TILE) periodic noise, uniform in [0, 1)."""
    rng = np.random.default_rng([77, scale])
    white = rng.standard_normal((TILE, TILE))
    if scale > 1:
        frequency = np.fft.fftfreq(TILE)
        damp = np.exp(-2 * (np.pi * scale / 2) ** 2 * (frequency[:, None] ** 2 + frequency[None] ** 2))
        white = np.fft.ifft2(np.fft.fft2(white) * damp).real
    order = white.ravel().argsort().argsort()
    return (order.reshape(TILE, TILE) / order.size).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _noise_3d(size_z: int) -> NDArray[np.uint8]:
    """(TILE, TILE, Z) periodic noise, uniform in 0..255."""
    return np.random.default_rng([78, size_z]).integers(0, 256, (TILE, TILE, size_z), dtype=np.uint8)
