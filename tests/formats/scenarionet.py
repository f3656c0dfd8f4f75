"""Tiny scenarios in ScenarioNet's format, as its nuScenes and Waymo conversions write them."""

from __future__ import annotations

import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FRAMES, STEP_S, SPEED_MPS = 56, 0.1, 6.0
"""Frames at 10 Hz: twelve keyframes."""
PLACE = np.array([1000.0, 2000.0])
"""Where the road begins, global metres."""


def line(x0: float, x1: float, y: float, z: float | None = None, points: int = 40) -> NDArray[Any]:
    """A straight polyline along x."""
    x = np.linspace(x0, x1, points)
    columns = [x + PLACE[0], np.full(points, y + PLACE[1])]
    return np.column_stack([*columns, np.full(points, z)] if z is not None else columns)


def box(x0: float, x1: float, y0: float, y1: float) -> NDArray[Any]:
    """A closed rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]) + PLACE


def track(
    x: NDArray[Any], y: float, size: tuple[float, float, float], kind: str, category: str | None = None, *,
    yaw: float = 0.0, z: float = 0.0, column: bool = False, dtype: Any = np.float64,
) -> dict[str, Any]:  # fmt: skip
    """A track along x; ``column`` makes sizes (T, 1)."""
    count = len(x)
    position = np.column_stack([x + PLACE[0], np.full(count, y + PLACE[1]), np.full(count, z)]).astype(dtype)
    sizes = {
        name: np.full((count, 1) if column else count, value, dtype)
        for name, value in zip(("length", "width", "height"), size, strict=True)
    }
    state = {
        "position": position,
        "heading": np.full(count, yaw, dtype),
        "velocity": np.zeros((count, 2), dtype),
        "valid": np.ones(count, bool if dtype == np.float32 else np.float64),
        **sizes,
    }
    return {"type": kind, "state": state, "metadata": {"type": category or kind, "track_length": count}}


def nuscenes_like(name: str = "scene-0001", frames: int = FRAMES) -> dict[str, Any]:
    """Heights 0 for the ego, sizes (T, 1), a ring around the road, lanes with headings as third column."""
    x = SPEED_MPS * STEP_S * np.arange(frames)
    still = np.zeros(frames)
    tracks = {
        "ego": track(x, -1.75, (1.7, 4.1, 1.6), "VEHICLE", "vehicle.car", column=True),
        "a": track(60 - x, 1.75, (4.5, 1.9, 1.7), "VEHICLE", "vehicle.car", yaw=np.pi, z=0.8, column=True),
        "b": track(still + 25, -6.5, (6.5, 2.4, 2.7), "VEHICLE", "vehicle.truck", z=1.0, column=True),
        "c": track(20 + 0.1 * x, 5.5, (0.7, 0.7, 1.8), "PEDESTRIAN", "human.pedestrian.adult", z=0.9, column=True),
        "d": track(still + 12, 4.0, (0.4, 0.4, 0.8), "TRAFFIC_CONE", "movable_object.trafficcone", column=True),
    }
    tracks["c"]["state"]["valid"][:10] = 0  # comes later
    lanes = {}
    for key, y in (("lane-1", -1.75), ("lane-2", 1.75)):
        area = box(-40, 100, y - 1.75, y + 1.75)
        lanes[key] = {"type": "LANE_SURFACE_STREET", "polyline": line(-40, 100, y, z=3.1).tolist(), "polygon": area}
    ring = {"type": "ROAD_LINE_SOLID_SINGLE_WHITE", "polyline": box(-40, 100, -4, 4)}
    return {
        "id": name, "version": "nuscenesv1.0-mini", "length": frames, "tracks": tracks, "dynamic_map_states": {},
        "map_features": {**lanes, "boundary_0": ring},
        "metadata": {"dataset": "nuscenes", "sdc_id": "ego", "ts": STEP_S * np.arange(frames), "scenario_id": name},
    }  # fmt: skip


def waymo_like(name: str = "eb4b91b1", frames: int = FRAMES, ground: float = -24.0) -> dict[str, Any]:
    """Real heights, float32, lanes as middle lines with widths, open edges, a road and a car below a bridge."""
    x = SPEED_MPS * STEP_S * np.arange(frames)
    kinds = dict(dtype=np.float32)
    tracks: dict[str, Any] = defaultdict(dict)
    tracks["7"] = track(x, -1.75, (5.0, 2.0, 2.0), "VEHICLE", z=ground + 1, **kinds)
    tracks["1"] = track(40 + x, -1.75, (4.5, 1.9, 1.7), "VEHICLE", z=ground + 0.85, **kinds)
    tracks["2"] = track(10 + 0 * x, 12.0, (4.5, 1.9, 1.7), "VEHICLE", z=ground - 7, **kinds)
    tracks["3"] = track(30 + x, 2.0, (1.8, 0.7, 1.7), "CYCLIST", z=ground + 0.85, **kinds)
    features: dict[str, Any] = {
        "80": {"type": "ROAD_EDGE_BOUNDARY", "polyline": line(-40, 100, -6.0, ground)},
        "81": {"type": "ROAD_EDGE_BOUNDARY", "polyline": line(-40, 100, 6.0, ground)},
        "82": {"type": "LANE_FREEWAY", "polyline": line(-40, 100, 12.0, ground - 8), "width": np.zeros((40, 2))},
        "83": {"type": "CROSSWALK", "polygon": np.column_stack([box(30, 33, -6, 6)[:4], np.full(4, ground)])},
        "84": {"type": "STOP_SIGN", "lane": [1], "position": np.zeros(3)},
    }
    for key, y, width in (("1", -1.75, 1.75), ("2", 1.75, 0.0)):
        features[key] = {
            "type": "LANE_SURFACE_STREET", "polyline": line(-40, 100, y, ground), "width": np.full((40, 2), width),
        }  # fmt: skip
    meta = {"dataset": "waymo", "sdc_id": "7", "ts": (STEP_S * np.arange(frames)).astype(np.float32), "id": name}
    return {
        "id": name, "version": "v1.2", "length": frames, "tracks": tracks, "dynamic_map_states": {},
        "map_features": features, "metadata": {**meta, "scenario_id": name},
    }  # fmt: skip


def write_scenario(folder: Path, scenario: dict[str, Any], name: str | None = None) -> Path:
    """Write ``sd_*.pkl``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"sd_{name or scenario['id']}.pkl"
    path.write_bytes(pickle.dumps(scenario))
    return path
