"""Where the benchmark's episodes begin: ordinary starts, long ones, and those at which others have to be minded,
because an event is staged or because the recorded driver minded someone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.episodes import fixed_starts
from ii_world_env.ego.footprint import CENTER_M
from ii_world_env.scenes import Scenes, Start, with_event
from world_model.core.errors import OptionError
from world_model.core.grid import EGO_LENGTH_M, EGO_WIDTH_M, STEP_S
from world_model.data.index import SceneIndex
from world_model.worlds.events import EVENTS

HORIZONS = {"regular": 16, "long": 40, "interactive": 16, "demanding": 16}
"""Steps of 0.5 s of an episode, by kind of start; recordings that are shorter end it earlier."""
EVENT_ORDER = tuple(EVENTS)
LEAST_SPEED_MPS = 2.0
WITHIN_S = 4.0


def starts_of(kind: str, scenes: Scenes, per_scene: int, limit: int | None = None) -> list[Start]:
    """The starts of a kind, the same for every planner and every run.

    Args:
        kind: "regular", "long" and "interactive" spread evenly over each scene, and the last have events of
            `world_model.worlds.events.EVENTS` in turn; "demanding" spread over those of `demanding`.
        scenes: the data, opened with the horizon of the kind.
        per_scene: starts in each scene, fewer where it has fewer.
        limit: take the first so many scenes.

    Raises:
        OptionError: no such kind.
    """
    if kind not in HORIZONS:
        raise OptionError(f"starts {kind!r}", f"one of {tuple(HORIZONS)}", "choose one of them")
    if kind == "interactive":
        plain = fixed_starts(scenes, per_scene, limit)
        return [with_event([start], EVENT_ORDER[n % len(EVENT_ORDER)])[0] for n, start in enumerate(plain)]
    if kind != "demanding":
        return fixed_starts(scenes, per_scene, limit)
    starts, allowed = [], set(scenes.starts)
    for scene in scenes.numbers[:limit]:
        frames = [frame for frame in demanding(scenes.index, scene) if frame in allowed]
        picks = sorted({round(p) for p in np.linspace(0, len(frames) - 1, per_scene)}) if frames else []
        starts += [Start(scene=scene, frame=frames[p]) for p in picks]
    return starts


def demanding(index: SceneIndex, scene: int) -> list[int]:
    """Frames of a scene from which a car that keeps its speed along the recorded route hits a recorded box within 4 s.

    So the recorded driver did something about others: braked behind a leader, let someone cross, waited in a queue,
    gave way to a cut-in. Nothing but the recording decides, neither a planner nor a world.
    """
    frames = index.frames(scene)
    pose = index.ego_to_global[frames.start : frames.stop]
    place = pose[:, :2, 3]
    arc = np.concatenate(([0.0], np.linalg.norm(np.diff(place, axis=0), axis=1).cumsum()))
    return [frame for frame in frames if _hits(index, frames, frame - frames.start, place, arc)]


def _hits(index: SceneIndex, frames: range, now: int, place: NDArray[np.float64], arc: NDArray[np.float64]) -> bool:
    speed = float(index.motion[frames.start + now, 0])
    if speed < LEAST_SPEED_MPS:
        return False
    for step in range(1, min(round(WITHIN_S / STEP_S), len(frames) - 1 - now) + 1):
        at = arc[now] + speed * STEP_S * step
        if at >= arc[-1]:
            return False  # nothing is known about the road beyond the recording
        ghost = np.array([np.interp(at, arc, place[:, axis]) for axis in range(2)])
        ahead = np.array([np.interp(at + 0.5, arc, place[:, axis]) for axis in range(2)])
        yaw = np.arctan2(*(ahead - ghost)[::-1])
        if _touches(index, frames.start + now + step, ghost, float(yaw)):
            return True
    return False


def _touches(index: SceneIndex, frame: int, ghost: NDArray[np.float64], yaw: float) -> bool:
    """Whether a car with its rear axle at ``ghost`` (2,) in the global frame overlaps a box of a frame."""
    boxes, pose = index.boxes(frame), index.ego_to_global[frame]
    centre = boxes.center_m @ pose[:3, :3].T + pose[:3, 3]
    turn = boxes.yaw_rad + np.arctan2(pose[1, 0], pose[0, 0]) - yaw
    cosine, sine = np.cos(yaw), np.sin(yaw)
    away = centre[:, :2] - ghost
    along = away @ np.array((cosine, sine)) - CENTER_M
    aside = away @ np.array((-sine, cosine))
    length, width = boxes.size_m[:, 0], boxes.size_m[:, 1]
    reach_along = (EGO_LENGTH_M + np.abs(length * np.cos(turn)) + np.abs(width * np.sin(turn))) / 2
    reach_aside = (EGO_WIDTH_M + np.abs(length * np.sin(turn)) + np.abs(width * np.cos(turn))) / 2
    return bool(((np.abs(along) < reach_along) & (np.abs(aside) < reach_aside)).any())
