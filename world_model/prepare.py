"""Turn a nuScenes-layout folder (synthetic or real) into the project's own small index."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from world_model.data.index import COMMANDS, INDEX_NAME, SceneIndex
from world_model.data.labels import read_labels
from world_model.data.nuscenes import USUAL_STEP_S, ImportReport, find_version, read_nuscenes
from world_model.errors import IIWorldError
from world_model.grid import CLASS_NAMES


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Turn a nuScenes-layout folder into the index that training, evaluation and the environment read.

    The folder holds nuScenes tables (v1.0-mini/ or v1.0-trainval/) and Occ3D labels
    (gts/SCENE/SAMPLE/labels.npz); `python -m world_model.make_synthetic` writes the same layout without any download.
    Real data: nuScenes metadata from https://www.nuscenes.org, labels from https://tsinghua-mars-lab.github.io/Occ3D.
    """

    data_root: Path
    """Folder with the tables' folder and the label folder."""
    version: str | None = None
    """Folder of the tables, e.g. v1.0-trainval. If not given: the only one there is."""
    out: Path | None = None
    """The index to write. If not given: iiworld_index.npz in the data folder."""
    label_folder: str = "gts"
    """Folder of the labels in the data folder, e.g. gts (Occ3D) or stc-results (STCOcc predictions)."""
    source: str | None = None
    """What the data is, shown beside every result. If not given: synthetic or nuscenes."""
    allow_missing_labels: bool = False
    """Leave out frames that have no label file (their scenes are cut there) instead of stopping."""
    check_labels: bool = False
    """Also read every label file once, to find damaged ones now rather than in the middle of a training run."""


def prepare(options: Prepare) -> SceneIndex:
    """Read the tables, look for the labels, write the index, and say what is in it.

    Raises:
        DataError: something is missing, broken or contradictory; nothing is written.
        OutputError: the index cannot be written.
    """
    begin = time.perf_counter()
    version = options.version or find_version(options.data_root)
    out = options.out or options.data_root / INDEX_NAME
    print(f"reading {options.data_root / version} ...", flush=True)
    index, report = read_nuscenes(
        options.data_root,
        version,
        label_folder=options.label_folder,
        source=options.source,
        index_folder=out.parent,
        allow_missing_labels=options.allow_missing_labels,
    )
    if options.check_labels:
        _check_labels(index)
    index.save(out)
    print(summary(index, report))
    print(f"wrote {out} ({out.stat().st_size / 1e6:.2f} MB) in {time.perf_counter() - begin:.1f} s")
    return index


def summary(index: SceneIndex, report: ImportReport) -> str:
    """A table of what an index holds."""
    lines = [f"source {index.source}, fingerprint {index.fingerprint}", "split    scenes  frames   boxes  moving"]
    speed = np.linalg.norm(index.box_velocity_mps, axis=1)
    for split in [*sorted(set(index.scene_split.tolist())), "all"]:
        frames = [frame for scene in index.scenes(split) for frame in index.frames(scene)]
        boxes = np.diff(index.box_start)[frames].sum()
        owner = np.repeat(np.arange(len(index.token)), np.diff(index.box_start))
        moving = int((np.isin(owner, frames) & (speed > 0.5)).sum())
        lines.append(f"{split:<8} {len(index.scenes(split)):>6} {len(frames):>7} {boxes:>7} {moving:>7}")
    counts = np.bincount(index.box_class, minlength=len(CLASS_NAMES))
    lines.append("boxes: " + ", ".join(f"{CLASS_NAMES[i]} {n}" for i, n in enumerate(counts) if n))
    lines.append("commands: " + ", ".join(f"{name} {n}" for name, n in _command_counts(index)))
    if report.missing_labels:
        lines.append(f"WARNING: {report.missing_labels} frames without labels left out; {report.cut_scenes} scenes cut")
    if report.unusual_steps:
        low, high = USUAL_STEP_S
        lines.append(f"NOTE: {report.unusual_steps} steps between keyframes lie outside {low}..{high} s")
    return "\n".join(lines)


def _command_counts(index: SceneIndex) -> list[tuple[str, int]]:
    return [(name, int((index.command == i).sum())) for i, name in enumerate(COMMANDS)]


def _check_labels(index: SceneIndex) -> None:
    for scene, name in enumerate(index.scene_name):
        for frame in index.frames(scene):
            read_labels(index.root / str(index.label_path[frame]))
        print(f"labels of {name} are intact ({scene + 1}/{len(index.scene_name)})", flush=True)


def main() -> None:
    """Command line."""
    try:
        prepare(tyro.cli(Prepare, prog="python -m world_model.prepare"))
    except IIWorldError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
