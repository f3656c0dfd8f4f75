"""The fidelity benchmark: candidates, scenes and experiments as the options ask for, with everything loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from world_model.core.errors import DataError, OptionError
from world_model.core.grid import VoxelGrid
from world_model.core.runtime import choose_device
from world_model.data.clips import scene_of, windows
from world_model.data.demo import demo_root
from world_model.data.index import SceneIndex
from world_model.evaluation.fidelity.candidates import load_candidates
from world_model.evaluation.fidelity.measure import measure
from world_model.evaluation.fidelity.picture import draw_drive
from world_model.evaluation.fidelity.report import FidelityReport
from world_model.evaluation.fidelity.result import TRUTH, Counts, WorldResult
from world_model.evaluation.fidelity.scene import CONTROL_ARMS, BenchmarkScene, Experiment
from world_model.evaluation.partial import PartialResults
from world_model.evaluation.result import steps_of
from world_model.evaluation.windows import PAST, spread, with_labels
from world_model.simulator.dataset.config import GENERATOR_VERSION
from world_model.simulator.dataset.rebuild import dataset_config
from world_model.worlds.protocol import World
from world_model.worlds.provenance import provenance
from world_model.worlds.simulated import SimulatedWorld

PROTOCOL = 1
"""Raised when the same settings would give other numbers, so that old partial results are not mixed in."""
WITH_ARMS = ("logged", "random")
"""Action sets that the control arms are tried on."""
ActionSet = Literal["logged", "perturbed", "random", "towards obstacle", "off road", "chase"]


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Measure how truthfully worlds answer actions: from the same states, the same actions in each world and in the
    simulator that made the scenes. Logged, perturbed, random and adversarial drives scored by horizon; the motion of
    the static scene against the commanded one; whether a vehicle stays when it is driven at; and control arms with
    frozen and shuffled actions, which must score clearly worse.

    Without options: the bundled checkpoint and the static transport world on the bundled synthetic demo scenes. On
    recordings, which do not tell what other actions would have led to, only the logged ones are measured. A run that
    was killed goes on where it stopped.
    """

    index: Path | None = None
    """Index file from `python -m world_model.prepare`, or its folder. If not given: the bundled demo scenes."""
    worlds: tuple[str, ...] = ("learned", "transport")
    """learned (what the checkpoint holds), geometric, ii-world, occworld (or a mode: occworld-faithful,
    occworld-rewarp, occworld-conditioned), transport, simulated, 'package.module:Class', or NAME=CHECKPOINT; one or
    more."""
    checkpoint: tuple[Path, ...] = ()
    """Checkpoint folders; each world takes the first that holds its kind of weights. If not given: the bundled one."""
    out: Path = Path("runs/fidelity")
    """Folder for fidelity.md, fidelity.json, plots, pictures, and partial results."""
    split: str = "val"
    """Scenes to drive in: val (held out), train, or all."""
    actions: tuple[ActionSet, ...] = get_args(ActionSet)
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


