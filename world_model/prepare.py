"""Read a data folder and write the index of its scenes: ``python -m world_model.prepare``."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from world_model.core.command import run
from world_model.core.files import check_writable
from world_model.core.grid import CLASS_NAMES
from world_model.data.boxes import MOVING_MPS
from world_model.data.formats.gaps import ImportReport
from world_model.data.formats.poses import Poses
from world_model.data.formats.read import LAYOUTS, check_options, detect, read_data_set
from world_model.data.index import COMMANDS, INDEX_NAME, SceneIndex
from world_model.data.label_check import (
    LEAST_AGREEMENT,
    agreement,
    check_axes,
    check_convention,
    spread_frames,
    unknown_share,
)
from world_model.data.rates import is_typical, rate_words
from world_model.simulator.dataset.export import make_dataset
from world_model.simulator.dataset.scenarios import store_scenarios


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Turn a data folder into the index that training, evaluation and the environment read.

    Formats (docs/howto/formats.md): nuscenes = nuScenes tables (v1.0-mini/, v1.0-trainval/) with Occ3D labels
    (gts/SCENE/SAMPLE/labels.npz); infos = the original's world-nuscenes_infos_{train,val}.pkl with the same labels;
    stcocc = either of them with STCOcc's predictions (stc-results/) as the observed labels and gts/ as the truth;
    waymo = Occ3D-Waymo, validation; uniocc = UniOcc's npz files; scenarionet = recorded scenarios, whose labels are
    drawn into scenarionet_drawn/ beside the index. `python -m world_model.make_synthetic` writes the
    nuscenes layout without any download.

    Frames without labels are reported and left out; their scenes are cut there (or refused, with --strict).
    """

    data_root: Path
    """Folder with the tables, info files or scene lists, and the label folder."""
    format: Literal["auto", "nuscenes", "infos", "stcocc", "waymo", "uniocc", "scenarionet"] = "auto"
    """What the folder holds; auto recognises it by its files."""
    version: str | None = None
    """Folder of the nuScenes tables, e.g. v1.0-trainval. If not given: the only one there is."""
    infos: tuple[Path, ...] = ()
    """Info files (..._train.pkl, ..._val.pkl), for infos and stcocc. If not given: those in the data folder."""
    out: Path | None = None
    """The index to write. If not given: iiworld_index.npz in the data folder."""
    label_folder: str | None = None
    """Folder of the labels in the data folder. If not given: gts, stc-results or validation, by the format."""
    truth_folder: str | None = None
    """Folder of the true labels, where those of the label folder are predictions. If not given: gts for stcocc."""
    source: str | None = None
    """What the data are, shown beside every result. If not given: synthetic, nuscenes, waymo, ..."""
    labels: Literal["occ3d", "openocc", "free0"] | None = None
    """Classes in the label files (nuscenes, infos, stcocc): occ3d (0..16, 17 = free); openocc (car first, 16 = free) or
    free0 (0 = free, 1..16 as Occ3D) are converted where they are read. If not given: occ3d, and labels that look like
    another convention or release are refused."""
    strict: bool = False
    """Refuse data with missing labels or frames, with a list, instead of cutting scenes there."""
    faithful: bool = False
    """For the original's checkpoints: motion features as in the info files (infos, stcocc); for waymo the original's
    commands, features and transforms, and no cuts where its timestamps jump."""
    poses: Poses = "auto"
    """raw: as recorded. planar: x, y and yaw only (z = 0, no pitch, no roll). auto: planar where all heights are equal
    although the vehicle pitches or rolls, as in nuScenes, whose raw poses lift or sink the world between frames; else
    raw, also with --faithful."""
    resample: Literal[2] | None = None
    """2: take two frames a second out of faster recordings (of 12 a second every sixth, else the nearest to each half
    second, among those with labels). If not given, data whose frames are not half a second apart are refused; slower
    ones always are."""
    val_fraction: float = 0.2
    """scenarionet: share of the scenarios, at the end, that are held out; 1 for all."""
    workers: int = 1
    """scenarionet: processes that draw."""
    check_labels: bool = False
    """Also read every label file once, to find damaged ones now rather than in the middle of a training run; and
    compare annotated objects with the voxels in them, which finds labels that are mirrored or turned, and the ground
    under the ego with a road."""


