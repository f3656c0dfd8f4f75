"""Does a world answer actions truthfully? Its forecasts beside the truth of the simulator, under unlogged actions."""

from __future__ import annotations

import time

from world_model.core.command import run
from world_model.core.files import check_writable
from world_model.core.runtime import keep_memory
from world_model.evaluation.fidelity.benchmark import Fidelity, FidelityBenchmark
from world_model.evaluation.fidelity.report import FidelityReport
from world_model.evaluation.fidelity.result import WorldResult


def fidelity(options: Fidelity) -> FidelityReport:
    """Measure what the options ask for, write the report, and return it.

    Raises:
        DataError, CheckpointError, OptionError: as `FidelityBenchmark`.
        OutputError: results cannot be written; partial results stay.
    """
    check_writable(options.out)
    benchmark = FidelityBenchmark(options)
    results = {name: WorldResult(name=name) for name in benchmark.worlds}
    total = len(benchmark.scene_numbers) * len(benchmark.experiments) * len(results)
    begin, done, computed, pictures = time.perf_counter(), 0, 0, []
    for number, scene in enumerate(benchmark.scenes()):
        for experiment, name, counts, new in benchmark.counts(scene):
            done, computed = done + 1, computed + new
            if counts:
                results[name] = results[name].add(experiment.name, counts)
            if new:
                rest = (time.perf_counter() - begin) / computed * (total - done)
                print(f"[{done}/{total}, {rest:.0f} s left] {scene.name}: {experiment.name}, {name}", flush=True)
        if number < options.pictures:
            pictures += benchmark.draw(scene)
    report = benchmark.report(results)
    written = report.save(options.out)
    print("\n" + report.to_markdown())
    print("wrote " + ", ".join(str(path) for path in (*written, *pictures)))
    return report


def main() -> None:
    """Command line."""
    keep_memory()
    run(
        Fidelity,
        fidelity,
        "python -m world_model.fidelity",
        resumes="finished scenes are kept; the same command goes on with the rest",
    )


if __name__ == "__main__":
    main()
