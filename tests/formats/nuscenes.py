"""nuScenes tables with Occ3D labels, the original's info files, and STCOcc's predictions, all of the same drives."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_scenes import write_scenes

from world_model.core.geometry import quat_to_matrix
from world_model.core.grid import CLASS_ID, CLASS_NAMES, OCC3D
from world_model.data.formats.nuscenes import read_nuscenes
from world_model.data.index import SceneIndex

LIDAR_TO_EGO = ([0.94, 0.02, 1.84], [float(np.sqrt(0.5)), 0.0, 0.0, -float(np.sqrt(0.5))])
"""Position and quaternion of a LiDAR whose x axis points right and y axis forward, as on the nuScenes cars."""


def write_nuscenes(root: Path, frames: tuple[int, ...] = (12, 12), shape: tuple[int, int, int] = OCC3D.shape) -> Path:
    """Tables, Occ3D labels with masks, splits."""
    return write_scenes(root, frames=frames, shape=shape)


def write_stcocc(root: Path, frames: tuple[int, ...] = (12, 12), shape: tuple[int, int, int] = OCC3D.shape) -> Path:
    """The same, with predictions beside the labels: `semantics` only, the walls taken for vegetation."""
    write_scenes(root, frames=frames, shape=shape)
    for path in sorted((root / "gts").glob("*/*/labels.npz")):
        predicted = root / "stc-results" / path.relative_to(root / "gts")
        predicted.parent.mkdir(parents=True)
        with np.load(path) as archive:
            semantics = archive["semantics"]
        semantics[semantics == CLASS_ID["manmade"]] = CLASS_ID["vegetation"]
        np.savez_compressed(predicted, semantics=semantics)
    return root


def write_infos(
    root: Path, frames: tuple[int, ...] = (12, 12), shape: tuple[int, int, int] = OCC3D.shape, *, tables: bool = False
) -> Path:
    """world-nuscenes_infos_{train,val}.pkl and labels; the tables themselves only if wanted."""
    write_scenes(root, frames=frames, shape=shape)
    index = read_nuscenes(root).to_index()[0]
    for split in sorted(set(index.scene_split.tolist())):
        infos = [info for scene in index.scenes(split) for info in _scene_infos(index, scene)]
        content = {"infos": infos, "metadata": {"version": "v1.0-trainval"}}
        (root / f"world-nuscenes_infos_{split}.pkl").write_bytes(pickle.dumps(content, protocol=4))
    if not tables:
        for path in (root / "v1.0-mini").iterdir():
            path.unlink()
        (root / "v1.0-mini").rmdir()
        (root / "splits.json").unlink()
    return root


def _scene_infos(index: SceneIndex, scene: int) -> list[dict[str, Any]]:
    frames = index.frames(scene)
    return [_info(index, scene, f, str(index.token[f - 1]) if f > frames.start else "") for f in frames]


def _info(index: SceneIndex, scene: int, frame: int, before: str) -> dict[str, Any]:
    name, token, boxes = str(index.scene_name[scene]), str(index.token[frame]), index.boxes(frame)
    place, rotation = LIDAR_TO_EGO
    to_ego = quat_to_matrix(torch.tensor(rotation, dtype=torch.float64)).numpy()
    # Rows times a matrix are its transpose times columns: ego -> LiDAR.
    center = (boxes.center_m.astype(np.float64) - place) @ to_ego
    heading = np.stack((np.cos(boxes.yaw_rad), np.sin(boxes.yaw_rad), 0 * boxes.yaw_rad), -1) @ to_ego
    velocity = np.concatenate((boxes.velocity_mps, np.zeros((len(boxes.yaw_rad), 1))), 1) @ to_ego
    yaw = np.arctan2(heading[:, 1], heading[:, 0])
    size = boxes.size_m[:, [1, 0, 2]]
    command = np.zeros(3, np.float32)
    command[index.command[frame]] = 1
    vx, vy, turn = index.motion[frame]
    return {
        "lidar_path": f"./data/nuscenes/samples/LIDAR_TOP/{token}.pcd.bin",
        "token": token,
        "prev": before,
        "next": "",
        "can_bus": np.zeros(18),
        "sweeps": [],
        "cams": {},
        "scene_token": f"token-of-{name}",
        "scene_name": name,
        "occ_path": f"./data/nuscenes/gts/{name}/{token}",
        "lidar2ego_translation": place,
        "lidar2ego_rotation": rotation,
        "ego2global_translation": index.translation_m[frame].tolist(),
        "ego2global_rotation": index.rotation[frame].tolist(),
        "timestamp": int(index.timestamp_us[frame]),
        "gt_boxes": np.concatenate((center, size, (-yaw - np.pi / 2)[:, None]), 1),
        "gt_names": np.array([CLASS_NAMES[c] for c in boxes.class_id]),
        "gt_velocity": velocity[:, :2],
        "valid_flag": np.ones(len(yaw), bool),
        "gt_ego_fut_cmd": command,
        "gt_ego_lcf_feat": np.array([-vy, vx, 0, 0, turn, 4.08, 1.85, np.hypot(vx, vy), 0], np.float32),
    }


def edit_infos(file: Path, change: Any) -> None:
    """Change the list of keyframes of an info file in place."""
    content = pickle.loads(file.read_bytes())
    content["infos"] = change(content["infos"]) or content["infos"]
    file.write_bytes(pickle.dumps(content))


def edit_table(root: Path, name: str, change: Any) -> None:
    """Change the rows of a table in place."""
    path = root / "v1.0-mini" / f"{name}.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps(change(rows) or rows))
