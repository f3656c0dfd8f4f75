"""Calibrate forecast trust: drive held-out scenes, compare with what was recorded, store what tells good from bad."""

from __future__ import annotations

import json
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from world_model.core.errors import DataError, IIWorldError, OptionError
from world_model.core.files import DAMAGED_NPZ, write_json, write_npz, write_text
from world_model.data.index import SceneIndex
from world_model.evaluation.trust import kind_of, members_of, trust_path
from world_model.evaluation.trust.calibration import Calibration, ceiling_of, fit
from world_model.evaluation.trust.report import judge, picture, table
from world_model.evaluation.trust.samples import Samples, collect, starts_of
from world_model.pictures.video import write_png
from world_model.worlds.build import build_world
from world_model.worlds.protocol import World


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
    """Measure, fit, judge and write.

    Returns:
        The calibration that was written.

    Raises:
        DataError: data cannot be used, or there are fewer than four scenes.
        CheckpointError: the checkpoint is missing or damaged.
        OutputError: a result cannot be written.
    """
    index = SceneIndex.load(_demo() if options.index is None else options.index)
    world = build_world(options.world, checkpoint=options.members, device=options.device)
    models = members_of(world, options.members)
    samples = _measured(world, index, options, models)
    first, second = _halves(samples)
    calibration, ceiling = fit(first), ceiling_of(first)
    report = judge(calibration, second, ceiling)
    card = {
        "world": kind_of(world),
        "data_source": index.source,
        "data_fingerprint": index.fingerprint,
        "split": options.split,
        "steps": options.steps,
        "stride": options.stride,
        "fitted_on": {"scenes": len(np.unique(first.scene)), "forecasts": int((first.step > 0).sum())},
        "reconstruction_iou": round(ceiling, 4),
        "held_out": report,
    }
    calibration = replace(calibration, models=models, card=card)
    path = options.out or trust_path(options.members, kind_of(world))
    calibration.save(path)
    title = f"Trust of {kind_of(world)} forecasts on held-out {index.source} scenes that it was not fitted on"
    write_png(options.work / "trust.png", picture(calibration, second, ceiling, title))
    write_text(options.work / "report.md", f"# {title}\n\n{table(report)}")
    write_json(options.work / "report.json", card)
    print(f"\n{table(report)}\nwrote {path}\nreport: {options.work.resolve()}")
    return calibration


def _demo() -> Path:
    from world_model.data.demo import demo_root

    return demo_root()


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
    starts = starts_of(index, options.split, options.steps, options.stride)
    scenes = [int(np.searchsorted(index.scene_start, start, side="right")) - 1 for start in starts]
    key = f"{options.steps} {options.stride} {index.fingerprint} {' '.join(models)}"
    folder = options.work / f"forecasts_{zlib.crc32(key.encode()):08x}"
    begin, done, parts = time.perf_counter(), 0, []
    for scene in sorted(set(scenes)):
        file = folder / f"{index.scene_name[scene]}.npz"
        own = [start for start, of in zip(starts, scenes, strict=True) if of == scene]
        part = _read(file)
        if part is None:
            part = collect(world, index, own, options.steps)
            _write(file, part)
        parts.append(part)
        done += len(own)
        spent = time.perf_counter() - begin
        print(f"\r  {done}/{len(starts)} windows, {spent:.0f} s", end="", flush=True)
    print()
    return _joined(parts)


def _joined(parts: Sequence[Samples]) -> Samples:
    columns = ("figures", "iou", "miou", "scene", "frame", "step", "edited")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in columns}
    return Samples(names=parts[0].names, **joined)


def _write(file: Path, part: Samples) -> None:
    names = np.array(json.dumps(part.names))
    write_npz(
        file,
        names=names,
        figures=part.figures,
        iou=part.iou,
        miou=part.miou,
        scene=part.scene,
        frame=part.frame,
        step=part.step,
        edited=part.edited,
    )


def _read(file: Path) -> Samples | None:
    """Forecasts of an earlier run; None where there are none, or where they cannot be read."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            columns = {name: archive[name] for name in archive.files}
        return Samples(names=tuple(json.loads(str(columns.pop("names")))), **columns)
    except (*DAMAGED_NPZ, TypeError):
        return None


def main() -> None:
    """Command line."""
    try:
        calibrate_trust(tyro.cli(CalibrateTrust, prog="python -m world_model.calibrate_trust"))
    except IIWorldError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
