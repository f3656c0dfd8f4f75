"""ScenarioNet's pickles: recorded traffic and a lane map a scenario, checked at the door and brought to keyframes.

The format is ScenarioNet's scenario description (Li et al., NeurIPS 2023, Datasets and Benchmarks); the names of types
are those of its documentation. nuScenes, Waymo Open Motion, nuPlan, Argoverse 2 and Lyft files differ in what they
leave out: lanes with or without polygons, heights or none, boundaries as rings or as open lines.

In nuScenes files index 5k of an object is its annotation at keyframe k, while the ego track runs on true time. The true
times of keyframes are not in the file. They are taken as evenly spread up to the last one, which the ego track shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import DataError
from world_model.core.grid import CLASS_ID, EGO_LENGTH_M, EGO_REAR_OVERHANG_M, OCC3D
from world_model.data.formats.annotations import class_of_category
from world_model.data.formats.pickles import load_pickle
from world_model.data.scenarios.scenario import (
    LEAST_KEYFRAMES,
    MAP_MARGIN_M,
    Scenario,
    pack_lines,
)

Track = Mapping[str, Any]
STEP_S = 0.5
PATTERN = "sd_*.pkl"
REMEDY = "convert the scenario again with ScenarioNet, or leave the file out"
LANE = "LANE_"
AREAS = ("CROSSWALK", "DRIVEWAY", "SPEED_BUMP")
"""Polygons on which vehicles drive, beside lanes."""
EDGES = ("ROAD_EDGE_BOUNDARY", "ROAD_EDGE_MEDIAN")
WALK, BIKE_LANE = "ROAD_EDGE_SIDEWALK", "LANE_BIKE_LANE"
HALF_LANE_M, HALF_BIKE_LANE_M = 1.75, 0.9
"""Half the width of lanes that have neither a polygon nor a width."""
LEVEL_M, LEVEL_SLOPE = 3.0, 0.05
"""Lanes and agents lie on the ego's level if their height differs from that of its drive by less than this, and this
share of the distance from it: what is under or on a bridge does not."""
SIZE_M, MOST_HEIGHT_M = (0.05, 40.0), 8.0
FAR_M, MOST_LETTERS = 1e7, 80
CLOCK_SLACK = 0.3
"""Share by which time steps may differ from their median."""
DRIFT_FRAMES, SLOWEST_M, MOST_DRIFT = 7, 0.15, 6.0
"""Last frames of a nuScenes ego track that show its drift, the least way in a frame, and the most frames of drift."""
TRUCK_M, BUS_M, TWO_WHEELER_M = (6.2, 2.6), 9.5, (3.0, 1.3)
"""From these lengths (or heights) on a vehicle without a category is a truck or bus; below these (and widths) it has
two wheels."""
WORDS = {
    **{name: name for name in ("car", "truck", "bus", "trailer", "motorcycle", "bicycle", "pedestrian")},
    "motorcyclist": "motorcycle", "cyclist": "bicycle", "traffic_cone": "traffic_cone", "traffic_barrier": "barrier",
}  # fmt: skip
"""Types of tracks that name a class, in lower case."""


def find_scenarios(root: Path) -> list[Path]:
    """All scenario files in a folder and its sub-folders, in the order of their names."""
    return sorted(root.rglob(PATTERN), key=lambda path: (path.name, str(path))) if root.is_dir() else []


def read_scenario(path: Path) -> list[Scenario]:
    """The scenario of a file; a drive that is too long for one scene or one map becomes several, NAME, NAME#2, ...

    Raises:
        DataError: the file is damaged or holds more than data, or lacks the ego, lanes, or enough frames, or its
            numbers cannot be.
    """
    found = load_pickle(path)
    if not isinstance(found, Mapping) or not all(isinstance(found.get(k), Mapping) for k in KEYS):
        keys = sorted(map(str, found))[:8] if isinstance(found, Mapping) else type(found).__name__
        raise DataError(f"{path} holds {keys}", f"a scenario with {', '.join(KEYS)}", REMEDY)
    return list(_Reader(path, found).parts())


KEYS = ("metadata", "tracks", "map_features")


class _Reader:
    """One file on its way to scenarios.

    Args:
        path: for messages. found: its contents.
    """

    def __init__(self, path: Path, found: Mapping[str, Any]) -> None:
        self.path, self.meta, self.tracks, self.map = path, *(found[key] for key in KEYS)
        self.name = _word(self.meta.get("scenario_id"), found.get("id"), path.stem)
        self.source = _word(self.meta.get("dataset"), "unknown")
        self.nominal = self.source.startswith("nuscenes")  # and positions are those of the rear axle
        self.clock = self._clock()
        self.count = len(self.clock)
        self.stride = self._stride()

    def fail(self, what: str, expected: str, remedy: str = REMEDY) -> DataError:
        return DataError(f"{self.path}: {what}", expected, remedy)

    def parts(self) -> Iterator[Scenario]:
        """All scenes of the drive."""
        ego_id = str(self.meta.get("sdc_id"))
        ids = [key for key in self.tracks if str(key) == ego_id]
        if not ids:
            raise self.fail(f"no track of the ego (sdc_id {self.meta.get('sdc_id')!r})", "tracks with the ego's")
        time_s, ego, valid = self._ego(self.tracks[ids[0]])
        first, last = _longest_run(valid)
        if last - first < LEAST_KEYFRAMES:
            raise self.fail(
                f"the ego is known at {last - first} keyframes in a row ({self.count} frames)",
                f"at least {LEAST_KEYFRAMES} keyframes half a second apart", "leave the file out",
            )  # fmt: skip
        raised = np.asarray(self.tracks[ids[0]]["state"]["position"])[:, 2].any()  # height 0 stands for none
        level = _Level(ego[first:last, :3], known=bool(raised) and not self.nominal)
        shapes = self._shapes(level)
        agents = [self._agent(str(key), track, level) for key, track in self.tracks.items() if key not in ids]
        kept = [agent for agent in agents if agent is not None]
        place = np.stack([a[2] for a in kept], 1) if kept else np.zeros((len(ego), 0, 3))
        present = np.stack([a[3] for a in kept], 1) if kept else np.zeros((len(ego), 0), bool)
        whole = Scenario(
            name=self.name, source=self.source, time_s=time_s, ego=ego[:, (0, 1, 3)], place=place, present=present,
            label=np.array([a[0] for a in kept], np.int64), size_m=np.array([a[1] for a in kept]).reshape(-1, 3),
            **shapes,
        )  # fmt: skip
        yield from whole.cut(first, last)

    def _clock(self) -> NDArray[Any]:
        clock = _numbers(self.meta.get("ts"))
        if clock.ndim != 1 or not np.isfinite(clock).all() or (np.diff(clock) <= 0).any():
            raise self.fail(f"metadata ts of shape {clock.shape}", "(T,) rising seconds")
        if len(clock) < 2:
            raise self.fail(f"{len(clock)} frames", f"at least {LEAST_KEYFRAMES} keyframes half a second apart")
        return clock

    def _stride(self) -> int:
        steps = np.diff(self.clock)
        typical = float(np.median(steps))
        if (np.abs(steps - typical) > CLOCK_SLACK * typical).any():
            found = f"time steps of {steps.min():.3g} to {steps.max():.3g} s"
            raise self.fail(found, "one rate", "resample the scenario to one rate")
        stride = round(STEP_S / typical)
        if stride < 1 or abs(stride * typical - STEP_S) > 0.05 * STEP_S:
            raise self.fail(f"{typical:.3g} s between frames", "a whole part of half a second (0.1, 0.05, 0.5, ...)")
        return stride

    def _state(self, track: Any, who: str) -> dict[str, NDArray[Any]]:
        """Checked arrays of a track: position (T, 3), heading, valid and sizes (T,)."""
        state = track.get("state") if isinstance(track, Mapping) else None
        if not isinstance(state, Mapping):
            raise self.fail(f"track {who} has no state", "a dict with position, heading, valid, ...")
        out = {}
        for name, shape in SHAPES.items():
            array = _numbers(state.get(name))
            fits = array.shape == (self.count, *shape) or (shape == () and array.shape == (self.count, 1))
            if not fits:
                expected = f"numbers of shape {(self.count, *shape)}, as there are times"
                raise self.fail(f"{name} of track {who} is {array.dtype} of shape {array.shape}", expected)
            out[name] = np.array(array, np.float64).reshape(self.count, *shape)
        valid = out["valid"] > 0.5
        for name, array in out.items():
            if not np.isfinite(array[valid]).all() or (np.abs(array[valid]) > FAR_M).any():
                found = f"{name} of track {who} holds numbers that are not finite or far too large"
                raise self.fail(found, "metres, rad")
        return {**out, "valid": valid}

    def _ego(self, track: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Keyframe times (N,), x, y, ground height and yaw (N, 4) of the ego's rear axle, and where they are known."""
        state = self._state(track, "ego")
        index = np.arange(0, self.count, self.stride)
        ground = state["position"][:, 2] - (0 if self.nominal else state["height"] / 2)
        line = np.column_stack([state["position"][:, :2], ground, np.unwrap(state["heading"])])
        at = index.astype(np.float64)
        if self.nominal:
            at *= 1 - self._drift(line) / max(index[-1], 1)
        ego = np.stack([np.interp(at, np.arange(self.count), line[:, k]) for k in range(4)], -1)
        time_s = np.interp(at, np.arange(self.count), self.clock - self.clock[0])
        if self.nominal and index[-1] == self.count - 1:
            ego[-1], time_s[-1] = line[-1], at[-1] * (self.clock[1] - self.clock[0])
        if not self.nominal:
            back = EGO_LENGTH_M / 2 - EGO_REAR_OVERHANG_M
            ego[:, :2] -= back * np.column_stack([np.cos(ego[:, 3]), np.sin(ego[:, 3])])
        return time_s, ego, state["valid"][index]

    def _drift(self, line: NDArray[Any]) -> float:
        """Frames by which the last keyframe is earlier than its index says.

        The track of a nuScenes ego runs on true time from its start, and ends with the pose of the last keyframe. So
        the way to that pose, at the speed before, is shorter or longer than the steps up to it.
        """
        steps = np.diff(line[-2 * DRIFT_FRAMES - 1 :, :2], axis=0)
        if len(steps) < 2 * DRIFT_FRAMES:
            return 0.0
        before, way = steps[:DRIFT_FRAMES].sum(0) / DRIFT_FRAMES, steps[DRIFT_FRAMES:].sum(0)
        a_step = float(np.hypot(*before))
        if a_step < SLOWEST_M:
            return 0.0
        drift = DRIFT_FRAMES - float(way @ before) / a_step**2
        return float(np.clip(drift, -MOST_DRIFT, MOST_DRIFT))

    def _agent(
        self, key: str, track: Any, level: _Level
    ) -> tuple[int, NDArray[Any], NDArray[Any], NDArray[Any]] | None:
        """Class, size (3,), places (N, 3) x, y, yaw and presence (N,) of a track; None if nothing is drawn of it."""
        state = self._state(track, key)
        valid = state["valid"][:: self.stride]
        if not state["valid"].any() or not valid.any():
            return None
        size = np.array([np.median(state[name][state["valid"]]) for name in ("length", "width", "height")])
        if (size < SIZE_M[0]).any() or (size > SIZE_M[1]).any() or size[2] > MOST_HEIGHT_M:
            found = f"track {key} is {size[0]:.3g} x {size[1]:.3g} x {size[2]:.3g} m"
            raise self.fail(found, f"sizes of {SIZE_M[0]} to {SIZE_M[1]} m, and heights up to {MOST_HEIGHT_M} m")
        place = state["position"][:: self.stride]
        if level.known:
            low = np.column_stack([place[:, :2], place[:, 2] - size[2] / 2])
            valid = valid & level.holds(low)
        label = _class_of(track, size)
        if label is None or not valid.any():
            return None
        yaw = np.unwrap(state["heading"])[:: self.stride]
        return label, size, np.column_stack([place[:, :2], yaw]), valid

    def _shapes(self, level: _Level) -> dict[str, Any]:
        """The map near the drive, by what it is used for."""
        found: dict[str, list[NDArray[Any]]] = {name: [] for name in ("areas", "rings", "edges", "walks", "lanes")}
        seen, near_lanes, tall = 0, 0, False
        for key, feature in self.map.items():
            if not isinstance(feature, Mapping) or not isinstance(feature.get("type"), str):
                raise self.fail(f"map feature {key} is no dict with a type", "type, polyline or polygon")
            kind = feature["type"]
            line, area = (self._points(feature.get(name), key) for name in ("polyline", "polygon"))
            seen += kind.startswith(LANE) and max(len(line), len(area)) > 1
            near = [points for points in (line, area) if len(points) and level.near(points)]
            if not near:
                continue
            if level.known and not level.covers(near[0]):
                tall = True
                continue
            if kind.startswith(LANE):
                near_lanes += 1
                found["areas"] += [area[:, :2]] if len(area) > 2 else _band(line, feature.get("width"), kind)
                found["lanes"] += [line[:, :2]] if len(line) > 1 and kind != BIKE_LANE else []
            elif kind in AREAS and len(area) > 2:
                found["areas"].append(area[:, :2])
            elif kind == WALK and len(area) > 2:
                found["walks"].append(area[:, :2])
            elif len(line) > 2 and (kind in EDGES or str(key).startswith("boundary")):
                closed = len(line) > 3 and np.allclose(line[0, :2], line[-1, :2])
                found["rings" if closed and self.nominal else "edges"].append(line[:, :2])
        if not seen:
            raise self.fail("a map without lanes", "map_features with types LANE_...", "convert it with its map")
        if not near_lanes:
            found_text = "no lane at the ego's height" if tall else "no lane near the ego's drive"
            raise self.fail(found_text, f"lanes within {OCC3D.upper_m[0]:g} m of the drive and on its level")
        if not found["lanes"]:  # polygons alone: the drive itself is the way that is known
            found["lanes"].append(level.line[:, :2])
        return {name: pack_lines(lines) for name, lines in found.items()}

    def _points(self, value: Any, key: Any) -> NDArray[Any]:
        """(n, 3) of a polyline or polygon; heights that are not there, or not known, are NaN."""
        if value is None or (isinstance(value, (list, tuple, np.ndarray)) and np.size(_numbers(value)) == 0):
            return np.zeros((0, 3))
        points = _numbers(value)
        fits = points.ndim == 2 and points.shape[1] in (2, 3)
        if not fits or not np.isfinite(points).all() or np.abs(points).max() > FAR_M:
            raise self.fail(f"map feature {key} has points of shape {points.shape}", "finite numbers (n, 2) or (n, 3)")
        # The third column of nuScenes lanes is their heading; a height of 0 everywhere stands for none.
        if points.shape[1] == 2 or self.nominal or not points[:, 2].any():
            points = np.column_stack([points[:, :2], np.full(len(points), np.nan)])
        return points


