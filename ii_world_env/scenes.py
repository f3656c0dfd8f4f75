"""Where episodes start: a data set, a split, and the frames that have enough past and future.

Without data the bundled demo scenes are used, which the log says once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch

from world_model.core.errors import DataError, OptionError
from world_model.core.grid import OCC3D, VoxelGrid
from world_model.data.clips import Clips, load_clips, windows
from world_model.data.index import COMMANDS, DATASETS, INDEX_NAME, SceneIndex
from world_model.worlds.events import EVENTS, check_event
from world_model.worlds.traffic import FUTURES, SAMPLE, check_future

PAST = 4
"""Observed frames before the current one."""
RESET_OPTIONS = {
    "scene": "name or number of a scene",
    "frame": "keyframe number within the scene, 0 is the first",
    "state": "a kept State to go on from, alone",
    "command": f"one of {COMMANDS} or 0..2, held for the whole episode",
    "speed_mps": "start speed, 0..20 m/s",
    "event": f"one of {tuple(EVENTS)} (world='geometric' or 'simulated')",
    "future": f"one of {FUTURES} (traffic with many futures)",
    "variation": "a dict of what is to differ from the recording",
}
VARIATIONS = {
    "speed_mps": "start speed, 0..20 m/s",
    "command": f"one of {COMMANDS} or 0..2, held for the whole episode",
    "action_noise": "standard deviation of noise on every number of an action, 0..1 (continuous modes)",
    "drop_agents": "share of the other agents that are taken out, 0..1 (world='simulated')",
}


@dataclass(frozen=True, kw_only=True)
class Start:
    """One place to start from.

    Attributes:
        scene: scene number in the index.
        frame: frame number in the index.
        command: 0..2, or -1 for the recorded commands.
        speed_mps: start speed, or NaN for the recorded one.
        action_noise: standard deviation of the noise on every number of an action.
        drop_agents: share of the other agents that are taken out.
        seed: of the noise, of the choice of agents, of the event, and of drawn traffic.
        event: name of an event, see `world_model.worlds.events.EVENTS`; None: nothing is staged.
        future: "mode" or "sample" of traffic that has many futures; None: as the traffic says.
    """

    scene: int
    frame: int
    command: int = -1
    speed_mps: float = float("nan")
    action_noise: float = 0.0
    drop_agents: float = 0.0
    seed: int = 0
    event: str | None = None
    future: str | None = None


class Scenes:
    """The frames of one split that episodes can start from.

    Args:
        index: the data set.
        split: "train", "val" or "all".
        horizon: steps of an episode; starts have that much recorded future, or else the most that the scenes offer.
        demo: the data are the bundled demo scenes.

    Attributes:
        seeded: every start gets a seed, since the world's traffic depends on it.
    """

    seeded = False

    def __init__(self, index: SceneIndex, split: str, horizon: int, demo: bool = False) -> None:
        self.index, self.split, self.demo = index, split, demo
        self.numbers = index.scenes(split)
        longest = max(len(index.frames(scene)) for scene in self.numbers)
        self.starts = windows(index, split, past=PAST, future=max(1, min(horizon, longest - PAST - 1)))

    @property
    def source(self) -> str:
        """What the data are, for ``info["data_source"]``."""
        return f"{self.index.source} (bundled demo)" if self.demo else self.index.source

    def name(self, scene: int) -> str:
        """Name of a scene."""
        return str(self.index.scene_name[scene])

    def choose(self, rng: np.random.Generator, options: Mapping[str, Any] | None = None) -> Start:
        """A start as the options want it, the rest at random.

        Raises:
            OptionError: an unknown option, or a value that does not fit; lists what is allowed.
        """
        options = _known({} if options is None else options, RESET_OPTIONS, "reset option")
        varied = _variation(options)
        scene = self._scene(options["scene"]) if "scene" in options else None
        frame = self._frame(rng, scene, options.get("frame"))
        event = check_event(options["event"]) if options.get("event") is not None else None
        future = check_future(options["future"]) if options.get("future") is not None else None
        random = varied.get("action_noise") or varied.get("drop_agents") or self.seeded or event or future == SAMPLE
        # Drawn only where it matters: the same seed chooses the same scenes with and without variations.
        seed = int(rng.integers(2**62)) if random else 0
        return Start(scene=frame[0], frame=frame[1], seed=seed, event=event, future=future, **varied)

    def load(self, starts: Sequence[Start], future: int, with_future_labels: bool, grid: VoxelGrid = OCC3D) -> Clips:
        """The clips of some starts."""
        frames = [start.frame for start in starts]
        return load_clips(self.index, frames, PAST, future, with_future_labels, grid=grid)

    def _scene(self, wanted: object) -> int:
        names = {self.name(scene): scene for scene in self.numbers}
        if isinstance(wanted, str) and wanted in names:
            return names[wanted]
        if isinstance(wanted, (int, np.integer)) and not isinstance(wanted, bool) and int(wanted) in self.numbers:
            return int(wanted)
        some = ", ".join(f"{name} ({number})" for name, number in list(names.items())[:8])
        more = f", ... ({len(names)} in all)" if len(names) > 8 else ""
        raise OptionError(
            f"scene={wanted!r} in split {self.split!r}", f"one of {some}{more}", "name a scene or its number"
        )

    def _frame(self, rng: np.random.Generator, scene: int | None, wanted: object) -> tuple[int, int]:
        if wanted is None:
            starts = self.starts
            if scene is not None:
                inside = self.index.frames(scene)
                starts = [frame for frame in starts if frame in inside] or list(inside[:-1])
            frame = int(starts[int(rng.integers(len(starts)))])
            return next(s for s in self.numbers if frame in self.index.frames(s)), frame
        if scene is None:
            scene = self.numbers[int(rng.integers(len(self.numbers)))]
        last = len(self.index.frames(scene)) - 2
        if not isinstance(wanted, (int, np.integer)) or isinstance(wanted, bool) or not 0 <= int(wanted) <= last:
            raise OptionError(
                f"frame={wanted!r} of {self.name(scene)}", f"a number 0..{last}", "choose an earlier frame"
            )
        return scene, int(self.index.frames(scene)[int(wanted)])


def with_event(starts: Sequence[Start], event: str, seed: int = 0) -> list[Start]:
    """The same starts with a named event, another variant of it in each; equal seeds give equal ones.

    Raises:
        OptionError: there is no such event.
    """
    name = check_event(event)
    return [
        replace(start, event=name, seed=int(np.random.SeedSequence([seed, start.frame]).generate_state(1)[0]))
        for start in starts
    ]


def conditions(starts: Sequence[Start]) -> dict[str, Any]:
    """What `Engine.reset` takes beside the clips, each (B,)."""
    names = ("speed_mps", "command", "action_noise", "drop_agents", "seed")
    columns = {name: np.array([getattr(start, name) for start in starts]) for name in names}
    numbers = {n: torch.from_numpy(v.astype(np.float32) if v.dtype.kind == "f" else v) for n, v in columns.items()}
    return {**numbers, **{name: [getattr(start, name) for start in starts] for name in ("event", "future")}}


def open_scenes(
    *,
    data_root: str | Path | None = None,
    index: str | Path | None = None,
    split: str = "val",
    horizon: int = 16,
    dataset: str = "any",
) -> Scenes:
    """Open a data set, or the bundled demo scenes where none is named.

    Args:
        data_root: folder of the labels; holds the index unless ``index`` says where that is.
        index: index file of `python -m world_model.prepare`.
        split: "train", "val" or "all".
        horizon: steps of an episode.
        dataset: "any", or which data set the index must hold, one of `world_model.data.index.DATASETS`.

    Raises:
        DataError: no such data or split, or another data set.
        OptionError: an unknown data set, or one that is not bundled and was not given.
    """
    if dataset not in ("any", *DATASETS):
        raise OptionError(f"dataset={dataset!r}", f"any, {', '.join(DATASETS)}", "choose one of them")
    if dataset != "any" and data_root is None and index is None:
        raise OptionError(
            f"no data of the data set {dataset!r} were given, and none are bundled",
            "data_root= or index=, prepared with `python -m world_model.prepare`",
            "see docs/howto/formats.md for how to get and prepare them",
        )
    if data_root is None and index is None:
        from world_model.data.demo import demo_root

        _say_demo()
        return Scenes(_index(str(demo_root()), None), split, horizon, demo=True)
    path = Path(index) if index is not None else Path(str(data_root))
    if not path.exists():
        raise DataError(f"{path} does not exist", f"a data folder with {INDEX_NAME}", "check data_root= and index=")
    opened = _index(str(path), None if data_root is None else str(data_root))
    if dataset not in ("any", opened.dataset):
        raise DataError(
            f"{path} holds the data set {opened.dataset!r}",
            repr(dataset),
            'make("IIWorld-nuScenes-v0", ...), which takes any data set, or give the path of the other one',
        )
    return Scenes(opened, split, horizon)


@lru_cache(maxsize=8)
def _index(path: str, root: str | None) -> SceneIndex:
    # Shared by all environments of a process: a large index is read once.
    return SceneIndex.load(path, root)


@lru_cache(maxsize=1)
def _say_demo() -> None:
    # Logged, not warned: it is no fault of the program, and `python -W error` must not end on it.
    logging.getLogger(__name__).warning(
        "no data_root= or index= given: driving in the bundled demo scenes, which are synthetic. "
        'info["data_source"] says so in every step.'
    )


def _known(options: object, allowed: Mapping[str, str], what: str) -> dict[str, Any]:
    if not isinstance(options, Mapping):
        raise OptionError(f"{what}s of type {type(options).__name__}", "a dict", "give names and values")
    unknown = sorted(map(str, set(options) - set(allowed)))
    if unknown:
        listed = "; ".join(f"{name}: {meaning}" for name, meaning in allowed.items())
        raise OptionError(f"unknown {what} {', '.join(unknown)}", listed, "remove or rename it")
    return dict(options)


def _variation(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Start` that options change, checked."""
    wanted = _known(options.get("variation", {}), VARIATIONS, "variation")
    for name in ("command", "speed_mps"):
        if name in options and name in wanted:
            raise OptionError(f"{name} as a reset option and as a variation", "one of both", "remove one of them")
        if name in options:
            wanted[name] = options[name]
    return {name: _command(value) if name == "command" else _number(name, value) for name, value in wanted.items()}


def _number(name: str, value: object) -> float:
    high = 20 if name == "speed_mps" else 1
    if isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) <= high:
        return float(value)
    raise OptionError(f"{name}={value!r}", f"a number 0..{high}", f"it is the {VARIATIONS[name]}")


def _command(value: object) -> int:
    if isinstance(value, str) and value in COMMANDS:
        return COMMANDS.index(value)
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 <= int(value) < len(COMMANDS):
        return int(value)
    raise OptionError(f"command={value!r}", f"one of {COMMANDS} or 0..2", "choose one of them")
