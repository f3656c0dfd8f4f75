"""List the named events, and film them: ``python -m agents.scenarios``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.planners.build import build_planner, check_planner
from ii_world_env.engine import CAUSES, Engine, EngineConfig
from ii_world_env.scenes import Scenes, Start, conditions, open_scenes, with_event
from world_model.core.command import run
from world_model.core.files import check_writable
from world_model.core.grid import VoxelGrid
from world_model.pictures import caption
from world_model.pictures.bev import birds_eye
from world_model.pictures.strip import strip
from world_model.pictures.video import write_film, write_png
from world_model.worlds import build_world
from world_model.worlds.events import EVENTS, check_event
from world_model.worlds.traffic import DEFAULT_TRAFFIC

WORLDS = ("geometric", "simulated")
LEFT_M, BEHIND_M, VOXELS = 12.0, 12.0, (130, 60)
"""What films show: from so far behind and to the right, so many columns along x and y."""


@dataclass(frozen=True, kw_only=True)
class Scenarios:
    """List the events that can be staged at the start of an episode; with --out, film each of them in the learned world
    and in the simulator, from one start, with one planner.

    Try:
      python -m agents.scenarios
      python -m agents.scenarios --out outputs/scenarios --planner constant_velocity
      python -m agents.evaluate --world simulated --event cut-in
    """

    out: Path | None = None
    """Folder for the films and strips; without it the events are only listed."""
    events: tuple[str, ...] = tuple(EVENTS)
    """Which of them."""
    index: Path | None = None
    """Synthetic data set. If not given: the bundled demo scenes."""
    split: str = "val"
    """Its scenes."""
    scene: str | None = None
    """Name of the scene. If not given: that of the fastest start."""
    frame: int | None = None
    """Keyframe in the scene."""
    seed: int = 0
    """Of the event's variant."""
    planner: str = "idm"
    """Who drives, as in agents.evaluate."""
    traffic: str = "log-like"
    """How the others move in the learned world."""
    steps: int = 14
    """Steps of 0.5 s."""
    suffix: str = ".gif"
    """Format of the films, .gif or .mp4."""

    def __post_init__(self) -> None:
        for event in self.events:
            check_event(event)
        check_planner(self.planner)


def scenarios(options: Scenarios) -> list[Path]:
    """List and film.

    Returns:
        The files that were written.
    """
    for event in options.events:
        print(f"{event:13s} {EVENTS[event]}")
    if options.out is None:
        return []
    check_writable(options.out)
    scenes = open_scenes(index=options.index, split=options.split, horizon=options.steps)
    start, written = _start(scenes, options), []
    place = f"{scenes.name(start.scene)}, frame {start.frame - scenes.index.frames(start.scene).start}"
    for event in options.events:
        drives = {world: _driven(world, event, start, scenes, options) for world in WORLDS}
        frames = [np.concatenate([drives[world][k] for world in WORLDS], 1) for k in range(options.steps + 1)]
        chosen = range(0, options.steps + 1, 2)
        rows = [[drives[world][k] for k in chosen] for world in WORLDS]
        picture = strip(rows, columns=[f"{k / 2:.0f} s" for k in chosen], labels=WORLDS, title=f"{event}: {place}")
        written.append(write_film(options.out / f"{event}{options.suffix}", frames, fps=4))
        written.append(write_png(options.out / f"{event}.png", picture))
        print(f"wrote {written[-2]} and {written[-1]}", flush=True)
    return written


def _start(scenes: Scenes, options: Scenarios) -> Start:
    """Where the films begin: the chosen frame, else the fastest start of a drive that goes on."""
    given = {name: value for name in ("scene", "frame") if (value := getattr(options, name)) is not None}
    if given:
        return scenes.choose(np.random.default_rng(options.seed), given)
    frame = max(scenes.starts, key=lambda f: float(scenes.index.motion[f : f + options.steps, 0].min()))
    return next(Start(scene=s, frame=frame) for s in scenes.numbers if frame in scenes.index.frames(s))


@torch.inference_mode()
def _driven(world: str, event: str, start: Start, scenes: Scenes, options: Scenarios) -> list[NDArray[Any]]:
    """Pictures of a drive; after its end the last one stays."""
    traffic = options.traffic if world == "geometric" else DEFAULT_TRAFFIC
    built = build_world(world, device="cpu", traffic=traffic)
    engine = Engine(built, EngineConfig(horizon=options.steps), needs_occupancy=True)
    staged = with_event([start], event, options.seed)
    clips = scenes.load(staged, engine.frames_ahead, built.needs_future_labels)
    state = engine.reset(clips, **conditions(staged))
    planner = build_planner(options.planner, engine, scenes)
    planner.reset(state)
    grid = built.grid
    i, j = (round((-m - low) / grid.voxel_m) for m, low in zip((BEHIND_M, LEFT_M), grid.lower_m[:2], strict=True))
    near = VoxelGrid(shape=(*VOXELS, grid.shape[2]), lower_m=(-BEHIND_M, -LEFT_M, grid.lower_m[2]))
    pictures, cause = list[NDArray[Any]](), 0
    for _ in range(options.steps + 1):
        labels = engine.occupancy(state)[0, i : i + VOXELS[0], j : j + VOXELS[1]].cpu().numpy()
        end = CAUSES[cause] if cause == CAUSES.index("collision") else ""
        text = f"{world}  {float(state.speed_mps[0]) * 3.6:.0f} km/h  {end}"
        pictures.append(caption(birds_eye(labels, scale=3, grid=near), text))
        if cause == CAUSES.index("collision"):
            continue
        state, result = engine.step(state, planner.act(state))
        cause = int(result.cause[0])
    return pictures


def main() -> None:
    """Command line."""
    run(Scenarios, scenarios, "python -m agents.scenarios")


if __name__ == "__main__":
    main()
