"""Score scenes, in one process or many, and report."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta

import numpy as np

from world_model.checkpoints.checkpoint import TOKENIZER_FILE
from world_model.core.errors import OptionError
from world_model.core.files import check_writable
from world_model.data.demo import demo_root
from world_model.data.index import SceneIndex
from world_model.evaluation.forecasting.benchmark import SceneWork
from world_model.evaluation.forecasting.evaluator import Evaluator
from world_model.evaluation.forecasting.options import Evaluate
from world_model.evaluation.forecasting.parallel import divided, score_here, score_in_processes
from world_model.evaluation.report import Report
from world_model.evaluation.result import ForecastResult, ReconstructionResult
from world_model.evaluation.statistics import bootstrap
from world_model.evaluation.windows import ChosenWindows, choose_windows, spread
from world_model.training.distributed import DistributedContext, join
from world_model.worlds.provenance import file_source, provenance, weights_source

LONGEST = timedelta(days=7)
"""How long the processes of torchrun wait for each other: how much longer one part takes is not known."""


def evaluate(options: Evaluate) -> Report | None:
    """Measure what the options ask for, write the report, and return it (under torchrun: in the first process only).

    Raises:
        DataError: index or labels are missing or damaged.
        CheckpointError: the checkpoint is missing or damaged.
        OutputError: results cannot be written; partial results stay.
        OptionError: there is no such device, world or window.
    """
    with join("cpu", LONGEST) as processes:  # results lie on disk: the processes only wait for each other
        return _evaluate(options, processes)


def _evaluate(options: Evaluate, processes: DistributedContext) -> Report | None:
    if processes.world_size > 1 and (options.workers or 1) > 1:
        raise OptionError(
            f"--workers {options.workers} under torchrun", "one process per rank", "leave --workers out, or torchrun"
        )
    if options.index is None:
        print("no --index given: using the bundled synthetic demo scenes")
        options = replace(options, index=demo_root())
    if processes.first:
        check_writable(options.out)
    evaluator = Evaluator(options, processes.local_rank)
    index, rows, last = evaluator.index, evaluator.benchmark.rows, evaluator.benchmark.steps[-1]
    scenes = spread(index.scenes(options.split), options.max_scenes)
    chosen = None
    if "forecasting" in options.what:
        chosen = choose_windows(index, options.split, scenes, last, options.stride, options.max_windows)
    reconstruct = "reconstruction" in options.what and evaluator.benchmark.tokenizer is not None
    work = _work(index, scenes, chosen, reconstruct)
    missing = [left for left in map(evaluator.left, work) if left is not None]
    processes.barrier()  # all have listed what is missing before the first scene is filled in
    _score(evaluator, divided(missing, processes.world_size)[processes.rank], quiet=not processes.first)
    processes.barrier()
    if not processes.first:
        return None
    scores, zero = [evaluator.result(asked) for asked in work], ForecastResult.zero(rows, options.horizons_s)
    forecasts = [score.forecast or zero for score in scores]
    rebuilt = [score.reconstruction for score in scores if score.reconstruction is not None]
    report = Report(
        title=f"{index.source}, {_words(options.split)}",
        settings=_settings(options, evaluator, len(scenes), chosen),
        reconstruction=sum(rebuilt, ReconstructionResult.zero()) if reconstruct else None,
        forecasting=sum(forecasts, zero) if chosen is not None else None,
        intervals=bootstrap(rows, np.stack([f.counts for f in forecasts])) if chosen is not None else None,
        faithful=options.faithful,
        mask=options.mask,
    )
    written = report.save(options.out)
    print("\n" + report.to_markdown())
    print("wrote " + ", ".join(str(path) for path in written))
    return report


def _work(index: SceneIndex, scenes: list[int], chosen: ChosenWindows | None, reconstruct: bool) -> list[SceneWork]:
    """What is asked of every scene; scenes of which nothing is asked, or that have no labels, are left out."""
    work = []
    for scene in scenes:
        inside = index.frames(scene)
        labels = bool((index.label_path[inside.start : inside.stop] != "").any())
        frames = tuple(chosen.frames.get(scene, ())) if chosen is not None else ()
        if frames or (reconstruct and labels):
            work.append(SceneWork(scene=scene, frames=frames, reconstruct=reconstruct))
    return work


def _score(evaluator: Evaluator, work: list[SceneWork], quiet: bool) -> None:
    """Score scenes here or in processes, and print the progress."""
    processes = max(1, min(evaluator.options.workers or 1, len(work)))
    scored = score_in_processes(evaluator.options, work, processes) if processes > 1 else score_here(evaluator, work)
    begin, windows = time.perf_counter(), 0
    for done, asked in enumerate(scored, 1):
        windows, passed = windows + len(asked.frames), time.perf_counter() - begin
        if not quiet:
            rate = f", {windows / passed:.2f} windows/s" if windows else ""
            rest = f"{passed / done * (len(work) - done):.0f} s left"
            name = evaluator.index.scene_name[asked.scene]
            print(f"[{done}/{len(work)} scenes{rate}, {rest}] {name}", flush=True)


def _words(split: str) -> str:
    return {"val": "held-out", "train": "training scenes"}.get(split, f"split {split}")


def _trained_on(options: Evaluate, has_tokenizer: bool) -> list[str | None]:
    """What the weights of every row were trained on."""
    found = [weights_source(name, options.checkpoint) for name in options.worlds]
    return [*found, file_source(options.checkpoint, TOKENIZER_FILE)] if has_tokenizer else found


def _settings(options: Evaluate, evaluator: Evaluator, scenes: int, chosen: ChosenWindows | None) -> dict[str, str]:
    """How it was measured, for the report."""
    index, benchmark = evaluator.index, evaluator.benchmark
    settings = {
        "data": f"{index.source}, split {options.split}, {scenes} of {len(index.scenes(options.split))} scenes, "
        + index.words,
        "provenance": provenance(_trained_on(options, benchmark.tokenizer is not None), index.source),
        "models": benchmark.models,
        "precision": f"{options.dtype} on {evaluator.device.type}, {benchmark.slots} per model call",
    }
    if index.truth_path is not None:
        settings["labels"] = "the models see predicted labels; everything is scored against the true ones"
    if options.mask != "none":
        settings["mask"] = f"only voxels inside mask_{options.mask} of the scored frame"
    if chosen is not None:
        settings["windows"] = f"{chosen}, --stride {options.stride}"
    if "action" in options.regimes:
        settings["actions"] = f"{options.action_mode}, following the logged drive"
    return settings
