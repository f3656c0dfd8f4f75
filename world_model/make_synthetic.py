"""Make synthetic scenes as nuScenes tables with Occ3D labels: ``python -m world_model.make_synthetic --out DIR``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

import tyro

from world_model.core.command import run
from world_model.core.errors import OptionError
from world_model.core.files import write_text
from world_model.simulator.dataset.calibration import report, write_picture
from world_model.simulator.dataset.config import DatasetConfig
from world_model.simulator.dataset.export import make_dataset, statistics_of
from world_model.simulator.dataset.scenarios import store_scenarios
from world_model.simulator.simulator import SimulatorConfig


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write procedural driving scenes: nuScenes tables, Occ3D labels, splits and a calibration report.

    The same options give the same bytes with any number of workers. The same command continues an
    interrupted run, and writes scenes again whose label files were deleted.
    """

    out: Path
    """Folder to write; empty, new, or an unfinished run of the same data set."""
    scenes: int = 10
    """Scenes of about 20 seconds (40 keyframes, about 3.5 MB each)."""
    seed: int = 0
    """Everything follows from the seed and a scene's number."""
    workers: int = 1
    """Processes."""
    version: str = "v1.0-mini"
    """Name of the table folder: v1.0-mini or v1.0-trainval."""
    val_fraction: float = 0.2
    """Share of held-out scenes (the last ones); they never share a town with training scenes."""
    wild: float = 0.0
    """Share of the training scenes that leave normal driving: wandering, chasing what is ahead, off the road."""
    labels_style: Literal["plain", "varied"] = "plain"
    """plain: the simulator's own labels. varied: each scene as another label maker would write it; such data are
    refused by world="simulated"."""
    terrain: Annotated[Literal["flat", "hills"], tyro.conf.arg(aliases=["--ground"])] = "flat"
    """hills: the same scenes on a ground with height: slopes, kerbs, embankments (--ground is its earlier name)."""
    exported_poses: Literal["nuscenes", "true"] = "nuscenes"
    """On hills. nuscenes: z = 0 with real pitch and roll, as nuScenes has them. true: real z."""
    scenes_per_town: int = 5
    """Scenes that are driven in the same town."""
    scenarios: Path | None = None
    """Folder with ScenarioNet's sd_*.pkl: draw these recorded scenes instead of procedural ones. Roads and traffic are
    real, what stands beside the road is drawn around them. --scenes, --seed and --wild have no meaning then."""


def read_progress(done: int, total: int) -> None:
    """Say how many scenario files are read."""
    if done == total or done % 50 == 0:
        print(f"read {done}/{total} scenarios", flush=True)


def main(arguments: Arguments) -> None:
    """Run the command."""
    style = dict(labels_style=arguments.labels_style, exported_poses=arguments.exported_poses)
    simulator = SimulatorConfig(scenes_per_town=arguments.scenes_per_town, terrain=arguments.terrain)
    if arguments.scenarios is not None:
        if arguments.wild:
            remedy = "leave --wild out, or make procedural scenes"
            raise OptionError("--wild with --scenarios", "one of them: recorded drives are driven as recorded", remedy)
        config: DatasetConfig = store_scenarios(
            arguments.scenarios, arguments.out, arguments.val_fraction, read_progress, version=arguments.version,
            simulator=SimulatorConfig(terrain=arguments.terrain), **style,
        )  # fmt: skip
    else:
        config = DatasetConfig(
            scenes=arguments.scenes, seed=arguments.seed, version=arguments.version,
            val_fraction=arguments.val_fraction, wild=arguments.wild, simulator=simulator, **style,
        )  # fmt: skip
    start = time.perf_counter()

    def progress(done: int, total: int, frames: int) -> None:
        spent = time.perf_counter() - start
        left = spent / max(1, frames) * 40 * (total - done)
        print(f"scene {done}/{total}  {frames} frames  {frames / spent:.1f} frames/s  {left:.0f} s left", flush=True)

    frames = make_dataset(arguments.out, config, arguments.workers, progress)
    statistics = statistics_of(arguments.out, config)
    kind = f"synthetic scenes, seed {config.seed}"
    if arguments.scenarios is not None:
        kind = "recorded scenarios with synthetic labels"
    title = f"Calibration of {config.scenes} {kind}"
    write_text(arguments.out / "calibration.md", report(statistics, title))
    write_picture(arguments.out, config, statistics)
    print(
        f"{frames} frames written in {time.perf_counter() - start:.0f} s. In {arguments.out}:\n"
        f"  {config.version}/   nuScenes tables          gts/   Occ3D labels\n"
        f"  splits.json   train and val scenes (synthetic; no shared town)\n"
        f"  calibration.md, calibration.png   statistics beside real ones\n"
        f"Next: python -m world_model.prepare --data-root {quote(str(arguments.out))} --version {config.version}"
    )


if __name__ == "__main__":
    run(
        Arguments,
        main,
        "python -m world_model.make_synthetic",
        description=__doc__,
        resumes="finished scenes are kept; the same command makes the rest",
    )
