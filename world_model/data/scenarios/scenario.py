"""A recorded scenario: the drives of all that moves at keyframes, and the map around; one npz of plain arrays."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import DataError
from world_model.core.files import DAMAGED_NPZ, cause_of, write_npz
from world_model.core.grid import CLASS_ID

LEAST_KEYFRAMES, MOST_KEYFRAMES = 11, 41
"""Keyframes of a scene: four past ones, the current one and six to come; and 20 s."""
MOST_EXTENT_M = 340.0
"""Extent of a drive along x and y that fits onto one map with what is seen around it."""
MAP_MARGIN_M = 110.0
"""The map is kept up to here around the drive."""
Lines = tuple[NDArray[Any], NDArray[Any]]
"""K polylines or polygons: points (P, 2), and (K + 1,) where each begins."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One scene of N keyframes with A agents; global metres and rad, x east, y north.

    Attributes:
        name: unique in a data set.
        source: the data set that it was recorded for, such as nuscenes or waymo.
        time_s: (N,) rising, from 0.
        ego: (N, 3) x, y, yaw of the rear axle; yaw is continuous.
        label: (A,) Occ3D class ids.
        size_m: (A, 3) length, width, height.
        place: (N, A, 3) x, y, yaw of the boxes' centres; yaw is continuous.
        present: (N, A) whether the place is known.
        areas: polygons of lanes, driveways and crossings: their union is road.
        rings: closed road boundaries: what lies inside of an odd number of them is road.
        edges: open road boundaries.
        walks: polygons of sidewalks.
        lanes: middle lines.
    """

    name: str
    source: str
    time_s: NDArray[Any]
    ego: NDArray[Any]
    label: NDArray[Any]
    size_m: NDArray[Any]
    place: NDArray[Any]
    present: NDArray[Any]
    areas: Lines
    rings: Lines
    edges: Lines
    walks: Lines
    lanes: Lines

    def cut(self, first: int, last: int) -> Iterator[Scenario]:
        """Scenes of keyframes ``first`` to ``last`` (exclusive), each short enough; short rests are left out."""
        begin, number = first, 1
        while last - begin >= LEAST_KEYFRAMES:
            end, most = begin + LEAST_KEYFRAMES, min(last, begin + MOST_KEYFRAMES)
            while end < most and (np.ptp(self.ego[begin : end + 1, :2], 0) < MOST_EXTENT_M).all():
                end += 1
            yield self._part(begin, end, f"{self.name}#{number}" if number > 1 else self.name)
            begin, number = end, number + 1

    def _part(self, begin: int, end: int, name: str) -> Scenario:
        rows = slice(begin, end)
        seen = self.present[rows].any(0)
        return replace(
            self, name=name, time_s=self.time_s[rows] - self.time_s[begin], ego=self.ego[rows], label=self.label[seen],
            size_m=self.size_m[seen], place=self.place[rows][:, seen], present=self.present[rows][:, seen],
        )  # fmt: skip

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that follow from all numbers of the scenario, not from its name."""
        found = hashlib.sha256()
        for field in fields(self)[2:]:
            value = getattr(self, field.name)
            for array in value if isinstance(value, tuple) else (value,):
                found.update(f"{array.dtype.str} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:12]

    def save(self, path: Path) -> None:
        """Write the scenario; equal scenarios make equal arrays.

        Raises:
            OutputError: the disk is full or read-only.
        """
        arrays: dict[str, NDArray[Any]] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                arrays[field.name], arrays[f"{field.name}_start"] = value
            else:
                arrays[field.name] = np.asarray(value)
        write_npz(path, **arrays)


def load_scenario(path: Path) -> Scenario:
    """Read what `Scenario.save` wrote.

    Raises:
        DataError: the file is missing or damaged.
    """
    remedy = "make the data set again from its scenarios"
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            values: dict[str, Any] = {}
            for field in fields(Scenario):
                lines = f"{field.name}_start" in file.files
                values[field.name] = (file[field.name], file[f"{field.name}_start"]) if lines else file[field.name]
            values["name"], values["source"] = str(values["name"]), str(values["source"])
            scenario = Scenario(**values)
        n, a = scenario.present.shape
        found = (scenario.time_s, scenario.ego, scenario.place, scenario.size_m, scenario.label)
        shapes = tuple(array.shape for array in found)
        if shapes != ((n,), (n, 3), (n, a, 3), (a, 3), (a,)):
            raise ValueError(f"shapes {shapes}")
        if n < 2 or not all(np.isfinite(array).all() for array in found) or (np.diff(scenario.time_s) <= 0).any():
            raise ValueError("times that do not rise, or numbers that are not finite")
        if a and (scenario.label.min() < 1 or scenario.label.max() > CLASS_ID["truck"]):
            raise ValueError(f"classes {np.unique(scenario.label)}")
        return scenario
    except DAMAGED_NPZ as error:
        found_text = f"{path} cannot be read ({cause_of(path, error)})"
        raise DataError(found_text, "a scenario of a data set", remedy) from error


def pack_lines(lines: list[NDArray[Any]]) -> Lines:
    """Polylines as one array and where each begins."""
    start = np.cumsum([0, *(len(line) for line in lines)]).astype(np.int64)
    return np.concatenate([np.zeros((0, 2)), *lines]), start


def split_lines(lines: Lines) -> list[NDArray[Any]]:
    """The counterpart of `pack_lines`."""
    return [lines[0][a:b] for a, b in zip(lines[1], lines[1][1:])]
