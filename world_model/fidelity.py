"""Does a world answer actions truthfully? Its forecasts beside the simulator's truth, under actions nobody logged."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from world_model.core.errors import DataError, IIWorldError, OptionError
from world_model.core.grid import VoxelGrid
from world_model.core.runtime import choose_device, keep_memory
from world_model.data.clips import scene_of
from world_model.data.index import SceneIndex
from world_model.evaluation.fidelity.case import CHASE, Case, Task, starts_of
from world_model.evaluation.fidelity.entrants import Entrant, load_entrants
from world_model.evaluation.fidelity.measure import Counts, measure, measure_truth
from world_model.evaluation.fidelity.picture import draw_case
from world_model.evaluation.fidelity.report import FidelityReport
from world_model.evaluation.fidelity.result import TRUTH, WorldResult
from world_model.evaluation.forecasting.partial import PartialResults
from world_model.evaluation.forecasting.streams import spread
from world_model.evaluation.result import steps_of
from world_model.simulator.dataset.config import GENERATOR_VERSION
from world_model.worlds.rebuild import dataset_config
from world_model.worlds.simulated import SimulatedWorld

PROTOCOL = 1
"""Raised when the same settings would give other numbers, so that old partial results are not mixed in."""
ARMED = ("logged", "random")
"""Action sets that the control arms are tried on."""


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Measure how truthfully worlds answer actions: from the same states, the same actions in each world and in the
    simulator that made the scenes. Logged, perturbed, random and adversarial drives scored by horizon; the motion of
    the static scene against the commanded one; whether a vehicle stays when it is driven at; and control arms with
    frozen and shuffled actions, which must score clearly worse.

    Without options: the bundled checkpoint and the static transport world on the bundled synthetic demo scenes. On
    recordings, where nobody knows what other actions would have led to, only the logged ones are measured. A run that
    was killed goes on where it stopped.
    """

    index: Path | None = None
    """Index file from `python -m world_model.prepare`, or its folder. If not given: the bundled demo scenes."""
    worlds: tuple[str, ...] = ("learned", "transport")
    """learned (what the checkpoint holds), geometric, ii-world, transport, simulated, 'package.module:Class', or
    NAME=CHECKPOINT; one or more."""
    checkpoint: tuple[Path, ...] = ()
    """Checkpoint folders; each world takes the first that holds its kind of weights. If not given: the bundled one."""
    out: Path = Path("runs/fidelity")
    """Folder for fidelity.md, fidelity.json, plots, pictures, and partial results."""
    split: str = "val"
    """Scenes to drive in: val (held out), train, or all."""
    actions: tuple[Literal["logged", "perturbed", "random", "towards obstacle", "off road", "chase"], ...] = (
        "logged",
        "perturbed",
        "random",
        "towards obstacle",
        "off road",
        "chase",
    )
    """Action sets; `chase` is driving at a vehicle that stands ahead, for obstacle persistence."""
    arms: bool = True
    """Try the control arms on logged and random actions."""
    horizons_s: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
    """Forecast horizons in seconds."""
    stride: int = 8
    """Start a drive at every K-th frame that a drive can start at."""
    limit: int | None = None
    """At most this many scenes, evenly spread over the split."""
    chases: int = 3
    """Vehicles to drive at in a scene, at most."""
    batch: int = 16
    """Drives that go through a world at once; a matter of speed and memory."""
    seed: int = 0
    """Of perturbations and random actions; the same for all worlds."""
    pictures: int = 1
    """Draw the first drive of this many scenes for each action set."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""
    resume: bool = True
    """Use partial results of an earlier run with the same data, worlds and settings."""

    def __post_init__(self) -> None:
        steps_of(self.horizons_s)
        least = {"stride": 1, "batch": 1, "limit": 1, "chases": 1, "pictures": 0, "seed": 0}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise OptionError(f"{name}={value}", f"a number >= {lowest}", f"leave --{name} out")
        for name in ("worlds", "actions"):
            if not getattr(self, name) or len(set(getattr(self, name))) < len(getattr(self, name)):
                raise OptionError(f"{name}={getattr(self, name)}", "different names, at least one", "see --help")


def fidelity(options: Fidelity) -> FidelityReport:
    """Measure what the options ask for, write the report, and return it.

    Raises:
        DataError: index or labels are missing or damaged, or were made by another version of the simulator.
        CheckpointError: a checkpoint is missing or damaged.
        OptionError: there is no such world or device, or recordings are asked for what only a simulator can tell.
        OutputError: results cannot be written; partial results stay.
    """
    bench = _Bench(options)
    entrants = bench.entrants
    results = {name: WorldResult(name=name) for name in (*(e.name for e in entrants), TRUTH)}
    total = len(bench.cases) * len(bench.tasks) * len(results)
    begin, done, fresh = time.perf_counter(), 0, 0
    for number, case in enumerate(bench.scenes()):
        for task, name, counts, computed in bench.scores(case):
            done, fresh = done + 1, fresh + computed
            if counts:
                results[name] = results[name].add(task.name, counts)
            if computed:
                rest = (time.perf_counter() - begin) / fresh * (total - done)
                scene = case.index.scene_name[case.scene]
                print(f"[{done}/{total}, {rest:.0f} s left] {scene}: {task.name}, {name}", flush=True)
        if number < options.pictures:
            bench.draw(case)
    report = bench.report(results)
    written = report.save(options.out)
    print("\n" + report.to_markdown())
    print("wrote " + ", ".join(str(path) for path in (*written, *bench.drawn)))
    return report


class _Bench:
    """What the options ask for, with data and worlds loaded."""

    def __init__(self, options: Fidelity) -> None:
        self.options, self.drawn = options, list[Path]()
        self.index = SceneIndex.load(options.index or _demo())
        self.device = choose_device(options.device)
        self.entrants = load_entrants(options.worlds, options.checkpoint, str(self.device))
        self.grid = self.entrants[0].world.grid
        if any(entrant.world.grid != self.grid for entrant in self.entrants):
            raise OptionError(
                f"worlds {options.worlds} on different grids", "one grid", "measure them one after the other"
            )
        self.truth = _simulator_of(self.index, self.grid)
        self.tasks = _tasks(options, self.truth is not None)
        self.steps = steps_of(options.horizons_s)
        self.every = starts_of(self.index, options.split, self.steps[-1])
        if not self.every:
            raise DataError(
                f"no start with {self.steps[-1]} labelled frames after it in split {options.split!r}",
                "longer scenes",
                "take shorter horizons",
            )
        self.cases = spread(sorted({scene_of(self.index, frame) for frame in self.every}), options.limit)
        told = {
            "what": "fidelity",
            "protocol": PROTOCOL,
            "index": self.index.fingerprint,
            "split": options.split,
            "steps": list(self.steps),
            "stride": options.stride,
            "chases": options.chases,
            "seed": options.seed,
            "simulator": GENERATOR_VERSION if self.truth is not None else None,
        }
        hashes = {**{e.name: (e.what, self.device.type) for e in self.entrants}, TRUTH: ("", "cpu")}
        partial = options.out / "partial"
        self._stored = {
            name: PartialResults(partial, {**told, "world": list(what)}, options.resume)
            for name, what in hashes.items()
        }

    def scenes(self) -> Iterator[Case]:
        for scene in self.cases:
            frames = [frame for frame in self.every if scene_of(self.index, frame) == scene][:: self.options.stride]
            yield Case(
                self.index,
                scene,
                frames,
                self.every,
                self.steps,
                seed=self.options.seed,
                chases=self.options.chases if self.truth is not None else 0,
                simulator=self.truth,
                grid=self.grid,
                batch=self.options.batch,
            )

    def scores(self, case: Case) -> Iterator[tuple[Task, str, Counts, bool]]:
        """Task by task and world by world: what was counted, and whether it had to be computed."""
        for task in self.tasks:
            nothing = task.drive == CHASE and not case.chases
            for entrant in self.entrants:
                yield task, entrant.name, *self._counts(case, task, entrant, nothing)
            yield task, TRUTH, *self._counts(case, task, None, nothing or bool(task.arm))

    def _counts(self, case: Case, task: Task, entrant: Entrant | None, nothing: bool) -> tuple[Counts, bool]:
        if nothing:
            return {}, False
        stored = self._stored[entrant.name if entrant else TRUTH]
        name = f"{case.index.scene_name[case.scene]}-{task.name.replace(', ', '-').replace(' ', '-')}"
        found = stored.load(name)
        if found is not None:
            return found, False
        counts = measure(entrant.world, case, task) if entrant else measure_truth(case, task)
        stored.save(name, **counts)
        return counts, True

    def draw(self, case: Case) -> None:
        """Pictures of a scene's first drives."""
        worlds = {entrant.name: entrant.world for entrant in self.entrants}
        for task in self.tasks:
            if task.arm or (task.drive == CHASE and not case.chases):
                continue
            name = f"{case.index.scene_name[case.scene]}-{task.drive.replace(' ', '-')}.png"
            self.drawn.append(draw_case(self.options.out / "pictures" / name, worlds, case, task))

    def report(self, results: dict[str, WorldResult]) -> FidelityReport:
        index, options = self.index, self.options
        held_out = {"val": "held-out scenes", "train": "training scenes"}.get(options.split, f"split {options.split}")
        starts = sum(len(case.frames) for case in self.scenes())
        settings: dict[str, Any] = {
            "data": f"{index.source}, split {options.split}, {len(self.cases)} scenes, index {index.fingerprint}",
            "truth": f"the simulator, generator {GENERATOR_VERSION}" if self.truth is not None else "the log",
            "starts": f"{starts} (--stride {options.stride}), seed {options.seed}",
            "worlds": "; ".join(f"{e.name}: checkpoint {e.checkpoint}, {e.what}" for e in self.entrants),
            "device": self.device.type,
        }
        return FidelityReport(
            title=f"{index.source}, {held_out}",
            settings=settings,
            horizons_s=options.horizons_s,
            worlds=tuple(results.values()),
            counterfactual=self.truth is not None,
        )