class FidelityBenchmark:
    """What the options ask for, with data and worlds loaded.

    Raises:
        DataError: index or labels are missing or damaged, or were made by another version of the simulator.
        CheckpointError: a checkpoint is missing or damaged.
        OptionError: there is no such world or device, or recordings are asked for what only a simulator can tell.
    """

    def __init__(self, options: Fidelity) -> None:
        self.options = options
        if options.index is None:
            print("no --index given: using the bundled synthetic demo scenes")
        self.index = SceneIndex.load(options.index or demo_root())
        self.device = choose_device(options.device)
        self.candidates = load_candidates(options.worlds, options.checkpoint, str(self.device))
        self.grid = self.candidates[0].world.grid
        if any(candidate.world.grid != self.grid for candidate in self.candidates):
            remedy = "measure them one after the other"
            raise OptionError(f"worlds {options.worlds} on different grids", "one grid", remedy)
        self.worlds: dict[str, World | None] = {**{c.name: c.world for c in self.candidates}, TRUTH: None}
        self.simulator = _simulator_of(self.index, self.grid)
        self.experiments = _experiments(options, self.simulator is not None)
        self.steps = steps_of(options.horizons_s)
        last = self.steps[-1]
        self.starts = with_labels(self.index, windows(self.index, options.split, PAST, last), last)
        if not self.starts:
            raise DataError(
                f"no start with {last} labelled frames after it in split {options.split!r}",
                "longer scenes",
                "take shorter horizons",
            )
        self.scene_numbers = spread(sorted({scene_of(self.index, frame) for frame in self.starts}), options.limit)
        self._stored = self._partial_results()

    def _partial_results(self) -> dict[str, PartialResults]:
        """By world, filed under everything that its counts depend on."""
        settings = {
            "what": "fidelity",
            "protocol": PROTOCOL,
            "index": self.index.fingerprint,
            "labels": self.index.labels_digest,
            "split": self.options.split,
            "steps": list(self.steps),
            "stride": self.options.stride,
            "chases": self.options.chases,
            "seed": self.options.seed,
            "simulator": GENERATOR_VERSION if self.simulator is not None else None,
        }
        worlds = {**{c.name: [c.fingerprint, self.device.type] for c in self.candidates}, TRUTH: ["", "cpu"]}
        folder, resume = self.options.out / "partial", self.options.resume
        return {name: PartialResults.of(folder, {**settings, "world": world}, resume) for name, world in worlds.items()}

    def scenes(self) -> Iterator[BenchmarkScene]:
        """The scenes with their starts."""
        for scene in self.scene_numbers:
            frames = [frame for frame in self.starts if scene_of(self.index, frame) == scene]
            yield BenchmarkScene(
                index=self.index,
                scene=scene,
                frames=frames[:: self.options.stride],
                donors=self.starts,
                steps=self.steps,
                seed=self.options.seed,
                most_chases=self.options.chases if self.simulator is not None else 0,
                simulator=self.simulator,
                grid=self.grid,
                batch=self.options.batch,
            )

    def counts(self, scene: BenchmarkScene) -> Iterator[tuple[Experiment, str, Counts, bool]]:
        """Experiment by experiment and world by world: what was counted, and whether it had to be computed."""
        for experiment in self.experiments:
            for name, world in self.worlds.items():
                if not scene.has(experiment) or (world is None and experiment.arm):
                    yield experiment, name, {}, False
                    continue
                file = f"{scene.name}-{experiment.name.replace(', ', '-').replace(' ', '-')}"
                stored = self._stored[name].load(file)
                found = measure(world, scene, experiment) if stored is None else stored
                if stored is None:
                    self._stored[name].save(file, **found)
                yield experiment, name, found, stored is None

    def draw(self, scene: BenchmarkScene) -> list[Path]:
        """Write pictures of a scene's first drives; returns their paths."""
        worlds, folder = {c.name: c.world for c in self.candidates}, self.options.out / "pictures"
        return [
            draw_drive(folder / f"{scene.name}-{e.actions.replace(' ', '-')}.png", worlds, scene, e)
            for e in self.experiments
            if not e.arm and scene.has(e)
        ]

    def report(self, results: dict[str, WorldResult]) -> FidelityReport:
        """The report of all worlds' results."""
        index, options = self.index, self.options
        held_out = {"val": "held-out scenes", "train": "training scenes"}.get(options.split, f"split {options.split}")
        scenes, starts = len(self.scene_numbers), sum(len(scene.frames) for scene in self.scenes())
        settings = {
            "data": f"{index.source}, split {options.split}, {scenes} scenes, {index.words}",
            "provenance": provenance((c.weights_source for c in self.candidates), index.source),
            "truth": f"the simulator, generator {GENERATOR_VERSION}" if self.simulator is not None else "the log",
            "starts": f"{starts} (--stride {options.stride}), seed {options.seed}",
            "worlds": "; ".join(f"{c.name}: checkpoint {c.checkpoint}, {c.fingerprint}" for c in self.candidates),
            "device": self.device.type,
        }
        return FidelityReport(
            title=f"{index.source}, {held_out}",
            settings=settings,
            horizons_s=options.horizons_s,
            worlds=tuple(results.values()),
            counterfactual=self.simulator is not None,
        )


def _experiments(options: Fidelity, counterfactual: bool) -> list[Experiment]:
    """Each action set, and its control arms after it."""
    chosen = [name for name in options.actions if counterfactual or name == "logged"]
    if not chosen:
        remedy = "recordings do not tell what other actions would have led to"
        raise OptionError(f"actions {options.actions} on recordings", "logged", remedy)
    return [
        Experiment(actions=actions, arm=arm)
        for actions in chosen
        for arm in ("", *(CONTROL_ARMS if options.arms and actions in WITH_ARMS else ()))
    ]


def _simulator_of(index: SceneIndex, grid: VoxelGrid) -> SimulatedWorld | None:
    """The ground truth of synthetic scenes; None for recordings."""
    if index.source != "synthetic":
        print("these are recordings: only logged actions can be measured")
        return None
    dataset_config(index)
    return SimulatedWorld(grid, "cpu")
