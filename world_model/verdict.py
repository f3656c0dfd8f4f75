"""Grade worlds by everything that is measured: ``python -m world_model.verdict``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from world_model.core.command import run
from world_model.core.errors import DataError
from world_model.core.runtime import keep_memory
from world_model.data.index import SceneIndex
from world_model.evaluate import Evaluate, evaluate
from world_model.evaluation.fidelity.benchmark import Fidelity
from world_model.evaluation.statistics import LEAST_SCENES
from world_model.evaluation.verdict import PUBLISHED, grade, too_few_scenes, write_verdict
from world_model.fidelity import fidelity
from world_model.worlds import resolve_world


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Say in one table whether worlds are true: forecasts against the ego warp with 95 % intervals, moving things,
    perturbed actions, control arms, ego response, obstacle persistence, long horizons.

    Runs `world_model.evaluate` and `world_model.fidelity` on the same held-out scenes into two folders of --out, and
    grades their results. A run that was killed goes on where it stopped. It needs synthetic scenes: a recording does
    not tell what other actions would have led to.
    """

    index: Path | None = None
    """Index file from `python -m world_model.prepare`, or its folder. If not given: the bundled demo scenes."""
    checkpoint: Path | None = None
    """Folder with the weights of all worlds under test. If not given: the bundled one."""
    worlds: tuple[str, ...] = (PUBLISHED, "geometric")
    """Worlds to grade, beside the ego warp."""
    out: Path = Path("runs/verdict")
    """Folder for verdict.md, verdict.json, evaluation/ and fidelity/."""
    stride: int = 12
    """Every K-th window of a scene for the forecasting table."""
    scenes: int | None = None
    """At most this many scenes for fidelity, evenly spread; the forecasting table takes all."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""
    workers: int = 1
    """Processes for the forecasting table."""


def verdict(options: Verdict) -> list[Path]:
    """Run what is missing, grade, write, and return the paths written.

    Raises:
        DataError: recordings, too few scenes, or as `evaluate` and `fidelity`.
        CheckpointError, OptionError, OutputError: as `evaluate` and `fidelity`.
    """
    if options.index is not None:
        check_scenes(options.index)
    folders = {"evaluation": options.out / "evaluation", "fidelity": options.out / "fidelity"}
    # "learned" and "occworld" stand for what the checkpoint holds, which is the name in both results.
    worlds = tuple(resolve_world(world, options.checkpoint) for world in options.worlds)
    evaluate(
        Evaluate(
            index=options.index, checkpoint=options.checkpoint, out=folders["evaluation"],
            world=worlds, regimes=("gt-ego", "pred-ego"), stride=options.stride, device=options.device,
            workers=options.workers,
        )
    )  # fmt: skip
    fidelity(
        Fidelity(
            index=options.index, checkpoint=() if options.checkpoint is None else (options.checkpoint,),
            out=folders["fidelity"], worlds=tuple(dict.fromkeys((*worlds, "transport"))), limit=options.scenes,
            device=options.device,
        )
    )  # fmt: skip
    found = {
        "evaluation": json.loads((folders["evaluation"] / "results.json").read_text(encoding="utf-8-sig")),
        "fidelity": json.loads((folders["fidelity"] / "fidelity.json").read_text(encoding="utf-8-sig")),
    }
    findings = [line for world in worlds for line in grade(world, found["evaluation"], found["fidelity"])]
    sources = {name: f"{folders[name]}; {found[name]['settings']['data']}" for name in folders}
    sources |= {"provenance": found["fidelity"]["settings"]["provenance"]}
    written = write_verdict(options.out, found["fidelity"]["title"], findings, sources)
    print("\n" + written[0].read_text(encoding="utf-8-sig"))
    print("wrote " + ", ".join(str(path) for path in written))
    return written


def check_scenes(path: Path) -> None:
    """Refuse, before anything is computed, scenes that no verdict can come from.

    Raises:
        DataError: recordings, too few held-out scenes, or no such index.
    """
    index = SceneIndex.load(path)
    if index.source != "synthetic":
        raise DataError(
            f"{path} with {index.source} scenes",
            "synthetic scenes: a recording does not tell what other actions would have led to",
            "run `python -m world_model.make_synthetic`, or score recordings with `python -m world_model.evaluate`",
        )
    held_out = len(index.scenes("val"))
    if held_out < LEAST_SCENES:
        raise too_few_scenes(f"{path} with {held_out} held-out scenes")


def main() -> None:
    """Command line."""
    keep_memory()
    run(
        Verdict,
        verdict,
        "python -m world_model.verdict",
        resumes="the same command goes on where it stopped",
    )


if __name__ == "__main__":
    main()
