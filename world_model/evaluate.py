"""Score a checkpoint: reconstruction, and forecasting beside the baselines that it has to beat."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from world_model.core.errors import IIWorldError, OptionError
from world_model.core.runtime import choose_device, keep_memory
from world_model.evaluation.forecasting.job import Bench, Job
from world_model.evaluation.forecasting.parallel import Ranks, divided, score_here, score_in_processes
from world_model.evaluation.forecasting.scoring import SceneScore, SceneWork
from world_model.evaluation.forecasting.streams import spread
from world_model.evaluation.forecasting.windows import Chosen, choose_windows
from world_model.evaluation.report import Report
from world_model.evaluation.result import ForecastResult, ReconstructionResult, steps_of
from world_model.evaluation.statistics import bootstrap
from world_model.worlds.kinds import II_WORLD, LEARNED, resolve_world

MOST_WORKERS = 8
"""More processes than this want to be asked for: each holds the models and some scenes."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score a checkpoint on a split: reconstruction (labels -> tokens -> labels), and forecasting (4 past keyframes and
    the current one in; 1, 2, 3 s ahead out) beside copy-paste, ego warp and ego warp + constant-velocity boxes.

    Without options: the bundled checkpoint on the bundled synthetic demo scenes. A run that was killed goes on where it
    stopped. For a quick look on a CPU use --stride, --max-scenes or --max-windows. On several GPUs or machines:
    torchrun --nproc-per-node N -m world_model.evaluate. Neither --batch nor the number of processes changes the sums.
    """

    index: Path | None = None
    """Index file from `python -m world_model.prepare`, or its folder. If not given: the bundled demo scenes."""
    checkpoint: Path | None = None
    """Folder with the models of the worlds that are scored. If not given: the bundled nano checkpoint."""
    out: Path = Path("runs/evaluation")
    """Folder for results.md, results.json, the plots, and partial results."""
    split: str = "val"
    """Scenes to score: val (held out), train, or all."""
    what: tuple[Literal["reconstruction", "forecasting"], ...] = ("reconstruction", "forecasting")
    """What to measure."""
    models: Literal["both", "tokenizer", "none"] = "both"
    """What the checkpoint is taken for: with `both` its learned world and its tokenizer, where it has one; with
    `tokenizer` the tokenizer alone; with `none` only baselines and worlds that are named explicitly are scored."""
    world: tuple[str, ...] = ("learned",)
    """Whose forecasts to score: learned (what the checkpoint holds), geometric, ii-world, transport, replay,
    'package.module:Class'; one or more."""
    regimes: tuple[Literal["gt-ego", "pred-ego", "action"], ...] = ("gt-ego", "pred-ego")
    """Ego poses of the forecasts: the true ones, the model's own, or those of actions that follow the log."""
    action_mode: Literal["kinematic", "delta"] = "kinematic"
    """Which actions of the environment the regime `action` takes."""
    horizons_s: tuple[float, ...] = (1.0, 2.0, 3.0)
    """Forecast horizons in seconds. The long table is 1 2 3 4 5 6 (its windows need 12 future frames)."""
    faithful: bool = False
    """Round as the original does: each horizon to two decimals before the mean over the horizons."""
    stride: int = 1
    """Score every K-th window."""
    max_windows: int | None = None
    """Score at most this many windows, evenly spread over the split."""
    max_scenes: int | None = None
    """Score at most this many scenes, evenly spread over the split."""
    batch: int = 8
    """Windows at hand at once; a matter of speed and memory, not of results."""
    workers: int | None = None
    """Processes on this machine. If not given: on a CPU one per core (at most 8), else 1; 1 when called from Python."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda (spread over all GPUs), cuda:1, ..."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the models."""
    resume: bool = True
    """Use partial results of an earlier run with the same data, models and settings."""

    def __post_init__(self) -> None:
        steps_of(self.horizons_s)
        for name in ("stride", "batch", "max_windows", "max_scenes", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name}={value}", "a number >= 1", f"leave --{name.replace('_', '-')} out")
        if not self.what or (self.models == "none" and self.what == ("reconstruction",)):
            raise OptionError(
                f"what={self.what} with models={self.models}", "something to measure", "see --help for --what, --models"
            )
        for name in ("what", "world", "regimes"):
            value = getattr(self, name)
            if len({v.rpartition(":")[2] for v in value}) != len(value):
                raise OptionError(f"{name}={value}", "different names", "name each of them once")
        if II_WORLD in self.world and self.models != "both":
            raise OptionError(
                f"models={self.models!r} with world={II_WORLD!r}", "both of its models", "leave --models out"
            )
        self._check_regimes(name for name in self.world if name != LEARNED)

    @property
    def worlds(self) -> tuple[str, ...]:
        """The worlds to score, by the names of their rows.

        Raises:
            CheckpointError: "learned", but the checkpoint holds no learned world.
            OptionError: a world twice, or worlds and regimes that do not go together.
        """
        meant = [world for world in self.world if world != LEARNED or self.models == "both"]
        names = tuple(resolve_world(world, self.checkpoint) for world in meant)
        if len(set(names)) != len(names):
            raise OptionError(
                f"world={self.world}, which are {names}",
                "different worlds",
                "name each of them once, without 'learned'",
            )
        self._check_regimes(names)
        return names

    def _check_regimes(self, worlds: Iterable[str]) -> None:
        others = [name for name in worlds if name != II_WORLD]
        if others and not set(self.regimes) - {"pred-ego"}:
            raise OptionError(
                f"regimes={self.regimes} for {others}, which have no motion of their own",
                "the regime gt-ego or action",
                "add --regimes gt-ego, or score ii-world alone",
            )


