"""UniOcc: one npz a frame with labels, pose and pickled objects; a pickle that lists the scenes."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from street import street

from formats.waymo import pose
from world_model.core.grid import CLASS_ID, OCC3D, VoxelGrid

TO_UNIOCC = {"car": 1, "driveable_surface": 7, "sidewalk": 8, "terrain": 8, "manmade": 9, "free": 10}
CAR_MPS = 3.0


def write_uniocc(
    root: Path,
    name: str = "NuScenes-via-Occ3D-2Hz-mini",
    scenes: tuple[str, ...] = ("scene-0061", "scene-0103"),
    frames: tuple[int, ...] = (12, 12),
    grid: VoxelGrid = OCC3D,
    width_first: bool = False,
) -> Path:
    """A data set in a folder of its name; one car drives ahead, one pedestrian stands."""
    folder = root / name
    hertz = 10.0 if "10Hz" in name else 2.0
    names = np.full(256, 255, np.uint8)
    names[[CLASS_ID[n] for n in TO_UNIOCC]] = list(TO_UNIOCC.values())
    listed = []
    for scene, count in zip(scenes, frames):
        (folder / scene).mkdir(parents=True)
        for frame in range(count):
            ego = pose(frame, hertz=hertz)
            np.savez_compressed(
                folder / scene / f"{frame}.npz",
                occ_label=names[street(grid, 0.6 * frame, (30.0,))],
                occ_mask_camera=np.ones(grid.shape, np.uint8),
                occ_flow_forward=np.zeros((1, 1, 1, 3), np.float16),
                ego_to_world_transformation=ego,
                annotations=np.array(_objects(ego, frame / hertz, width_first), dtype=object),
                cameras=np.array([{"name": "CAM_FRONT", "intrinsics": np.eye(3)}], dtype=object),
            )
        paths = [f"{scene}/{frame}.npz" for frame in range(count)]
        listed.append({"scene_name": scene, "start_frame": 0, "end_frame": count - 1, "occ_in_scene_paths": paths})
    (folder / "scene_infos.pkl").write_bytes(pickle.dumps(listed, protocol=4))
    return folder


def _objects(ego: np.ndarray, t: float, width_first: bool) -> list[dict[str, object]]:
    found = []
    for token, category, speed, size in (("car", 1, CAR_MPS, (4.6, 1.9, 1.7)), ("ped", 4, 0.0, (0.7, 0.6, 1.8))):
        world = np.eye(4)
        world[:2, :2] = [[0.0, -1.0], [1.0, 0.0]]  # it heads along +y
        world[:3, 3] = [-6990.0, 2505.0 + speed * t, 31.0]
        sizes = (size[1], size[0], size[2]) if width_first else size
        found.append(
            {
                "token": token,
                "category_id": category,
                "agent_to_ego": np.linalg.inv(ego) @ world,
                "agent_to_world": world,
                "size": list(sizes),
            }
        )
    return found