SHAPES: dict[str, tuple[int, ...]] = {
    **{"position": (3,), "heading": (), "valid": ()}, **{"length": (), "width": (), "height": ()},
}  # fmt: skip
"""What is read of a track, and the shape of one moment."""


class _Level:
    """The height of the ground along the drive, and what lies near it.

    Args:
        line: (N, 3) x, y and ground height of the ego. known: whether the heights are real.
    """

    def __init__(self, line: NDArray[Any], known: bool) -> None:
        self.line, self.known = line, known
        self.low, self.high = line[:, :2].min(0) - MAP_MARGIN_M, line[:, :2].max(0) + MAP_MARGIN_M

    def near(self, points: NDArray[Any]) -> bool:
        return bool((points[:, :2].max(0) > self.low).all() and (points[:, :2].min(0) < self.high).all())

    def holds(self, points: NDArray[Any]) -> NDArray[Any]:
        """(n,) whether points (n, 3) lie on the ego's level; those without a height do."""
        away = np.hypot(*(points[:, None, :2] - self.line[None, :, :2]).transpose(2, 0, 1))
        nearest = away.argmin(1)
        differs = np.abs(points[:, 2] - self.line[nearest, 2])
        on: NDArray[Any] = ~(differs > LEVEL_M + LEVEL_SLOPE * away.min(1))
        return on

    def covers(self, points: NDArray[Any]) -> bool:
        """Whether most of a line lies on the ego's level."""
        return bool(self.holds(points).mean() > 0.5)


