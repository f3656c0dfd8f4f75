"""The same scene driven four ways: straight, left, right and braking. Writes one picture strip and one film.

    python examples/scripted_scenarios.py
    python examples/scripted_scenarios.py --data-root data/synthetic --scene scene-0012 --frame 10

The recorded scene gives two seconds of past and the starting speed. From there on the learned world forecasts what the
vehicle would see, so that each way of driving gets a future of its own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro

import ii_world_env  # noqa: F401  (registers the environment)
from world_model.core.grid import STEP_S
from world_model.pictures import birds_eye, caption, strip, voxels_3d, write_gif, write_png

# Kinematic actions: [acceleration, steering angle], each in [-1, 1], the same in every step.
MANOEUVRES = {
    "straight": (0.0, 0.0),
    "left": (-0.05, 0.12),
    "right": (-0.05, -0.12),
    "braking": (-0.35, 0.0),
}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Drive one scene straight, left, right and braking."""

    data_root: str | None = None
    """Folder with an index, see `python -m world_model.prepare`. If not given: the bundled demo scenes."""
    checkpoint: str | None = None
    """Folder of a trained model. If not given: the bundled one."""
    world: str = "learned"
    """learned (what the checkpoint holds), geometric, ii-world, transport, replay or simulated."""
    split: str = "val"
    """Split of the data set."""
    scene: str | None = None
    """Name of the scene. If not given: the one in which the recorded drive goes farthest."""
    frame: int | None = None
    """Frame of the scene to start from. If not given: the start of the longest recorded drive."""
    steps: int = 8
    """Steps of 0.5 s; a drive that collides or leaves the road ends earlier."""
    out: Path = Path("outputs/scripted_scenarios")
    """Folder of the pictures."""
    short: bool = False
    """Two steps only, to try it out."""


def main(args: Args) -> None:
    steps = 2 if args.short else args.steps
    env = gym.make(
        "IIWorld-nuScenes-v0",
        world=args.world,
        checkpoint=args.checkpoint,
        data_root=args.data_root,
        split=args.split,
        horizon=steps,
    )
    face: Any = env.unwrapped  # the environment without gym.make's wrappers: it knows the scenes and the occupancy
    scene, frame = longest_drive(face.scenes, steps, args.scene, args.frame)
    print(f"{scene}, frame {frame}")

    # Drive: the same start four times, one constant action each.
    drives: dict[str, list[dict[str, Any]]] = {}
    begin, count = time.perf_counter(), 0
    for name, action in MANOEUVRES.items():
        _, info = env.reset(seed=0, options={"scene": scene, "frame": frame})
        moments = [{**info, "labels": face.occupancy}]
        for _ in range(steps):
            _, _, terminated, truncated, info = env.step(np.array(action, np.float32))
            moments.append({**info, "labels": face.occupancy})
            count += 1
            if terminated or truncated:
                break
        drives[name] = moments
        way = np.hypot(*(moments[-1]["ego_pose"] - moments[0]["ego_pose"])[:2])
        print(f"{name:>9}: {len(moments) - 1} steps, {way:5.1f} m away, ended by {moments[-1]['end']}")
    print(f"{count / (time.perf_counter() - begin):.1f} environment steps per second")
    env.close()

    # Draw: one row a drive, one column a moment; in the film all four at once.
    longest = max(map(len, drives.values()))
    columns = np.unique(np.linspace(0, longest - 1, min(5, longest)).round().astype(int)).tolist()
    rows = [[above(drive, i) if i < len(drive) else None for i in columns] for drive in drives.values()]
    picture = strip(
        rows,
        columns=[f"+{i * STEP_S:.1f} s" for i in columns],
        labels=list(drives),
        title=f"{scene}, frame {frame}, {info['data_source']}, {info['world']} world",
    )
    pairs = (("left", "right"), ("straight", "braking"))
    film = [
        strip([[ahead(name, drives[name], i) for name in pair] for pair in pairs], with_legend=False)
        for i in range(longest)
    ]
    print("pictures:", write_png(args.out / "scenarios.png", picture).resolve())
    print("film:    ", write_gif(args.out / "scenarios.gif", film, fps=3).resolve())


def longest_drive(scenes: Any, steps: int, scene: str | None, frame: int | None) -> tuple[str, int]:
    """Scene and frame of the start whose recorded drive covers most ground, among those that the arguments allow."""
    index, best = scenes.index, (-1.0, "", 0)
    for number in scenes.numbers:
        frames = index.frames(number)
        place = index.translation_m[frames.start : frames.stop]
        for start in range(4, max(5, len(frames) - steps)) if frame is None else [frame]:
            way = np.linalg.norm(place[min(start + steps, len(frames) - 1)] - place[min(start, len(frames) - 1)])
            if scene in (None, scenes.name(number)):
                best = max(best, (float(way), scenes.name(number), start))
    return (best[1] or str(scene), best[2])


def way_so_far(drive: list[dict[str, Any]], step: int) -> np.ndarray:
    """Driven positions as seen from the ego at ``step``, (step + 1, 2) metres."""
    poses = np.array([moment["ego_pose"] for moment in drive[: step + 1]])
    x, y, yaw = poses[-1]
    c, s = np.cos(yaw), np.sin(yaw)
    return (poses[:, :2] - (x, y)) @ np.array(((c, -s), (s, c)))


def above(drive: list[dict[str, Any]], step: int) -> np.ndarray:
    return birds_eye(drive[step]["labels"], scale=1, path_m=way_so_far(drive, step))


def ahead(name: str, drive: list[dict[str, Any]], step: int) -> np.ndarray:
    step = min(step, len(drive) - 1)  # a drive that has ended stands still
    moment = drive[step]
    text = f"{name}   {moment['speed_mps'] * 3.6:.0f} km/h"
    if moment["end"] and moment["end"] != "horizon":
        text += f"   {moment['end'].replace('_', ' ')}"
    return caption(voxels_3d(moment["labels"], size=(400, 300), path_m=way_so_far(drive, step)), text)


if __name__ == "__main__":
    main(tyro.cli(Args))
