"""Drive the bundled scenes inside the learned world with scripted planners and a learned one: a table, and a film.

    python examples/quickstart.py

No data and no download are needed: the scenes are synthetic and held out from training, the model is the bundled one.
The film shows, planner by planner, the forecast occupancy that the planner reacted to.
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
from agents.planners.build import build_planner
from world_model.core.files import write_json
from world_model.pictures import birds_eye, caption, strip, voxels_3d, write_gif


@dataclass(frozen=True, kw_only=True)
class Args:
    """Drive scenes with four planners, print a table, write a film."""

    data_root: str | None = None
    """Folder with an index, see `python -m world_model.prepare`. If not given: the bundled demo scenes."""
    checkpoint: str | None = None
    """Folder of a trained model. If not given: the bundled one."""
    world: str = "learned"
    """learned (what the checkpoint holds), geometric, ii-world, transport, replay or simulated."""
    split: str = "val"
    """Split of the data set."""
    scenes: int = 3
    """At most so many scenes."""
    steps: int = 16
    """Steps of 0.5 s in an episode."""
    planners: tuple[str, ...] = ("constant_velocity", "idm", "log_replay", "ppo")
    """As in agents.evaluate; ppo is the bundled policy."""
    out: Path = Path("outputs/quickstart")
    """Folder of the film and the table."""
    short: bool = False
    """One scene and two steps only, to try it out."""


def main(args: Args) -> None:
    steps = 2 if args.short else args.steps
    begin = time.perf_counter()
    env = gym.make(
        "IIWorld-nuScenes-v0",
        world=args.world,
        checkpoint=args.checkpoint,
        data_root=args.data_root,
        split=args.split,
        horizon=steps,
    )
    face: Any = env.unwrapped  # the environment without gym.make's wrappers: its state is what planners read
    names = [face.scenes.name(number) for number in face.scenes.numbers][: 1 if args.short else args.scenes]
    planners = [build_planner(name, face.engine, face.scenes) for name in args.planners]
    seconds = time.perf_counter() - begin
    print(f"{len(names)} scenes, {len(planners)} planners, {face.episodes.world_name} world, ready in {seconds:.1f} s")

    # Drive every scene with every planner, always from the same frame.
    episodes: dict[str, list[dict[str, Any]]] = {planner.name: [] for planner in planners}
    count, begin = 0, time.perf_counter()
    for scene in names:
        for planner in planners:
            _, info = env.reset(seed=0, options={"scene": scene, "frame": 4})
            planner.reset(face.state)
            moments, reward_sum = [moment(face, info)], 0.0
            while info["end"] is None:
                action = planner.act(face.state)[0].numpy()
                _, reward, _, _, info = env.step(action)
                reward_sum += float(reward)
                count += 1
                moments.append(moment(face, info))
            share = 1.0 if info["end"] == "destination" or info["goal_m"] < 5 else info["progress_m"] / info["goal_m"]
            episodes[planner.name].append(
                {
                    "scene": scene,
                    "end": info["end"],
                    "progress": float(np.clip(share, 0, 1)),
                    "reward": reward_sum,
                    "moments": moments,
                }
            )
            print(f"  {scene}  {planner.name:<18} {len(moments) - 1:>2} steps  ended by {info['end']}", flush=True)
    print(f"{count / (time.perf_counter() - begin):.1f} environment steps per second\n")
    env.close()

    # The table.
    rows = {name: summary(done) for name, done in episodes.items()}
    print(f"{'planner':<18} {'episodes':>8} {'progress':>9} {'collision':>10} {'off road':>9} {'reward':>7}")
    for name, row in rows.items():
        print(
            f"{name:<18} {row['episodes']:>8.0f} {row['progress']:>9.0%} {row['collision']:>10.0%} "
            f"{row['off_road']:>9.0%} {row['reward']:>7.2f}"
        )
    print(f"data: {info['data_source']}, world: {info['world']}, {steps} steps of 0.5 s from frame 4 of each scene")
    details = [
        {k: v for k, v in e.items() if k != "moments"} | {"planner": name}
        for name, done in episodes.items()
        for e in done
    ]
    write_json(args.out / "results.json", {"data_source": info["data_source"], "summary": rows, "episodes": details})

    # The film: the scene in which the planners' ways differ most, side by side.
    ways = np.array([[e["moments"][-1]["progress_m"] for e in done] for done in episodes.values()])
    chosen = int(np.argmax(np.ptp(ways, axis=0)))
    print(f"drawing {names[chosen]} ...", flush=True)
    drives = {name: done[chosen]["moments"] for name, done in episodes.items()}
    title = f"{names[chosen]}, {info['data_source']}, {info['world']} world"
    film = [draw(drives, i, title) for i in range(max(map(len, drives.values())))]
    print("film: ", write_gif(args.out / "quickstart.gif", film, fps=4).resolve())
    print("table:", (args.out / "results.json").resolve())


def moment(face: Any, info: dict[str, Any]) -> dict[str, Any]:
    """What the film needs of this moment."""
    keys = ("ego_pose", "speed_mps", "progress_m", "time_s", "end")
    return {"labels": face.occupancy, **{key: info[key] for key in keys}}


def summary(done: list[dict[str, Any]]) -> dict[str, float]:
    """Means over the episodes of one planner."""
    return {
        "episodes": float(len(done)),
        "progress": float(np.mean([e["progress"] for e in done])),
        "collision": float(np.mean([e["end"] == "collision" for e in done])),
        "off_road": float(np.mean([e["end"] == "off_road" for e in done])),
        "reward": float(np.mean([e["reward"] for e in done])),
    }


def draw(drives: dict[str, list[dict[str, Any]]], step: int, title: str) -> np.ndarray:
    """One picture of the film: a column a planner, in 3D above, from above below."""
    upper, lower = [], []
    for name, drive in drives.items():
        now = min(step, len(drive) - 1)  # a drive that has ended stands still
        poses = np.array([m["ego_pose"] for m in drive[: now + 1]])
        x, y, yaw = poses[-1]
        c, s = np.cos(yaw), np.sin(yaw)
        path = (poses[:, :2] - (x, y)) @ np.array(((c, -s), (s, c)))
        at = drive[now]
        end = f"  {at['end'].replace('_', ' ')}" if at["end"] not in (None, "horizon") else ""
        text = f"{name.replace('_', ' ')}  {at['time_s']:.1f} s  {at['speed_mps'] * 3.6:.0f} km/h{end}"
        upper.append(caption(voxels_3d(at["labels"], size=(400, 300), path_m=path), text, size=13))
        lower.append(birds_eye(at["labels"], path_m=path)[50:350])  # 20 m behind the ego vehicle to 30 m ahead
    return strip([upper, lower], title=title, with_legend=False)


if __name__ == "__main__":
    main(tyro.cli(Args))
