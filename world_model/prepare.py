"""Turn data as people have them into the project's own small index: ``python -m world_model.prepare``."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from world_model.core.errors import DataError, IIWorldError, OptionError
from world_model.core.grid import CLASS_NAMES
from world_model.data.formats.gaps import ImportReport
from world_model.data.formats.infos import PATTERN, read_infos
from world_model.data.formats.nuscenes import find_version, read_nuscenes
from world_model.data.formats.uniocc import find_datasets, read_uniocc
from world_model.data.formats.waymo import INFOS as WAYMO_INFOS
from world_model.data.formats.waymo import find_file, read_waymo
from world_model.data.index import COMMANDS, INDEX_NAME, SceneIndex

Format = Literal["nuscenes", "infos", "stcocc", "waymo", "uniocc"]
LAYOUTS: dict[Format, str] = {
    "nuscenes": "v1.0-mini/ or v1.0-trainval/ beside gts/",
    "infos": "world-nuscenes_infos_train.pkl and/or _val.pkl beside gts/",
    "stcocc": "as nuscenes or infos, with stc-results/ beside gts/ (never chosen by itself)",
    "waymo": f"{WAYMO_INFOS}, cam_infos_vali.pkl and validation/",
    "uniocc": "scene_infos.pkl and <scene>/<frame>.npz",
}


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Turn a data folder into the index that training, evaluation and the environment read.

    Formats (docs/howto/formats.md): nuscenes = nuScenes tables (v1.0-mini/, v1.0-trainval/) with Occ3D labels
    (gts/SCENE/SAMPLE/labels.npz); infos = the original's world-nuscenes_infos_{train,val}.pkl with the same labels;
    stcocc = either of them with STCOcc's predictions (stc-results/) as what is observed and gts/ as the truth; waymo =
    Occ3D-Waymo, validation; uniocc = UniOcc's npz files. `python -m world_model.make_synthetic` writes the nuscenes
    layout without any download.

    Frames without labels are reported and left out; their scenes are cut there (or refused, with --strict).
    """

    data_root: Path
    """Folder with the tables, info files or scene lists, and the label folder."""
    format: Literal["auto", "nuscenes", "infos", "stcocc", "waymo", "uniocc"] = "auto"
    """What the folder holds; auto looks."""
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
    """What the data is, shown beside every result. If not given: synthetic, nuscenes, waymo, ..."""
    strict: bool = False
    """Refuse data with missing labels or frames, with a list, instead of cutting scenes there."""
    faithful: bool = False
    """For the original's checkpoints: motion features as in the info files (infos, stcocc); for waymo the original's
    commands, features and transforms, and no cuts where its clock jumps."""
    check_labels: bool = False
    """Also read every label file once, to find damaged ones now rather than in the middle of a training run."""


def prepare(options: Prepare) -> SceneIndex:
    """Read what the folder holds, look for the labels, write the index, and say what is in it.

    Raises:
        DataError: something is missing, broken or contradictory; nothing is written.
        OptionError: options contradict the format.
        OutputError: the index cannot be written.
    """
    begin = time.perf_counter()
    out = options.out or options.data_root / INDEX_NAME
    chosen = detect(options.data_root) if options.format == "auto" else options.format
    print(f"reading {options.data_root} as {chosen} ({LAYOUTS[chosen]}) ...", flush=True)
    index, report = _read(options, chosen, out.parent)
    if options.check_labels:
        _check_labels(index)
    index.save(out)
    print(summary(index, report))
    print(f"wrote {out} ({out.stat().st_size / 1e6:.2f} MB) in {time.perf_counter() - begin:.1f} s{_memory()}")
    return index


def detect(root: Path) -> Format:
    """The format of a data folder, by the files that only this format has.

    Raises:
        DataError: none is recognised.
    """
    if root.is_dir():
        if any(path.is_dir() for path in root.glob("v1.0-*")):
            return "nuscenes"
        if find_file(root, WAYMO_INFOS) is not None:
            return "waymo"
        if any(any(root.glob(PATTERN.format(split=split))) for split in ("train", "val")):
            return "infos"
        if find_datasets(root):
            return "uniocc"
    inside = ", ".join(sorted(p.name for p in root.iterdir())[:8]) if root.is_dir() else "it does not exist"
    raise DataError(
        f"{root} holds no data of a known format ({inside or 'it is empty'})",
        "; ".join(f"{name}: {layout}" for name, layout in LAYOUTS.items()),
        "give the folder that holds these, or make one with `python -m world_model.make_synthetic`",
    )


