"""The demo scenes that ship with the package: a few held-out synthetic recordings, so that no download is needed.

They were cut out of a synthetic data set by ``python -m world_model.data.demo`` (see the model card for the exact
command): labels without masks, an index and ``synthetic.json``, in the layout of any other data set.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.command import run
from world_model.core.errors import DataError
from world_model.core.files import atomic_write
from world_model.data.index import INDEX_NAME, SceneIndex


def demo_root() -> Path:
    """Folder of the bundled demo scenes."""
    return Path(__file__).parent.parent / "assets" / "demo"


@dataclass(frozen=True, kw_only=True)
class Args:
    """Cut scenes out of a prepared data set into a small one of the same layout (semantics only)."""

    index: Path
    """Index file that `world_model.prepare` wrote, or its folder."""
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
    if unknown or not names:
        known = ", ".join(index.scene_name[:5].tolist())
        found = f"no scenes {', '.join(unknown)} in {index.root}"
        raise DataError(found, f"names such as {known}", "choose other scenes")
    return index.part([(str(n), index.frames(s)) for s, n in enumerate(index.scene_name) if n in names])


def write_semantics(path: Path, labels: NDArray[Any]) -> None:
    """Write labels alone, as small as deflate makes them and with the same bytes every time."""
    payload = io.BytesIO()
    np.save(payload, labels)
    entry = zipfile.ZipInfo("semantics.npy", date_time=(1980, 1, 1, 0, 0, 0))
    with atomic_write(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(entry, payload.getvalue(), zipfile.ZIP_DEFLATED, 9)


def main(args: Args) -> Path:
    """Write the small data set and return its folder."""
    index = SceneIndex.load(args.index)
    if index.truth_path is not None:
        found = f"{index.root} holds predictions and true labels"
        raise DataError(found, "one kind of labels", "cut scenes out of the true ones")
    small = cut(index, args.scenes)
    for frame, name in enumerate(small.label_path.tolist()):
        write_semantics(args.out / name, small.read_labels(frame))
    # Labels are written in Occ3D's classes, whatever was read.
    replace(small, label_format="occ3d", truth_format="occ3d").save(args.out / INDEX_NAME)
    mark = index.root / "synthetic.json"
    if mark.exists():
        # How the scenes were made, so that the simulator can continue them.
        (args.out / mark.name).write_bytes(mark.read_bytes())
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(f"{len(small.scene_name)} scenes, {len(small.token)} frames, {size / 1e6:.1f} MB: {args.out}")
    return args.out


if __name__ == "__main__":
    run(Args, main, "python -m world_model.data.demo")
