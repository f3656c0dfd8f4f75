"""One entry to every format: which format a data folder has, and its recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from world_model.core.errors import DataError, OptionError
from world_model.data.formats.infos import PATTERN, read_infos
from world_model.data.formats.nuscenes import find_version, read_nuscenes
from world_model.data.formats.recording import DataSet
from world_model.data.formats.uniocc import find_datasets, read_uniocc
from world_model.data.formats.waymo import INFOS as WAYMO_INFOS
from world_model.data.formats.waymo import find_file, read_waymo
from world_model.data.scenarios.scenarionet import PATTERN as PATTERN_SCENARIO
from world_model.data.scenarios.scenarionet import find_scenarios

Format = Literal["nuscenes", "infos", "stcocc", "waymo", "uniocc", "scenarionet"]
LAYOUTS: dict[Format, str] = {
    "nuscenes": "v1.0-mini/ or v1.0-trainval/ beside gts/",
    "infos": "world-nuscenes_infos_train.pkl and/or _val.pkl beside gts/",
    "stcocc": "as nuscenes or infos, with stc-results/ beside gts/ (never chosen by itself)",
    "waymo": f"{WAYMO_INFOS}, cam_infos_vali.pkl and validation/",
    "uniocc": "scene_infos.pkl and <scene>/<frame>.npz",
    "scenarionet": f"{PATTERN_SCENARIO}, also in folders inside; labels are drawn",
}
_OPTIONS: dict[str, tuple[Format, ...]] = {
    "version": ("nuscenes", "stcocc"),
    "infos": ("infos", "stcocc"),
    "label_folder": ("nuscenes", "infos", "stcocc", "waymo"),
    "truth_folder": ("nuscenes", "infos", "stcocc"),
    "faithful": ("infos", "stcocc", "waymo"),
}
"""The formats that each option belongs to."""


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
        if find_scenarios(root):
            return "scenarionet"
    inside = ", ".join(sorted(p.name for p in root.iterdir())[:8]) if root.is_dir() else "it does not exist"
    raise DataError(
        f"{root} holds no data of a known format ({inside or 'it is empty'})",
        "; ".join(f"{name}: {layout}" for name, layout in LAYOUTS.items()),
        "give the folder that holds these, or make one with `python -m world_model.make_synthetic`",
    )


def check_options(chosen: Format, **given: bool) -> None:
    """Refuse options that do not belong to a format.

    Args:
        chosen: the format.
        given: whether each option of `read_data_set` was given.

    Raises:
        OptionError: one was, and does not belong to it.
    """
    for name, formats in _OPTIONS.items():
        if given.get(name) and chosen not in formats:
            flag = f"--{name.replace('_', '-')}"
            raise OptionError(
                f"{flag} with the format {chosen}", f"{flag} only for {', '.join(formats)}", "leave it out"
            )


def read_data_set(
    root: Path,
    chosen: Format,
    *,
    version: str | None = None,
    infos: Sequence[Path] = (),
    label_folder: str | None = None,
    truth_folder: str | None = None,
    faithful: bool = False,
) -> DataSet:
    """The recordings of a data folder.

    Args:
        root: the folder; for scenarionet the one that its scenarios were drawn into.
        chosen: its format; `detect` recognises it.
        version: folder of the nuScenes tables; the only one there is, if None.
        infos: info files; those in the folder, if none are given.
        label_folder: folder of the labels; gts, stc-results or validation by the format, if None.
        truth_folder: folder of the true labels; gts for stcocc, else the labels are the truth, if None.
        faithful: see `read_infos` and `read_waymo`.

    Raises:
        DataError: a file is missing, broken or contradictory.
        OptionError: an option does not belong to the format, or the official splits need nuscenes-devkit.
    """
    check_options(
        chosen, version=version is not None, infos=bool(infos), label_folder=label_folder is not None,
        truth_folder=truth_folder is not None, faithful=faithful,
    )  # fmt: skip
    if chosen == "waymo":
        return read_waymo(root, label_folder=label_folder, faithful=faithful)
    if chosen == "uniocc":
        return read_uniocc(root)
    labels = label_folder or ("stc-results" if chosen == "stcocc" else "gts")
    truth = truth_folder or ("gts" if chosen == "stcocc" else None)
    if chosen in ("nuscenes", "scenarionet") or (chosen == "stcocc" and not infos and any(root.glob("v1.0-*"))):
        version = version or find_version(root)
        print(f"tables: {root / version}", flush=True)
        return read_nuscenes(root, version, label_folder=labels, truth_folder=truth)
    return read_infos(root, infos, label_folder=labels, truth_folder=truth, faithful=faithful)
