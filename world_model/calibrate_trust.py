"""Calibrate forecast trust: drive held-out scenes, compare with what was recorded, fit, and store the calibration."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from world_model.core.command import run
from world_model.core.errors import DataError, OptionError
from world_model.core.files import check_writable
from world_model.core.table import write_report
from world_model.data.demo import demo_root
from world_model.data.index import SceneIndex
from world_model.evaluation.partial import PartialResults
from world_model.evaluation.plots import write_plot
from world_model.evaluation.trust.fitting import ceiling_of, fit
from world_model.evaluation.trust.report import markdown, plot_trust, score
from world_model.evaluation.trust.samples import Samples, collect, starts_of
from world_model.trust import kind_of, members_of, trust_path
from world_model.trust.calibration import Calibration
from world_model.worlds.build import build_world
from world_model.worlds.protocol import World
from world_model.worlds.provenance import provenance, weights_source


@dataclass(frozen=True, kw_only=True)
class CalibrateTrust:
    """Fit the forecast trust of a learned world on held-out scenes and write it beside the checkpoint, as
    trust_geometric.json or trust_ii-world.json.

    Half of the scenes are fitted on, the other half is reported on. Each window is driven along the log and one other
    way. An interrupted run goes on with the next scene.

    Try:
      python -m world_model.calibrate_trust --index data/synthetic --checkpoint runs/world
      python -m world_model.calibrate_trust --index data/synthetic --checkpoint runs/a runs/b
      python -m world_model.calibrate_trust --index data/synthetic --world ii-world
    """

    index: Path | None = None
    """Index file, or the data folder that holds it. If not given: the bundled demo scenes, which are too few to rely
    on."""
    checkpoint: tuple[Path, ...] = ()
    """Folder of a trained model; several make an ensemble. If not given: the bundled checkpoint."""
    world: Literal["learned", "geometric", "ii-world"] = "learned"
    """learned: what the checkpoint holds, geometric before ii-world. A folder that holds both can have both calibrated,
    one after the other."""
    split: str = "val"
    """Scenes that the model was not trained on: train, val or all."""
    steps: int = 12
    """Steps of 0.5 s to forecast."""
    stride: int = 15
    """Start a window every so many keyframes."""
    out: Path | None = None
    """The calibration. If not given: trust_WORLD.json beside the checkpoint."""
    work: Path = Path("outputs/trust")
    """Folder for the measured forecasts, the report (report.md, report.json) and the picture (trust.png)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.stride < 1:
            raise OptionError(f"--steps {self.steps} --stride {self.stride}", "at least 1", "give larger numbers")

    @property
    def members(self) -> Sequence[Path] | Path | None:
        """The checkpoint as `build_world` takes it."""
        return self.checkpoint if len(self.checkpoint) > 1 else self.checkpoint[0] if self.checkpoint else None


def calibrate_trust(options: CalibrateTrust) -> Calibration:
    """Measure, fit, score and write.

    Returns:
        The calibration that was written.

    Raises:
        DataError: data cannot be used, or there are fewer than four scenes.
        CheckpointError: the checkpoint is missing or damaged.
        OutputError: a result cannot be written.
    """
    index = SceneIndex.load(demo_root() if options.index is None else options.index)
    check_writable(options.work)
    if options.out is not None:
        check_writable(options.out.parent)
    world = build_world(options.world, checkpoint=options.members, device=options.device)
    models, kind = members_of(world, options.members), kind_of(world)
    fitted, unseen = _halves(_measured(world, index, options, models))
    calibration, ceiling = fit(fitted), ceiling_of(fitted)
    report = score(calibration, unseen, ceiling)
    trained_on = weights_source(options.world, options.members)
    card = {
        "world": kind,
        "data_source": index.source,
        "weights_source": trained_on,
        "data_fingerprint": index.fingerprint,
        "poses": index.poses,
        "split": options.split,
        "steps": options.steps,
        "stride": options.stride,
        "fitted_on": {"scenes": len(np.unique(fitted.scene)), "forecasts": int((fitted.step > 0).sum())},
        "reconstruction_iou": round(ceiling, 4),
        "held_out": report,
    }
    calibration = replace(calibration, models=models, card=card)
    path = options.out or trust_path(options.members, kind)
    calibration.save(path)
    title = f"Trust of {kind} forecasts on held-out {index.source} scenes that it was not fitted on"
    origin = f"{provenance([trained_on], index.source)} ({index.words})"
    write_plot(options.work / "trust.png", plot_trust(calibration, unseen, ceiling, title), dpi=100)
    write_report(options.work, "report", card, f"# {title}\n\n{origin}\n\n{markdown(report)}")
    print(f"\n{origin}\n\n{markdown(report)}\nwrote {path}\nreport: {options.work.resolve()}")
    return calibration


def _halves(samples: Samples) -> tuple[Samples, Samples]:
    """Split by scenes, the earlier half from the later one: neighbours in the list may share a town."""
    scenes = np.unique(samples.scene)
    if len(scenes) < 4:
        raise DataError(
            f"{len(scenes)} scenes with windows",
            "at least 4, better 20",
            "make more held-out scenes or shorten --steps",
        )
    first = np.isin(samples.scene, scenes[: (len(scenes) + 1) // 2])
    return samples.pick(first), samples.pick(~first)


def _measured(world: World, index: SceneIndex, options: CalibrateTrust, models: tuple[str, ...]) -> Samples:
    """The forecasts of all scenes; those of finished scenes are read back."""
    starts = np.array(starts_of(index, options.split, options.steps, options.stride))
    scenes = np.searchsorted(index.scene_start, starts, side="right") - 1
    key = f"{options.steps} {options.stride} {index.fingerprint} {index.labels_digest} {' '.join(models)}"
    kept = PartialResults(options.work / f"forecasts_{zlib.crc32(key.encode()):08x}", others="forecasts_*")
    begin, done, parts = time.perf_counter(), 0, []
    for scene in np.unique(scenes):
        name, in_scene = str(index.scene_name[scene]), starts[scenes == scene].tolist()
        part = Samples.of(kept.load(name) or {})
        if part is None:
            part = collect(world, index, in_scene, options.steps)
            kept.save(name, **part.arrays())
        parts.append(part)
        done += len(in_scene)
        print(f"\r  {done}/{len(starts)} windows, {time.perf_counter() - begin:.0f} s", end="", flush=True)
    print()
    return Samples.cat(parts)


def main() -> None:
    """Command line."""
    run(
        CalibrateTrust,
        calibrate_trust,
        "python -m world_model.calibrate_trust",
        resumes="finished scenes are kept; the same command goes on with the rest",
    )


if __name__ == "__main__":
    main()