def _word(*values: object) -> str:
    """The first value that is a name or number, as something that a file can be called."""
    words = (re.sub(r"[^A-Za-z0-9._-]+", "-", str(v)).strip(".-") for v in values if isinstance(v, (str, int)))
    return next(filter(None, words), "unknown")[:MOST_LETTERS]


def _numbers(value: Any) -> NDArray[Any]:
    """An array or nested lists of numbers as float64; of anything else an array without axes."""
    try:
        array = np.asarray(value)
        return np.array(array, np.float64) if array.dtype.kind in "fiub" else np.zeros(())
    except (TypeError, ValueError, OverflowError):
        return np.zeros(())


def _longest_run(valid: NDArray[Any]) -> tuple[int, int]:
    """First and last (exclusive) of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], valid, [False]]).astype(np.int8)))
    if not len(edges):
        return 0, 0
    runs = edges.reshape(-1, 2)
    first, last = runs[np.diff(runs, axis=1).argmax()]
    return int(first), int(last)


def _class_of(track: Track, size: NDArray[Any]) -> int | None:
    """Occ3D class: by the nuScenes category where there is one, else by type and size; None for what is not drawn."""
    kind = str(track.get("type")).upper()
    meta = track.get("metadata")
    category = str(meta.get("type")) if isinstance(meta, Mapping) else ""
    if "." in category:
        try:
            label = class_of_category(category)
        except DataError:
            label = CLASS_ID["others"]
        if label != CLASS_ID["others"]:
            return label
    for word in (category.lower(), kind.lower()):
        if word in WORDS and word != "cyclist":
            return CLASS_ID[WORDS[word]]
    if kind == "VEHICLE":
        return CLASS_ID[_vehicle(size)]
    if kind == "CYCLIST":
        return CLASS_ID["bicycle"]
    return None


def _vehicle(size: NDArray[Any]) -> str:
    length, width, height = size.tolist()
    if length < TWO_WHEELER_M[0] and width < TWO_WHEELER_M[1]:
        return "motorcycle"
    if length > BUS_M:
        return "bus"
    return "truck" if length > TRUCK_M[0] or height > TRUCK_M[1] else "car"


def _band(line: NDArray[Any], width: Any, kind: str) -> list[NDArray[Any]]:
    """The outline of a lane around its middle line."""
    points = line[:, :2]
    points = points[np.append(True, np.hypot(*np.diff(points, axis=0).T) > 1e-3)] if len(points) else points
    if len(points) < 2:
        return []
    half = np.full((len(line), 2), HALF_BIKE_LANE_M if kind == BIKE_LANE else HALF_LANE_M)
    given = _numbers(width)
    given = given if given.shape == half.shape else half
    typical = [float(np.median(side[side > 0.5])) if (side > 0.5).any() else half[0, 0] for side in given.T]
    direction = np.gradient(points, axis=0)
    normal = np.column_stack([-direction[:, 1], direction[:, 0]]) / np.hypot(*direction.T)[:, None].clip(1e-9)
    return [np.concatenate([points + min(typical[0], 4.0) * normal, (points - min(typical[1], 4.0) * normal)[::-1]])]
