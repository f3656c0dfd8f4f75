"""The thirteen nuScenes tables of synthetic scenes: rows of one scene, and the whole folder merged from them."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from world_model.core.files import atomic_write
from world_model.core.grid import CLASS_NAMES

Row = dict[str, Any]

TABLES = (
    "category",
    "attribute",
    "visibility",
    "instance",
    "sensor",
    "calibrated_sensor",
    "ego_pose",
    "log",
    "scene",
    "sample",
    "sample_data",
    "sample_annotation",
    "map",
)
SCENE_TABLES = ("instance", "ego_pose", "log", "scene", "sample", "sample_data", "sample_annotation")
"""Tables whose rows belong to one scene."""
CATEGORY = {
    "barrier": "movable_object.barrier",
    "bicycle": "vehicle.bicycle",
    "bus": "vehicle.bus.rigid",
    "car": "vehicle.car",
    "construction_vehicle": "vehicle.construction",
    "motorcycle": "vehicle.motorcycle",
    "pedestrian": "human.pedestrian.adult",
    "traffic_cone": "movable_object.trafficcone",
    "trailer": "vehicle.trailer",
    "truck": "vehicle.truck",
}
ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.moving",
    "pedestrian.standing",
)
LIDAR_POSITION_M = (0.94, 0.0, 1.84)
LIDAR_ROTATION = (2**-0.5, 0.0, 0.0, -(2**-0.5))
"""nuScenes mounts its LiDAR with x to the right and y forward."""


def token(*parts: object) -> str:
    """32 hexadecimal digits, the same for the same parts."""
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def rotation(yaw_rad: float) -> list[float]:
    """Quaternion (w, x, y, z) of a heading."""
    return [float(np.cos(yaw_rad / 2)), 0.0, 0.0, float(np.sin(yaw_rad / 2))]


def attribute(name: str, mobile: bool, speed_mps: float) -> list[str]:
    """Attribute tokens of an annotation."""
    if name in ("barrier", "traffic_cone"):
        return []
    if name == "pedestrian":
        kind = "pedestrian.moving" if speed_mps > 0.5 else "pedestrian.standing"
    elif name in ("bicycle", "motorcycle"):
        kind = "cycle.with_rider" if mobile else "cycle.without_rider"
    else:
        kind = "vehicle.moving" if speed_mps > 0.5 else "vehicle.stopped" if mobile else "vehicle.parked"
    return [token("attribute", kind)]


def fixed_tables(version: str, logs: Iterable[str]) -> dict[str, list[Row]]:
    """Tables that do not depend on scenes, and the map that covers all ``logs``."""
    return {
        "category": [{"token": token("category", c), "name": c, "description": "synthetic"} for c in CATEGORY.values()],
        "attribute": [{"token": token("attribute", a), "name": a, "description": "synthetic"} for a in ATTRIBUTES],
        "visibility": [
            {
                "token": str(k),
                "level": f"v{low}-{high}",
                "description": f"visibility of the object is between {low} and {high} %",
            }
            for k, (low, high) in enumerate(((0, 40), (40, 60), (60, 80), (80, 100)), 1)
        ],
        "sensor": [{"token": token("sensor"), "channel": "LIDAR_TOP", "modality": "lidar"}],
        "calibrated_sensor": [
            {
                "token": token("calibrated_sensor"),
                "sensor_token": token("sensor"),
                "translation": list(LIDAR_POSITION_M),
                "rotation": list(LIDAR_ROTATION),
                "camera_intrinsic": [],
            }
        ],
        "map": [
            {
                "token": token("map", version),
                "log_tokens": list(logs),
                "category": "semantic_prior",
                "filename": "maps/synthetic.png",
            }
        ],
    }


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """One box of one keyframe in the global frame.

    Args:
        instance, label: which agent, and its Occ3D class.
        centre_m: x, y, z. size_m: length, width, height. yaw_rad: heading.
        speed_mps, mobile: how it moves, and whether it takes part in traffic at all.
        points: labelled voxels of its class inside the box (stands in for LiDAR points).
        visibility: nuScenes level 1..4.
    """

    instance: int
    label: int
    centre_m: tuple[float, float, float]
    size_m: tuple[float, float, float]
    yaw_rad: float
    speed_mps: float
    mobile: bool
    points: int
    visibility: int


class SceneTables:
    """Collects the rows of one scene.

    Args:
        seed: of the data set. name: of the scene. town_id: where it lies.
    """

    def __init__(self, seed: int, name: str, town_id: int) -> None:
        self._id = (seed, name)
        self.rows: dict[str, list[Row]] = {t: [] for t in SCENE_TABLES}
        self._last: dict[int, Row] = {}
        self._instances: dict[int, Row] = {}
        log = token(*self._id, "log")
        self.rows["log"].append(
            {
                "token": log,
                "logfile": f"synthetic-{name}",
                "vehicle": "synthetic",
                "date_captured": "2000-01-01",
                "location": f"town-{town_id}",
            }
        )
        self._scene: Row = {
            "token": token(*self._id, "scene"),
            "name": name,
            "description": f"synthetic scene in town {town_id}",
            "log_token": log,
            "nbr_samples": 0,
            "first_sample_token": "",
            "last_sample_token": "",
        }
        self.rows["scene"].append(self._scene)

    def add_frame(self, timestamp_us: int, pose_xyz: tuple[float, float, float], yaw_rad: float) -> str:
        """One keyframe with its LIDAR_TOP record and ego pose; returns the sample token."""
        k = len(self.rows["sample"])
        names = {n: token(*self._id, n, k) for n in ("sample", "data", "pose")}
        self._link(
            self.rows["sample"],
            {"token": names["sample"], "timestamp": timestamp_us, "scene_token": self._scene["token"]},
        )
        self._link(
            self.rows["sample_data"],
            {
                "token": names["data"],
                "sample_token": names["sample"],
                "ego_pose_token": names["pose"],
                "calibrated_sensor_token": token("calibrated_sensor"),
                "timestamp": timestamp_us,
                "fileformat": "pcd",
                "is_key_frame": True,
                "height": 0,
                "width": 0,
                "filename": f"samples/LIDAR_TOP/{self._id[1]}_{k:02d}.pcd.bin",
            },
        )
        self.rows["ego_pose"].append(
            {
                "token": names["pose"],
                "timestamp": timestamp_us,
                "rotation": rotation(yaw_rad),
                "translation": [float(v) for v in pose_xyz],
            }
        )
        self._scene["nbr_samples"] = k + 1
        self._scene["first_sample_token"] = self._scene["first_sample_token"] or names["sample"]
        self._scene["last_sample_token"] = names["sample"]
        return names["sample"]

    @staticmethod
    def _link(rows: list[Row], row: Row) -> None:
        row["prev"], row["next"] = rows[-1]["token"] if rows else "", ""
        if rows:
            rows[-1]["next"] = row["token"]
        rows.append(row)

    def add_box(self, sample: str, box: Annotation) -> None:
        """One annotation, chained to the previous one of its instance."""
        name = CLASS_NAMES[box.label]
        instance = self._instances.get(box.instance)
        if instance is None:
            instance = {
                "token": token(*self._id, "instance", box.instance),
                "category_token": token("category", CATEGORY[name]),
                "nbr_annotations": 0,
                "first_annotation_token": "",
                "last_annotation_token": "",
            }
            self._instances[box.instance] = instance
            self.rows["instance"].append(instance)
        row: Row = {
            "token": token(*self._id, "annotation", box.instance, sample),
            "sample_token": sample,
            "instance_token": instance["token"],
            "visibility_token": str(box.visibility),
            "attribute_tokens": attribute(name, box.mobile, box.speed_mps),
            "translation": [round(v, 4) for v in box.centre_m],
            "size": [round(box.size_m[k], 4) for k in (1, 0, 2)],
            "rotation": rotation(box.yaw_rad),
            "prev": "",
            "next": "",
            "num_lidar_pts": box.points,
            "num_radar_pts": 0,
        }
        before = self._last.get(box.instance)
        if before is not None:
            before["next"], row["prev"] = row["token"], before["token"]
        self._last[box.instance] = row
        instance["nbr_annotations"] += 1
        instance["first_annotation_token"] = instance["first_annotation_token"] or row["token"]
        instance["last_annotation_token"] = row["token"]
        self.rows["sample_annotation"].append(row)


def write_tables(root: Path, version: str, parts: list[Path]) -> None:
    """Merge the parts of all scenes into ``root/version/*.json`` and write the empty map picture.

    Raises:
        OutputError: the disk is full or read-only.
    """
    logs = [json.loads(p.read_text())["tables"]["log"][0]["token"] for p in parts]
    fixed = fixed_tables(version, logs)
    for name in TABLES:
        with atomic_write(root / version / f"{name}.json") as stream:
            if name in fixed:
                stream.write(json.dumps(fixed[name]).encode())
                continue
            stream.write(b"[")
            first = True
            for part in parts:  # one scene in memory at a time: annotations of many scenes take gigabytes
                for row in json.loads(part.read_text())["tables"][name]:
                    stream.write((b"" if first else b",\n") + json.dumps(row, separators=(",", ":")).encode())
                    first = False
            stream.write(b"]\n")
    with atomic_write(root / "maps" / "synthetic.png") as stream:
        stream.write(_one_pixel_png())


def _one_pixel_png() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
