"""The thirteen nuScenes tables of synthetic scenes: rows of one scene, and the whole folder merged from them."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from world_model.core.files import atomic_write
from world_model.core.grid import CLASS_NAMES
from world_model.simulator.sensing.sensor import LIDAR_X_M, LIDAR_Z_M

Row = dict[str, Any]

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
    *("vehicle.moving", "vehicle.stopped", "vehicle.parked", "cycle.with_rider", "cycle.without_rider"),
    *("pedestrian.moving", "pedestrian.standing"),
)
VISIBILITY_PERCENT = ((0, 40), (40, 60), (60, 80), (80, 100))
LIDAR_ROTATION = [2**-0.5, 0.0, 0.0, -(2**-0.5)]
"""nuScenes mounts its LiDAR with x to the right and y forward."""

ONE_PIXEL_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="


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
    sensor, mount = token("sensor"), token("calibrated_sensor")
    place = dict(translation=[LIDAR_X_M, 0.0, LIDAR_Z_M], rotation=LIDAR_ROTATION)
    picture = dict(category="semantic_prior", filename="maps/synthetic.png")
    return {
        "category": [dict(token=token("category", c), name=c, description="synthetic") for c in CATEGORY.values()],
        "attribute": [dict(token=token("attribute", a), name=a, description="synthetic") for a in ATTRIBUTES],
        "visibility": [
            dict(token=str(k), level=f"v{a}-{b}", description=f"visibility of the object is between {a} and {b} %")
            for k, (a, b) in enumerate(VISIBILITY_PERCENT, 1)
        ],
        "sensor": [dict(token=sensor, channel="LIDAR_TOP", modality="lidar")],
        "calibrated_sensor": [dict(token=mount, sensor_token=sensor, **place, camera_intrinsic=[])],
        "map": [dict(token=token("map", version), log_tokens=list(logs), **picture)],
    }


def _link(rows: list[Row], row: Row) -> None:
    """Append a row and chain it to the one before."""
    row["prev"], row["next"] = rows[-1]["token"] if rows else "", ""
    if rows:
        rows[-1]["next"] = row["token"]
    rows.append(row)


class SceneTables:
    """Collects the rows of one scene.

    Args:
        seed: of the data set. name: of the scene. town_id: where it lies.
    """

    def __init__(self, seed: int, name: str, town_id: int) -> None:
        self._id = (seed, name)
        self.rows: dict[str, list[Row]] = {t: [] for t in SCENE_TABLES}
        self._tracks: dict[int, tuple[Row, list[Row]]] = {}  # each instance with its annotations
        log: Row = dict(token=token(*self._id, "log"), logfile=f"synthetic-{name}", vehicle="synthetic")
        self._scene: Row = dict(
            token=token(*self._id, "scene"), name=name, description=f"synthetic scene in town {town_id}",
            log_token=log["token"], nbr_samples=0, first_sample_token="", last_sample_token="",
        )  # fmt: skip
        self.rows["log"].append({**log, "date_captured": "2000-01-01", "location": f"town-{town_id}"})
        self.rows["scene"].append(self._scene)

    def add_frame(
        self, timestamp_us: int, pose_xyz: tuple[float, float, float], yaw_rad: float,
        quaternion: list[float] | None = None,
    ) -> str:  # fmt: skip
        """One keyframe with its LIDAR_TOP record and ego pose; returns the sample token.

        Args:
            timestamp_us: microseconds. pose_xyz: metres. yaw_rad: heading of a level ego.
            quaternion: (w, x, y, z) instead, of an ego that is not level.
        """
        samples, k = self.rows["sample"], len(self.rows["sample"])
        sample, data, pose = (token(*self._id, n, k) for n in ("sample", "data", "pose"))
        _link(samples, dict(token=sample, timestamp=timestamp_us, scene_token=self._scene["token"]))
        record = dict(
            token=data, sample_token=sample, ego_pose_token=pose, calibrated_sensor_token=token("calibrated_sensor"),
            timestamp=timestamp_us, fileformat="pcd", is_key_frame=True, height=0, width=0,
            filename=f"samples/LIDAR_TOP/{self._id[1]}_{k:02d}.pcd.bin",
        )  # fmt: skip
        _link(self.rows["sample_data"], record)
        place = dict(rotation=quaternion or rotation(yaw_rad), translation=[float(v) for v in pose_xyz])
        self.rows["ego_pose"].append(dict(token=pose, timestamp=timestamp_us, **place))
        self._scene.update(nbr_samples=k + 1, first_sample_token=samples[0]["token"], last_sample_token=sample)
        return sample

    def add_box(
        self, sample: str, instance: int, label: int, *, centre_m: list[float], size_m: list[float], yaw_rad: float,
        speed_mps: float, mobile: bool, points: int, visibility: int,
    ) -> None:  # fmt: skip
        """One annotation (global frame), chained to the previous one of its instance.

        Args:
            sample: token of the keyframe. instance, label: which agent, and its Occ3D class.
            centre_m: x, y, z. size_m: length, width, height. yaw_rad: heading.
            speed_mps, mobile: how it moves, and whether it takes part in traffic at all.
            points: labelled voxels of its class inside the box (stands in for LiDAR points).
            visibility: nuScenes level 1..4.
        """
        name = CLASS_NAMES[label]
        if instance not in self._tracks:
            new = dict(token=token(*self._id, "instance", instance), category_token=token("category", CATEGORY[name]))
            self.rows["instance"].append(new)
            self._tracks[instance] = new, []
        agent, track = self._tracks[instance]
        row: Row = dict(
            token=token(*self._id, "annotation", instance, sample), sample_token=sample, instance_token=agent["token"],
            visibility_token=str(visibility), attribute_tokens=attribute(name, mobile, speed_mps),
            translation=[round(v, 4) for v in centre_m], size=[round(size_m[k], 4) for k in (1, 0, 2)],
            rotation=rotation(yaw_rad), prev="", next="", num_lidar_pts=points, num_radar_pts=0,
        )  # fmt: skip
        _link(track, row)
        first = track[0]["token"]
        agent.update(nbr_annotations=len(track), first_annotation_token=first, last_annotation_token=row["token"])
        self.rows["sample_annotation"].append(row)


def write_tables(root: Path, version: str, parts: list[Path]) -> None:
    """Merge the parts of all scenes into ``root/version/*.json`` and write the empty map picture.

    Raises:
        OutputError: the disk is full or read-only.
    """
    logs = [json.loads(p.read_text(encoding="utf-8-sig"))["tables"]["log"][0]["token"] for p in parts]
    files = {f"{version}/{name}.json": json.dumps(rows).encode() for name, rows in fixed_tables(version, logs).items()}
    for name, body in {**files, "maps/synthetic.png": b64decode(ONE_PIXEL_PNG)}.items():
        with atomic_write(root / name) as stream:
            stream.write(body)
    for name in SCENE_TABLES:
        with atomic_write(root / version / f"{name}.json") as stream:
            before = b"["
            for part in parts:  # one scene in memory at a time: annotations of many scenes take gigabytes
                for row in json.loads(part.read_text(encoding="utf-8-sig"))["tables"][name]:
                    stream.write(before + json.dumps(row, separators=(",", ":")).encode())
                    before = b",\n"
            stream.write(b"]\n")