def evaluate(options: Evaluate) -> Report | None:
    """Measure what the options ask for, write the report, and return it (under torchrun: in the first process only).

    Raises:
        DataError: index or labels are missing or damaged.
        CheckpointError: the checkpoint is missing or damaged.
        OutputError: results cannot be written; partial results stay.
        OptionError: there is no such device, world or window.
    """
    ranks = Ranks.join()
    if ranks.size > 1 and (options.workers or 1) > 1:
        raise OptionError(
            f"--workers {options.workers} under torchrun", "one process per rank", "leave --workers out, or torchrun"
        )
    job = _job(options)
    bench = Bench(job, ranks.local)
    scenes = spread(bench.index.scenes(options.split), options.max_scenes)
    chosen = (
        choose_windows(bench.index, options.split, scenes, bench.contest.steps[-1], options.stride, options.max_windows)
        if "forecasting" in options.what
        else None
    )
    work = _work(options, bench, scenes, chosen)
    total = _Total.zero(bench, [scene.scene for scene in work])
    plan = ranks.same(lambda: [bench.stored(scene) for scene in work])
    if ranks.rank == 0:
        for asked, (found, _) in zip(work, plan, strict=True):
            total.take(asked.scene, found)
    left = [scene for _, scene in plan if scene is not None]
    own = divided(left, ranks.size)[ranks.rank]
    quiet = ranks.rank > 0
    for scene, score in _scored(bench, job, own, options.workers or 1, quiet):
        total.take(scene, score)
    total = total.over(ranks)
    ranks.leave()
    if quiet:
        return None
    report = _report(options, bench, scenes, chosen, total)
    written = report.save(options.out)
    print("\n" + report.to_markdown())
    print("wrote " + ", ".join(str(path) for path in written))
    return report


def _job(options: Evaluate) -> Job:
    return Job(
        index=options.index or _demo(),
        partial=options.out / "partial",
        checkpoint=options.checkpoint,
        models=options.models,
        world=options.worlds,
        regimes=options.regimes,
        action_mode=options.action_mode,
        horizons_s=options.horizons_s,
        batch=options.batch,
        device=options.device,
        dtype=options.dtype,
        resume=options.resume,
    )


def _demo() -> Path:
    from world_model.data.demo import demo_root

    print("no --index given: using the bundled synthetic demo scenes")
    return demo_root()


def _work(options: Evaluate, bench: Bench, scenes: list[int], chosen: Chosen | None) -> list[SceneWork]:
    """What is asked of every scene; scenes of which nothing is asked, or that have no labels, are left out."""
    reconstruct = "reconstruction" in options.what and bench.contest.tokenizer is not None
    work = []
    for scene in scenes:
        inside = bench.index.frames(scene)
        labels = bool((bench.index.label_path[inside.start : inside.stop] != "").any())
        frames = tuple(chosen.frames.get(scene, ())) if chosen is not None else ()
        if frames or (reconstruct and labels):
            work.append(SceneWork(scene=scene, frames=frames, reconstruct=reconstruct))
    return work