def _tasks(options: Fidelity, counterfactual: bool) -> list[Task]:
    """What is driven, and each action set's control arms after it."""
    chosen: Sequence[str] = options.actions if counterfactual else [n for n in options.actions if n == "logged"]
    if not chosen:
        raise OptionError(
            f"actions {options.actions} on recordings", "logged", "nobody knows what other actions would have led to"
        )
    tasks = []
    for drive in chosen:
        arms = ("frozen", "shuffled") if options.arms and drive in ARMED else ()
        tasks += [Task(drive=drive), *(Task(drive=drive, arm=arm) for arm in arms)]
    return tasks


def _simulator_of(index: SceneIndex, grid: VoxelGrid) -> SimulatedWorld | None:
    """The ground truth of synthetic scenes; None for recordings."""
    if index.source != "synthetic":
        print("these are recordings: only logged actions can be judged")
        return None
    dataset_config(index)
    return SimulatedWorld(grid, "cpu")


def _demo() -> Path:
    from world_model.data.demo import demo_root

    print("no --index given: using the bundled synthetic demo scenes")
    return demo_root()


def main() -> None:
    """Command line."""
    try:
        options = tyro.cli(Fidelity, prog="python -m world_model.fidelity")
        keep_memory()
        fidelity(options)
    except IIWorldError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
