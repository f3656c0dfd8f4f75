"""A few frames of invented nuScenes-layout data, for tests that need files but no simulator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

T0_US = 1_500_000_000_000_000


def quaternion(yaw: float, pitch: float = 0.0) -> list[float]:
    """(w, x, y, z) of a pitch about y, then a yaw about z."""
    cy, sy, cp, sp = np.cos(yaw / 2), np.sin(yaw / 2), np.cos(pitch / 2), np.sin(pitch / 2)
    return [float(v) for v in (cy * cp, -sy * sp, cy * sp, sy * cp)]


def write_scenes(
    root: Path,
    frames: tuple[int, ...] = (12, 9),
    shape: tuple[int, int, int] = (40, 40, 16),
    splits: bool = True,
    hertz: float | None = None,
) -> Path:
    """Scenes of an ego vehicle that turns left at 4 m/s on a slope, with a moving car and a standing pedestrian.

    Frames lie 0.40 to 0.60 s apart, or exactly 1 / hertz.
    """
    tables: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("attribute", "visibility", "sample", "sample_data", "ego_pose", "sample_annotation")
    }
    tables["category"] = [
        {"token": "c-car", "name": "vehicle.car", "description": ""},
        {"token": "c-ped", "name": "human.pedestrian.adult", "description": ""},
    ]
    tables["sensor"] = [
        {"token": "s-lidar", "channel": "LIDAR_TOP", "modality": "lidar"},
        {"token": "s-cam", "channel": "CAM_FRONT", "modality": "camera"},
    ]
    tables["calibrated_sensor"] = [
        {"token": f"k-{kind}", "sensor_token": f"s-{kind}", "translation": [0.9, 0, 1.8], "rotation": [1, 0, 0, 0],
         "camera_intrinsic": []}
        for kind in ("lidar", "cam")
    ]  # fmt: skip
    tables["log"] = [{"token": "log", "logfile": "", "vehicle": "", "date_captured": "", "location": "town"}]
    tables["map"] = [{"token": "map", "log_tokens": ["log"], "category": "semantic_prior", "filename": "maps/m.png"}]
    tables["scene"], tables["instance"] = [], []
    names = [f"scene-{9001 + i}" for i in range(len(frames))]
    for name, count in zip(names, frames, strict=True):
        _write_scene(root, tables, name, count, shape, hertz)
    (root / "maps").mkdir(parents=True, exist_ok=True)
    (root / "maps" / "m.png").touch()
    (root / "v1.0-mini").mkdir(exist_ok=True)
    for table, rows in tables.items():
        (root / "v1.0-mini" / f"{table}.json").write_text(json.dumps(rows))
    if splits:
        (root / "splits.json").write_text(json.dumps({"train": names[:1], "val": names[1:]}))
    (root / "synthetic.json").write_text("{}")
    return root


def _write_scene(
    root: Path,
    tables: dict[str, list[dict[str, Any]]],
    name: str,
    count: int,
    shape: tuple[int, int, int],
    hertz: float | None,
) -> None:
    rng = np.random.default_rng(count)
    samples = [f"{name}-{i}" for i in range(count)]
    time_us = T0_US + np.cumsum([0, *rng.integers(400_000, 600_000, count - 1)])
    if hertz is not None:
        time_us = T0_US + np.round(np.arange(count) * 1e6 / hertz).astype(np.int64)
    for i, token in enumerate(samples):
        around = {"prev": samples[i - 1] if i else "", "next": samples[i + 1] if i + 1 < count else ""}
        tables["sample"].append({"token": token, "timestamp": int(time_us[i]), "scene_token": name, **around})
        t = (time_us[i] - T0_US) * 1e-6
        yaw = 0.3 + 0.2 * t
        place = [600 + 20 * (np.sin(yaw) - np.sin(0.3)), 1600 - 20 * (np.cos(yaw) - np.cos(0.3)), 0.1 * t]
        for kind, key in (("lidar", True), ("cam", True), ("lidar", False)):
            datum = f"{token}-{kind}-{key}"
            # Only the LIDAR_TOP keyframe has the right pose: a reader that takes another one is found out.
            wrong = 0.0 if (kind, key) == ("lidar", True) else 5.0
            tables["ego_pose"].append(
                {"token": datum, "timestamp": int(time_us[i]), "rotation": quaternion(yaw + wrong, 0.02),
                 "translation": [place[0] + wrong, place[1], place[2]]}
            )  # fmt: skip
            tables["sample_data"].append(
                {"token": datum, "sample_token": token, "ego_pose_token": datum, "calibrated_sensor_token": f"k-{kind}",
                 "is_key_frame": key, "timestamp": int(time_us[i]), "filename": f"{datum}.bin", "fileformat": "bin",
                 "width": 0, "height": 0, "prev": "", "next": ""}
            )  # fmt: skip
        for kind, speed in (("car", 2.7), ("ped", 0.0)):
            near = {"prev": f"{kind}-{around['prev']}", "next": f"{kind}-{around['next']}"}
            tables["sample_annotation"].append(
                {"token": f"{kind}-{token}", "sample_token": token, "instance_token": f"{name}-{kind}",
                 "translation": [602 + speed * t, 1601 + speed * t, 1.0], "size": [1.9, 4.6, 1.7],
                 "rotation": quaternion(0.1),
                 "visibility_token": "", "attribute_tokens": [], "num_lidar_pts": 9, "num_radar_pts": 0,
                 **{side: other if around[side] else "" for side, other in near.items()}}
            )  # fmt: skip
        labels = np.full(shape, 17, np.uint8)
        labels[:, :, 2] = 11
        labels[rng.integers(0, shape[0], 50), rng.integers(0, shape[1], 50), 3:7] = 15
        labels[25:32, 18:23, 3:6] = 4
        path = root / "gts" / name / token / "labels.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = np.ones(shape, np.uint8)
        np.savez_compressed(path, semantics=labels, mask_lidar=mask, mask_camera=mask)
    tables["scene"].append(
        {"token": name, "name": name, "nbr_samples": count, "first_sample_token": samples[0],
         "last_sample_token": samples[-1], "log_token": "log", "description": ""}
    )  # fmt: skip
    for kind in ("car", "ped"):
        tables["instance"].append(
            {"token": f"{name}-{kind}", "category_token": f"c-{kind}", "nbr_annotations": count,
             "first_annotation_token": f"{kind}-{samples[0]}", "last_annotation_token": f"{kind}-{samples[-1]}"}
        )  # fmt: skip
