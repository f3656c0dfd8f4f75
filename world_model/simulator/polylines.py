"""Plane geometry: angles, changes of frame, and curves as polylines (headings, offsets, spacing, smooth turns)."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from world_model.simulator.state import Floats

Number = TypeVar("Number", float, Floats)


def wrap(angle_rad: Number) -> Number:
    """Angle in [-pi, pi)."""
    return (angle_rad + np.pi) % (2 * np.pi) - np.pi


def into(dx: Any, dy: Any, c: Any, s: Any) -> tuple[Any, Any]:
    """Offsets (numbers or arrays) along and to the left of a direction with cosine ``c`` and sine ``s``."""
    return c * dx + s * dy, c * dy - s * dx


def beside(x: Any, y: Any, heading: Any, right_m: Any) -> tuple[Any, Any]:
    """Points (numbers or arrays) moved to the right of a heading by ``right_m`` metres."""
    return x + right_m * np.sin(heading), y - right_m * np.cos(heading)


def resample(line: Floats, spacing_m: float = 1.0) -> Floats:
    """Polyline (n, 2) with equal spacing close to ``spacing_m``."""
    along = np.append(0.0, np.cumsum(np.hypot(*np.diff(line, axis=0).T)))
    s = np.linspace(0, along[-1], max(3, round(along[-1] / spacing_m) + 1))
    return np.stack([np.interp(s, along, line[:, k]) for k in (0, 1)], -1)


def headings(line: Floats) -> Floats:
    """Tangent direction in rad at each point of a polyline (n, 2)."""
    d = np.gradient(line, axis=0)
    heading: Floats = np.arctan2(d[:, 1], d[:, 0])
    return heading


def offset(line: Floats, right_m: float) -> Floats:
    """Polyline moved to its right by ``right_m`` metres."""
    x, y = line.T
    return np.stack(beside(x, y, headings(line), right_m), -1)


def bezier(p0: Floats, h0: float, p1: Floats, h1: float) -> Floats:
    """Smooth curve from p0 with heading h0 to p1 with heading h1."""
    handle = 0.42 * np.hypot(*(p1 - p0))
    a, b = p0 + handle * np.array([np.cos(h0), np.sin(h0)]), p1 - handle * np.array([np.cos(h1), np.sin(h1)])
    t = np.linspace(0, 1, 40)[:, None]
    curve: Floats = (1 - t) ** 3 * p0 + 3 * (1 - t) ** 2 * t * a + 3 * (1 - t) * t**2 * b + t**3 * p1
    return curve


def end_heading(line: Floats, index: int) -> float:
    """Heading at the first (0) or last (-1) point of a polyline."""
    d = line[1] - line[0] if index == 0 else line[-1] - line[-2]
    return float(np.arctan2(d[1], d[0]))
