"""Score a checkpoint: reconstruction, and forecasting beside the baselines that it has to beat."""

from __future__ import annotations

import os
from dataclasses import replace

from world_model.core.command import run
from world_model.core.runtime import choose_device, keep_memory
from world_model.evaluation.forecasting.evaluate import evaluate
from world_model.evaluation.forecasting.options import Evaluate

__all__ = ["Evaluate", "evaluate", "main"]

MOST_WORKERS = 8
"""Each process holds the models and some scenes: more than this must be asked for."""


def _default_workers(options: Evaluate) -> int:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or choose_device(options.device).type != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


def main() -> None:
    """Command line."""
    keep_memory()
    run(
        Evaluate,
        lambda options: evaluate(replace(options, workers=options.workers or _default_workers(options))),
        "python -m world_model.evaluate",
        resumes="finished scenes are kept; the same command goes on with the rest",
    )


if __name__ == "__main__":
    main()
