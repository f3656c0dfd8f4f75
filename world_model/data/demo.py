"""The demo scenes that ship with the package: a few held-out synthetic drives, so that nothing has to be downloaded.

They were cut out of a synthetic data set by ``python -m world_model.data.demo`` (see the model card for the exact
command): labels without masks, and an index, in the layout of any other data set.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import tyro

from world_model.data.index import INDEX_NAME, SceneIndex
from world_model.data.labels import read_labels
from world_model.errors import DataError, IIWorldError
from world_model.files import atomic_write


def demo_root() -> Path:
    """Folder of the bundled demo scenes."""
    return Path(__file__).parent.parent / "assets" / "demo"


@dataclass(frozen=True, kw_only=True)
class Args:
    """Cut scenes out of a prepared data set into a small one of the same layout (semantics only)."""

    index: Path
    """Index file that `world_model.prepare` wrote, or the folder it lies in."""
    scenes: tuple[str, ...]
    """Names of the scenes."""
    out: Path
    """Folder to write."""


def cut(index: SceneIndex, names: tuple[str, ...]) -> SceneIndex:
    """The part of an index that holds some scenes, in the order of the index.

    Raises:
        DataError: a name is unknown.
    """
    unknown = sorted(set(names) - set(index.scene_name.tolist()))
    if unknown:
        known = ", ".join(index.scene_name[:5].tolist())
        raise DataError(
            f"no scenes {', '.join(unknown)} in {index.root}", f"names such as {known}", "choose other scenes"
        )
    scenes = [s for s, name in enumerate(index.scene_name) if name in names]
    frames = np.concatenate([np.arange(f.start, f.stop) for f in map(index.frames, scenes)])
    boxes = np.concatenate([np.arange(index.box_start[f], index.box_start[f + 1]) for f in frames]).astype(np.int64)
    rows = {"scene_name": scenes, "scene_split": scenes}
    columns = {}
    for field in fields(SceneIndex):
        if field.name in ("root", "source", "scene_start", "box_start"):
            continue
        chosen = rows.get(field.name, boxes if field.name.startswith("box_") else frames)
        columns[field.name] = getattr(index, field.name)[chosen]
    lengths = [len(index.frames(s)) for s in scenes]
    counts = index.box_start[frames + 1] - index.box_start[frames]
    return SceneIndex(
        root=index.root,
        source=index.source,
        scene_start=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        box_start=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        **columns,
    )


def write_semantics(path: Path, labels: np.ndarray) -> None:
    """Write labels alone, as small as deflate makes them and with the same bytes every time."""
    payload = io.BytesIO()
    np.save(payload, labels)
    entry = zipfile.ZipInfo("semantics.npy", date_time=(1980, 1, 1, 0, 0, 0))
    with atomic_write(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(entry, payload.getvalue(), zipfile.ZIP_DEFLATED, 9)


def main(args: Args) -> Path:
    """Write the small data set and return its folder."""
    index = SceneIndex.load(args.index)
    small = cut(index, args.scenes)
    for name in small.label_path.tolist():
        write_semantics(args.out / name, read_labels(index.root / name))
    small.save(args.out / INDEX_NAME)
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(f"{len(small.scene_name)} scenes, {len(small.token)} frames, {size / 1e6:.1f} MB: {args.out}")
    return args.out


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, prog="python -m world_model.data.demo"))
    except IIWorldError as error:
        raise SystemExit(f"error: {error}") from error