def prepare(options: Prepare) -> SceneIndex:
    """Read the data folder, write the index, and print what is in it.

    Raises:
        DataError: something is missing, broken or contradictory; nothing is written.
        OptionError: options contradict the format.
        OutputError: the index cannot be written.
    """
    begin = time.perf_counter()
    out = options.out or options.data_root / INDEX_NAME
    chosen = detect(options.data_root) if options.format == "auto" else options.format
    print(f"reading {options.data_root} as {chosen} ({LAYOUTS[chosen]}) ...", flush=True)
    root = options.data_root
    if root.exists():
        check_writable(out.parent)
    if chosen == "scenarionet":
        check_options(
            chosen, version=options.version is not None, infos=bool(options.infos),
            label_folder=options.label_folder is not None, truth_folder=options.truth_folder is not None,
            faithful=options.faithful,
        )  # fmt: skip
        root = draw_scenarios(root, out.parent / DRAWN, options.val_fraction, options.workers)
    data = read_data_set(
        root,
        chosen,
        version=options.version,
        infos=options.infos,
        label_folder=options.label_folder,
        truth_folder=options.truth_folder,
        faithful=options.faithful,
    )
    if options.labels is not None:
        data = data.with_labels(options.labels)
    index, report = data.to_index(
        source=options.source,
        index_folder=out.parent,
        strict=options.strict,
        poses=options.poses,
        to_two_hertz=options.resample is not None,
    )
    if options.labels is None:
        check_convention(index)
    if options.check_labels:
        _check_labels(index)
    index.save(out)
    print(summary(index, report))
    if unknown := unknown_share(index):
        print(f"NOTE: {unknown:.1%} of the voxels are unknown (255): free to models, left out of losses and scores")
    print(f"wrote {out} ({out.stat().st_size / 1e6:.2f} MB) in {time.perf_counter() - begin:.1f} s{_memory()}")
    return index


DRAWN = "scenarionet_drawn"
"""Folder beside the index with the labels, tables and scenarios that `draw_scenarios` writes."""


def draw_scenarios(source: Path, folder: Path, val_fraction: float, workers: int) -> Path:
    """Draw all scenarios of a folder as `make_synthetic --scenarios` does; those that are drawn already are kept.

    Returns:
        The folder.

    Raises:
        DataError: a scenario is broken, or the folder holds other ones. OutputError: it cannot be written.
    """
    config = store_scenarios(source, folder, val_fraction)

    def progress(done: int, total: int, frames: int) -> None:
        print(f"drawn {done}/{total} scenarios", flush=True)

    make_dataset(folder, config, workers, progress)
    return folder


def summary(index: SceneIndex, report: ImportReport) -> str:
    """A table of what an index holds."""
    step = f"frames {rate_words(index.step_s)}"
    if index.recorded_step_s is not None and not is_typical(index.recorded_step_s):
        step += f", out of frames {rate_words(index.recorded_step_s)}"
    lines = [f"source {index.source}, {index.words}", step, "split    scenes  frames   boxes  moving"]
    if index.truth_path is not None:
        lines.insert(1, "labels are predictions; forecasts are scored against the true labels beside them")
    scene_of_frame = np.repeat(np.arange(len(index.scene_name)), np.diff(index.scene_start))
    scene_of_box = np.repeat(scene_of_frame, np.diff(index.box_start))
    moving = np.linalg.norm(index.box_velocity_mps, axis=1) > MOVING_MPS
    for split in [*sorted(set(index.scene_split.tolist())), "all"]:
        scenes = index.scenes(split)
        boxes = np.isin(scene_of_box, scenes)
        frames = np.isin(scene_of_frame, scenes).sum()
        lines.append(f"{split:<8} {len(scenes):>6} {frames:>7} {boxes.sum():>7} {(boxes & moving).sum():>7}")
    counts = np.bincount(index.box_class, minlength=len(CLASS_NAMES))
    lines.append("boxes: " + (", ".join(f"{CLASS_NAMES[i]} {n}" for i, n in enumerate(counts) if n) or "none"))
    lines.append("commands: " + ", ".join(f"{name} {(index.command == i).sum()}" for i, name in enumerate(COMMANDS)))
    return "\n".join(lines + report.lines())


FRAMES_COMPARED = 200
"""Frames, spread over the data set, whose annotated cars are compared with their labels."""


def _check_labels(index: SceneIndex) -> None:
    """Read every label file, and every file of true labels, with a few readers side by side."""

    def read(frame: int) -> None:
        index.read_labels(frame)
        if index.truth_path is not None:
            index.read_truth(frame)

    # Unpacking releases the interpreter's lock, so threads help.
    with ThreadPoolExecutor(4) as pool:
        for scene, name in enumerate(index.scene_name):
            list(pool.map(read, index.frames(scene)))
            print(f"labels of {name} are intact ({scene + 1}/{len(index.scene_name)})", flush=True)
    share = check_axes(index, spread_frames(index, FRAMES_COMPARED))
    found = "too few annotated cars to compare" if share is None else f"{share:.0%} of near cars hold voxels of a car"
    doubt = "" if share is None or share >= LEAST_AGREEMENT else "WARNING: labels of other drives or axes? "
    print(f"{doubt}labels and annotations: {found}", flush=True)
    road, right = agreement(index, spread_frames(index, FRAMES_COMPARED))
    if road is not None:
        print(f"the ego stands on driveable ground at {road:.1%} of its places", flush=True)
    if right is not None:
        print(f"{right:.1%} of the voxels inside near boxes have the class of their box", flush=True)


def _memory() -> str:
    """Peak memory so far; an empty string where the system has no figure."""
    try:
        import resource
    except ImportError:  # not on Windows
        return ""
    unit = 1e9 if sys.platform == "darwin" else 1e6  # macOS counts bytes, Linux kilobytes
    return f", peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit:.2f} GB"


def main() -> None:
    """Command line."""
    run(Prepare, prepare, "python -m world_model.prepare", resumes="no index was written; give the same command again")


if __name__ == "__main__":
    main()
