"""Occ3D-Waymo's validation split: labels at 10 Hz, poses and frames in two pickles."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
from street import street

from world_model.core.grid import CLASS_ID, OCC3D, VoxelGrid

TO_WAYMO = {"car": 1, "driveable_surface": 13, "sidewalk": 14, "terrain": 14, "manmade": 10, "free": 23}
"""What a hand-drawn street is made of, in Waymo's classes (which know no terrain)."""
T0_US = 1_550_083_467_346_370


def pose(frame: int, speed_mps: float = 6.0, hertz: float = 10.0) -> np.ndarray:
    """4 x 4 ego -> global of a drive along a gentle left bend."""
    t = frame / hertz
    yaw = 0.5 + 0.02 * t
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    matrix[:3, 3] = [-7000 + speed_mps * t * np.cos(0.5), 2500 + speed_mps * t * np.sin(0.5), 30.0]
    return matrix


def time_us(scene: int, frame: int) -> int:
    """Scenes are recorded one after the other; frames come every 0.1 s, give or take a little."""
    return T0_US + scene * 60_000_000 + frame * 100_000 + (frame * 7919) % 300


def write_waymo(
    root: Path, scenes: tuple[int, ...] = (0, 1), frames: tuple[int, ...] = (58, 60), grid: VoxelGrid = OCC3D
) -> Path:
    """Scenes of these numbers and lengths; keyframes of the second do not begin at a multiple of five, as released."""
    names = np.full(256, 255, np.uint8)
    names[[CLASS_ID[name] for name in TO_WAYMO]] = list(TO_WAYMO.values())
    infos, poses = [], {}
    for scene, count in zip(scenes, frames):
        poses[scene] = {f: {camera: {"ego2global": pose(f)} for camera in range(5)} for f in range(count)}
        folder = root / "validation" / f"{scene:03d}"
        folder.mkdir(parents=True)
        for frame in range(count):
            path = folder / f"{frame:03d}_04.npz"
            # Ten frames in a row look alike, so that the test is fast.
            if frame % 10:
                os.link(folder / f"{frame - 1:03d}_04.npz", path)
            else:
                labels = names[street(grid, 0.6 * frame, (30.0,))]
                visible = np.ones(grid.shape, np.uint8)
                np.savez_compressed(
                    path, voxel_label=labels, origin_voxel_state=visible, final_voxel_state=visible, infov=visible > 0
                )
            infos.append(
                {
                    "sample_idx": f"1{scene:03d}{frame:03d}",
                    "image": {"image_idx": 1_000_000 + scene * 1000 + frame, "image_shape": np.array([1280, 1920])},
                    "timestamp": time_us(scene, frame),
                    "pose": pose(frame),
                    "annos": {"name": np.array(["Car"]), "location": np.zeros((1, 3))},
                }
            )
    (root / "cam_infos_vali.pkl").write_bytes(pickle.dumps(poses, protocol=4))
    (root / "waymo_infos_val.pkl").write_bytes(pickle.dumps(infos, protocol=4))
    return root