def _scored(
    bench: Bench, job: Job, work: list[SceneWork], workers: int, quiet: bool
) -> Iterator[tuple[int, SceneScore]]:
    """Score scenes here or in processes, saying how far it is; yields the scene's number with its score."""
    processes = max(1, min(workers, len(work)))
    if processes > 1:
        found: Iterable[tuple[SceneWork, SceneScore]] = score_in_processes(job, work, processes)
    else:
        found = score_here(bench, work)
    begin, done, windows = time.perf_counter(), 0, 0
    for asked, score in found:
        yield asked.scene, score
        done, windows = done + 1, windows + len(asked.frames)
        passed = time.perf_counter() - begin
        rate = f", {windows / passed:.2f} windows/s" if windows else ""
        if not quiet:
            print(
                f"[{done}/{len(work)} scenes{rate}, {passed / done * (len(work) - done):.0f} s left] "
                f"{bench.index.scene_name[asked.scene]}",
                flush=True,
            )


@dataclass
class _Total:
    """The sums so far.

    Attributes:
        forecast, reconstruction: over all scenes.
        scenes: numbers of the scenes.
        by_scene: (S, R, H, 2, 19, 18) the forecast's histograms of each scene, for intervals.
    """

    forecast: ForecastResult
    reconstruction: ReconstructionResult
    scenes: list[int]
    by_scene: NDArray[Any]

    @classmethod
    def zero(cls, bench: Bench, scenes: list[int]) -> _Total:
        nothing = ForecastResult.zero(bench.contest.rows, bench.contest.horizons_s)
        return cls(
            forecast=nothing,
            reconstruction=ReconstructionResult.zero(),
            scenes=scenes,
            by_scene=np.zeros((len(scenes), *nothing.counts.shape), np.int64),
        )

    def take(self, scene: int, score: SceneScore) -> None:
        if score.forecast is not None:
            self.forecast += score.forecast
            self.by_scene[self.scenes.index(scene)] += score.forecast.counts
        if score.reconstruction is not None:
            self.reconstruction += score.reconstruction

    def over(self, ranks: Ranks) -> _Total:
        """The sums over all processes."""
        f, r = self.forecast, self.reconstruction
        frames, windows = ranks.add(np.array([r.frames, f.windows], np.int64)).tolist()
        return _Total(
            forecast=replace(f, counts=ranks.add(f.counts), missed=ranks.add(f.missed), windows=windows),
            reconstruction=ReconstructionResult(counts=ranks.add(r.counts), frames=frames),
            scenes=self.scenes,
            by_scene=ranks.add(self.by_scene),
        )


def _report(options: Evaluate, bench: Bench, scenes: list[int], chosen: Chosen | None, total: _Total) -> Report:
    index, every = bench.index, bench.index.scenes(options.split)
    held_out = {"val": "held-out", "train": "training scenes"}.get(options.split, f"split {options.split}")
    settings = {
        "data": f"{index.source}, split {options.split}, {len(scenes)} of {len(every)} scenes, "
        f"index {index.fingerprint}",
        "models": bench.models,
        "precision": f"{options.dtype} on {bench.device.type}, {bench.contest.slots} per model call",
    }
    if index.truth_path is not None:
        settings["labels"] = "the models see predicted labels; everything is scored against the true ones"
    if chosen is not None:
        settings["windows"] = f"{chosen}, --stride {options.stride}"
    if "action" in options.regimes:
        settings["actions"] = f"{options.action_mode}, following the logged drive"
    measured = "reconstruction" in options.what and bench.contest.tokenizer is not None
    return Report(
        title=f"{index.source}, {held_out}",
        settings=settings,
        reconstruction=total.reconstruction if measured else None,
        forecasting=total.forecast if chosen is not None else None,
        intervals=bootstrap(bench.contest.rows, total.by_scene) if chosen is not None else None,
        faithful=options.faithful,
    )


def _default_workers(options: Evaluate) -> int:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or choose_device(options.device).type != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


def main() -> None:
    """Command line."""
    try:
        options = tyro.cli(Evaluate, prog="python -m world_model.evaluate")
        keep_memory()
        evaluate(replace(options, workers=options.workers or _default_workers(options)))
    except IIWorldError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
