"""A session: the worlds, the drive and who drives, as the page's controls change them. It knows no browser."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ii_world_env.faces.config import EnvConfig
from ii_world_env.faces.episodes import Episodes
from ii_world_env.scenes import PAST
from ii_world_env.view.drives.drive import Drive, Driver, Moment, Pane
from ii_world_env.view.drives.drivers import FUTURES, YOU, Keys, Manoeuvre, check_choices, key_action, planner
from ii_world_env.view.geometry.overlays import cars_of, path_quads, route_quads
from ii_world_env.view.geometry.picture import Picture
from world_model.core.geometry import relative
from world_model.core.grid import STEP_S
from world_model.worlds import resolve_world
from world_model.worlds.kinds import GEOMETRIC
from world_model.worlds.traffic import DEFAULT_TRAFFIC, VOXELS

TITLES = {"replay": "recorded (replay)", "learned": "learned", "simulated": "simulated"}


@dataclass(frozen=True, kw_only=True)
class Begin:
    """Where a drive begins, and in what.

    Attributes:
        config: world, data and modes.
        scene: name or number; None: the first. frame: in the scene; None: the first that has a past.
        beside: names of further worlds that are shown beside the first.
    """

    config: EnvConfig
    scene: str | int | None = None
    frame: int | None = None
    beside: tuple[str, ...] = ()


class Session:
    """One drive in one or more worlds.

    Args:
        begin: what to begin with.

    Attributes:
        begun: what the drive began with.
        keys: pressed by whoever looks at the page.
    """

    def __init__(self, begin: Begin) -> None:
        self.keys = Keys()
        self._made: dict[EnvConfig, Episodes] = {}
        self.futures = False
        self.begin(begin)

    def begin(self, begin: Begin) -> None:
        """Begin a new drive; after an error the old one goes on.

        Raises:
            IIWorldError: no such world, data, scene, frame or mode, or they do not fit together.
        """
        lead = self._pane(begin.config, begin)
        beside = [self._pane(replace(begin.config, world=name), begin) for name in begin.beside]
        self.drive = Drive([lead, *beside])
        self.begun, self.futures = begin, False
        self.driver_name: str = YOU
        self._driver: Driver | None = None
        self.keys.release()
        _ = self.drive.state

    @property
    def episodes(self) -> Episodes:
        """The leading world with its data."""
        return self._made[fitting(self.begun.config)]

    @property
    def scene_names(self) -> list[str]:
        """Names of all scenes of the split."""
        scenes = self.episodes.scenes
        return [scenes.name(number) for number in scenes.numbers]

    @property
    def start(self) -> tuple[str, int, int]:
        """Scene, frame in it, and the last frame that a drive can begin at."""
        scenes, state = self.episodes.scenes, self.drive.lead.start
        scene = int(state.scene[0])
        frames = scenes.index.frames(scene)
        return scenes.name(scene), int(state.frame[0]) - frames.start, len(frames) - 2

    def show_beside(self, names: tuple[str, ...]) -> None:
        """Put other worlds beside the first; they tell their version of the drive so far.

        Raises:
            IIWorldError: a world cannot show this scene.
        """
        self.drive.panes = [self.drive.lead, *self._beside(names)]
        self.begun, self.futures = replace(self.begun, beside=names), False

    def show_futures(self, wanted: bool) -> None:
        """Put possible futures of the leading world beside it, from now on."""
        lead = self.drive.lead
        check_choices(lead.engine, wanted)
        if not wanted:
            self.show_beside(self.begun.beside)
            return
        now = self.drive.now
        known = {moment.number: lead.at(moment) for moment in now.line}
        panes = [
            Pane(
                title=f"future: {name}",
                engine=lead.engine,
                start=lead.start,
                driver=Manoeuvre(engine=lead.engine, name=name),
                since=now,
                kept=dict(known),
            )
            for name in FUTURES
        ]
        self.drive.panes, self.futures = [lead, *panes], True

    def choose_driver(self, name: str) -> None:
        """Let a planner drive, or `YOU`.

        Raises:
            IIWorldError: no such planner.
        """
        driver = None if name == YOU else planner(name, self.drive.lead.engine, self.episodes.scenes)
        if driver is not None:
            driver.reset(self.drive.state)
        self.driver_name, self._driver = name, driver

    def step(self, now_s: float) -> Moment:
        """Half a second on, as the driver wants.

        Args:
            now_s: for the keys.
        """
        return self.drive.step(self._action(self.keys.down(now_s)))

    def step_keys(self, down: set[str]) -> Moment:
        """Half a second on with these keys."""
        return self.drive.step(self._action(down))

    def _action(self, down: set[str]) -> Tensor:
        state, driver = self.drive.state, self._driver
        if driver is None or down:
            return key_action(self.drive.lead.engine, state, down)
        return driver.act(state)

    # What a page shows (see `Source`) ---------------------------------------------------------------------------------

    @property
    def place(self) -> tuple[int, int]:
        return self.drive.now.steps, len(self.drive.line)

    def back(self) -> bool:
        return self.drive.back()

    def forth(self) -> bool:
        return self.drive.forth()

    def seek(self, place: int) -> None:
        line = self.drive.line
        self.drive.go(line[max(0, min(place, len(line) - 1))].number)

    def pictures(self) -> list[Picture]:
        return [self._picture(pane) for pane in self.drive.panes]

    def facts(self) -> dict[str, NDArray[Any]]:
        return self.drive.facts()

    def text(self) -> dict[str, str]:
        state, episodes = self.drive.state, self.episodes
        scene, frame, _ = self.start
        return {
            "time": f"{STEP_S * self.drive.now.steps:.1f} s",
            "speed": f"{3.6 * float(state.speed_mps[0]):.0f} km/h",
            "way": f"{float(state.progress_m[0]):.0f} of {float(state.route.goal_m[0]):.0f} m",
            "state": (self.drive.end() or "driving").replace("_", " "),
            "scene": f"{scene}, frame {frame}",
            "world": episodes.world_name,
            "data": episodes.scenes.source,
        }

    def _picture(self, pane: Pane) -> Picture:
        moment, grid = self.drive.now, pane.engine.world.grid
        seen = pane.at(moment)
        labels = pane.labels(moment)
        motion = np.zeros((0, 3), np.float32)
        if seen.result is not None and moment.parent is not None:
            before = pane.at(moment.parent).state.pose
            motion = relative(before[:, None].expand_as(seen.result.path), seen.result.path)[0].cpu().numpy()
        return Picture(
            title=pane.title,
            labels=labels,
            grid=grid,
            route=route_quads(seen.state, labels, grid),
            path=path_quads(seen.state, pane.path(moment), labels, grid),
            cars=tuple(cars_of(pane.engine, seen.state)),
            motion=motion,
            ended=self.drive.end(pane),
        )

    def _beside(self, names: tuple[str, ...]) -> list[Pane]:
        kept = {pane.title: pane for pane in self.drive.panes[1:] if pane.driver is None}
        return [
            kept.get(_title(name)) or self._pane(replace(self.begun.config, world=name), self.begun) for name in names
        ]

    def _pane(self, config: EnvConfig, begin: Begin) -> Pane:
        config = fitting(config)
        if config not in self._made:
            self._made[config] = Episodes(config)
        episodes = self._made[config]
        scenes = episodes.scenes
        wanted = begin.scene if begin.scene is not None else scenes.name(scenes.numbers[0])
        options: dict[str, Any] = {"scene": wanted}
        if begin.frame is not None:
            options["frame"] = begin.frame
        else:
            number = next((n for n in scenes.numbers if wanted in (n, scenes.name(n))), scenes.numbers[0])
            options["frame"] = min(PAST, len(scenes.index.frames(number)) - 2)
        state = episodes.begin([np.random.default_rng(0)], [options])
        return Pane(title=_title(config.world), engine=episodes.engine, start=state)


def fitting(config: EnvConfig) -> EnvConfig:
    """Without the options of traffic in worlds that have none to choose."""
    if config.world == GEOMETRIC or resolve_world(config.world, config.checkpoint) == GEOMETRIC:
        return config
    return replace(config, traffic=DEFAULT_TRAFFIC, agents=VOXELS)


def _title(world: str) -> str:
    return TITLES.get(world, world)
