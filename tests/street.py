"""A straight street, drawn by hand, on any grid: for tests that need to know exactly what stands where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from world_model.core.geometry import se2_matrix
from world_model.core.grid import CLASS_ID, FREE, OCC3D, VoxelGrid
from world_model.data.clips import Clips
from world_model.data.index import INDEX_NAME, SceneIndex

SMALL = VoxelGrid(shape=(100, 100, 16), lower_m=(-20.0, -20.0, -1.0))
ROAD_M, WALK_M, WALL_M = 5.0, 8.0, 12.0
"""Half widths of the road, and outer edges of sidewalk and terrain; behind them stand walls."""


def street(grid: VoxelGrid, ego_x_m: float = 0.0, cars_x_m: tuple[float, ...] = (), car_y_m: float = 0.0) -> np.ndarray:
    """Labels (X, Y, Z) around an ego at ``ego_x_m`` on a street along x with cars (4 x 2 x 1.6 m) in its way."""
    axes = [grid.lower_m[i] + grid.voxel_m * (np.arange(grid.shape[i]) + 0.5) for i in range(3)]
    x, y, z = np.meshgrid(axes[0] + ego_x_m, axes[1], axes[2], indexing="ij")
    labels = np.full(grid.shape, FREE, np.uint8)
    ground = np.abs(z) < 0.2
    side = np.abs(y)
    labels[ground & (side < ROAD_M)] = CLASS_ID["driveable_surface"]
    labels[ground & (side >= ROAD_M) & (side < WALK_M)] = CLASS_ID["sidewalk"]
    labels[ground & (side >= WALK_M)] = CLASS_ID["terrain"]
    labels[(side >= WALL_M) & (z > 0)] = CLASS_ID["manmade"]
    for car in cars_x_m:
        labels[(np.abs(x - car) < 2.0) & (np.abs(y - car_y_m) < 1.0) & (z > 0.2) & (z < 1.8)] = CLASS_ID["car"]
    return labels


def street_clips(
    grid: VoxelGrid,
    speed_mps: float = 6.0,
    past: int = 4,
    future: int = 24,
    batch: int = 1,
    cars_x_m: tuple[float, ...] = (),
) -> Clips:
    """Clips of an ego that drives along the street at constant speed; cars relative to its current place."""
    step = speed_mps * 0.5
    x = torch.arange(-past, future + 1, dtype=torch.float64) * step
    frames = [torch.from_numpy(street(grid, float(at), cars_x_m)) for at in x[: past + 1]]
    later = [torch.from_numpy(street(grid, float(at), cars_x_m)) for at in x[past + 1 :]]
    total = past + future + 1
    motion = torch.zeros(batch, total, 3)
    motion[..., 0] = speed_mps
    return Clips(
        occupancy=torch.stack(frames).repeat(batch, 1, 1, 1, 1),
        ego_to_global=se2_matrix(x, torch.zeros_like(x), torch.zeros_like(x)).repeat(batch, 1, 1, 1),
        command=torch.full((batch, total), 2),
        motion=motion,
        dt_s=torch.full((batch, total - 1), 0.5),
        valid=torch.ones(batch, total, dtype=torch.bool),
        scene=[0] * batch,
        frame=[past] * batch,
        future_occupancy=torch.stack(later).repeat(batch, 1, 1, 1, 1),
    )


def write_street(
    root: Path,
    scenes: int = 2,
    frames: int = 25,
    speed_mps: float = 6.0,
    grid: VoxelGrid = OCC3D,
    dataset: str = "nuscenes",
) -> Path:
    """A data folder with an index and labels; the second scene has a car 40 m down the road."""
    paths, position = [], np.zeros((scenes * frames, 3))
    for scene in range(scenes):
        for frame in range(frames):
            x = frame * speed_mps * 0.5
            path = f"gts/street-{scene}/{frame:02d}/labels.npz"
            (root / path).parent.mkdir(parents=True)
            np.savez_compressed(root / path, semantics=street(grid, x, (40.0,) * scene))
            paths.append(path)
            position[scene * frames + frame, 0] = x
    total = scenes * frames
    none = np.zeros(0)
    SceneIndex(
        root=root,
        source="hand-drawn",
        dataset=dataset,
        scene_name=np.array([f"street-{scene}" for scene in range(scenes)]),
        scene_split=np.array(["val"] * scenes),
        scene_start=np.arange(scenes + 1, dtype=np.int64) * frames,
        token=np.array([f"t{i}" for i in range(total)]),
        label_path=np.array(paths),
        timestamp_us=np.tile(np.arange(frames, dtype=np.int64) * 500_000, scenes),
        translation_m=position,
        rotation=np.tile((1.0, 0.0, 0.0, 0.0), (total, 1)),
        command=np.full(total, 2, np.int8),
        motion=np.tile(np.array((speed_mps, 0, 0), np.float32), (total, 1)),
        box_start=np.zeros(total + 1, np.int64),
        box_center_m=none.reshape(0, 3),
        box_size_m=none.reshape(0, 3),
        box_yaw_rad=none,
        box_velocity_mps=none.reshape(0, 2),
        box_class=none.astype(np.uint8),
        box_instance=none.astype(np.int64),
    ).save(root / INDEX_NAME)
    return root
