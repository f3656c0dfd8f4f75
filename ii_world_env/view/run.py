"""The command ``python -m ii_world_env.view``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ii_world_env.faces.config import EnvConfig
from ii_world_env.faces.options import DriveOptions
from ii_world_env.view.drives.drivers import YOU
from ii_world_env.view.drives.session import Begin, Session
from ii_world_env.view.page.film import film_page
from ii_world_env.view.page.serve import address, hint, server, source_of
from ii_world_env.view.page.show import Show
from world_model.core.command import run
from world_model.worlds.traffic import DEFAULT_TRAFFIC


@dataclass(frozen=True, kw_only=True)
class View(DriveOptions):
    """Look at a world in a browser and drive in it.

    Opens a page with the occupancy in 3D and prints its address. Without options it shows the bundled demo scenes in
    the learned world. Drive with W A S D or the arrow keys, or let a planner drive; pause, step back, branch; put other
    worlds or possible futures beside it; record films, save drives. With files it shows those: labels of Occ3D, STCOcc,
    Waymo and UniOcc, forecasts of `python -m world_model.generate` side by side with their difference, saved drives.

    It listens on this machine alone unless --host says otherwise: whoever reaches the page can drive and save files.

    Try:
      python -m ii_world_env.view --world simulated --planner idm
      python -m ii_world_env.view --index data/nuscenes --checkpoint runs/geometric --scene scene-0103
      python -m ii_world_env.view --world learned --beside simulated replay
      python -m ii_world_env.view outputs/generate/scene-0001_004_logged/forecast.npz
      python -m ii_world_env.view prediction/labels.npz gts/scene-0001/TOKEN/labels.npz
    """

    files: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Label files, forecasts, or one saved drive, to show instead of a new drive."""
    split: str = "val"
    """train, val or all."""
    scene: str | None = None
    """Name or number of the scene. If not given: the first one."""
    frame: int | None = None
    """Keyframe in the scene. If not given: the first one with a past."""
    planner: str = "you"
    """you, or any planner of `python -m agents.evaluate`, such as idm, cem or ppo:PATH. Keys always win."""
    beside: tuple[str, ...] = ()
    """Other worlds beside it, such as simulated or replay (as recorded)."""
    traffic: str = DEFAULT_TRAFFIC
    """How others move in the geometric world: constant-velocity, rigid, log-like, sampled or aggressive."""
    horizon: int = 40
    """Steps of 0.5 s until the destination; driving on after it is allowed."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every one of this machine."""
    port: int = 8080
    """Port to listen on; 0 for any free one."""
    out: Path = Path("runs/view")
    """Folder for films and saved drives."""
    film: Path | None = None
    """Write a film of the page to this file (.gif or .mp4) and end: the planner drives in a headless Chromium."""
    seconds: float = 8.0
    """Length of that film."""
    size: tuple[int, int] = (960, 540)
    """Width and height of that film in pixels."""


def view(options: View) -> None:
    """Show and drive until interrupted."""
    options.check_counts("horizon")
    scene = int(options.scene) if options.scene is not None and options.scene.isdigit() else options.scene
    config = EnvConfig(**options.keywords(), split=options.split, traffic=options.traffic)
    source = source_of(options.files, Begin(config=config, scene=scene, frame=options.frame, beside=options.beside))
    if isinstance(source, Session) and options.planner != YOU:
        source.choose_driver(options.planner)
    with server(options.host, options.port) as made:
        show = Show(made, source, config, options.out)
        if options.film is not None:
            print(f"wrote {film_page(show, address(made, '127.0.0.1'), options.film, options.seconds, options.size)}")
            return
        print(f"open {address(made, options.host)}\n  {hint(made, options.host)}\n  Ctrl-C ends it", flush=True)
        show.run()


def main() -> None:
    """Command line."""
    run(View, view, "python -m ii_world_env.view", resumes="saved drives and films stay")