def _read(options: Prepare, chosen: Format, folder: Path) -> tuple[SceneIndex, ImportReport]:
    root, source, strict, faithful = options.data_root, options.source, options.strict, options.faithful
    _check_options(options, chosen)
    if chosen == "waymo":
        labels = options.label_folder
        return read_waymo(
            root, label_folder=labels, source=source, index_folder=folder, strict=strict, faithful=faithful
        )
    if chosen == "uniocc":
        return read_uniocc(root, source=source, index_folder=folder, strict=strict)
    labels = options.label_folder or ("stc-results" if chosen == "stcocc" else "gts")
    truth = options.truth_folder or ("gts" if chosen == "stcocc" else None)
    tables = chosen == "nuscenes" or (chosen == "stcocc" and not options.infos and any(root.glob("v1.0-*")))
    if tables:
        version = options.version or find_version(root)
        print(f"tables: {root / version}", flush=True)
        return read_nuscenes(
            root, version, label_folder=labels, truth_folder=truth, source=source, index_folder=folder, strict=strict
        )
    return read_infos(
        root,
        options.infos,
        label_folder=labels,
        truth_folder=truth,
        source=source,
        index_folder=folder,
        strict=strict,
        faithful=faithful,
    )


def _check_options(options: Prepare, chosen: Format) -> None:
    """Refuse options that the format would silently ignore."""
    meant = {
        "version": (options.version is not None, ("nuscenes", "stcocc")),
        "infos": (bool(options.infos), ("infos", "stcocc")),
        "label_folder": (options.label_folder is not None, ("nuscenes", "infos", "stcocc", "waymo")),
        "truth_folder": (options.truth_folder is not None, ("nuscenes", "infos", "stcocc")),
        "faithful": (options.faithful, ("infos", "stcocc", "waymo")),
    }
    for name, (given, formats) in meant.items():
        if given and chosen not in formats:
            flag = f"--{name.replace('_', '-')}"
            raise OptionError(
                f"{flag} with the format {chosen}", f"{flag} only for {', '.join(formats)}", "leave it out"
            )


def summary(index: SceneIndex, report: ImportReport) -> str:
    """A table of what an index holds."""
    lines = [f"source {index.source}, fingerprint {index.fingerprint}", "split    scenes  frames   boxes  moving"]
    if index.truth_path is not None:
        lines.insert(1, "labels are predictions; forecasts are scored against the true labels beside them")
    speed = np.linalg.norm(index.box_velocity_mps, axis=1)
    per_frame = np.diff(index.box_start)
    frame_of_box = np.repeat(np.arange(len(index.token)), per_frame)
    for split in [*sorted(set(index.scene_split.tolist())), "all"]:
        inside = np.zeros(len(index.token), bool)
        for scene in index.scenes(split):
            inside[index.frames(scene)] = True
        moving = int((inside[frame_of_box] & (speed > 0.5)).sum())
        lines.append(
            f"{split:<8} {len(index.scenes(split)):>6} {inside.sum():>7} {per_frame[inside].sum():>7} {moving:>7}"
        )
    counts = np.bincount(index.box_class, minlength=len(CLASS_NAMES))
    lines.append("boxes: " + (", ".join(f"{CLASS_NAMES[i]} {n}" for i, n in enumerate(counts) if n) or "none"))
    lines.append("commands: " + ", ".join(f"{name} {n}" for name, n in _command_counts(index)))
    return "\n".join(lines + report.lines())


def _command_counts(index: SceneIndex) -> list[tuple[str, int]]:
    return [(name, int((index.command == i).sum())) for i, name in enumerate(COMMANDS)]


def _check_labels(index: SceneIndex) -> None:
    """Read every label file, and every file of true labels, with a few readers side by side."""

    def read(frame: int) -> None:
        index.read_labels(frame)
        if index.truth_path is not None:
            index.read_truth(frame)

    # Unpacking lets go of the interpreter's lock, so threads help.
    with ThreadPoolExecutor(4) as pool:
        for scene, name in enumerate(index.scene_name):
            list(pool.map(read, index.frames(scene)))
            print(f"labels of {name} are intact ({scene + 1}/{len(index.scene_name)})", flush=True)


def _memory() -> str:
    """Peak memory so far, where the system tells."""
    try:
        import resource
    except ImportError:  # not on Windows
        return ""
    unit = 1e9 if sys.platform == "darwin" else 1e6  # macOS counts bytes, Linux kilobytes
    return f", peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit:.2f} GB"


def main() -> None:
    """Command line."""
    try:
        prepare(tyro.cli(Prepare, prog="python -m world_model.prepare"))
    except IIWorldError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
