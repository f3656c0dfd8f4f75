"""Write synthetic scenes as a nuScenes folder with Occ3D labels; killed at any moment, it goes on to the same bytes."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import DataError, OutputError
from world_model.core.files import write_json
from world_model.core.grid import OCC3D
from world_model.simulator.dataset.calibration import SceneStatistics
from world_model.simulator.dataset.config import GENERATOR_VERSION, DatasetConfig, scene_states
from world_model.simulator.dataset.packing import label_bytes
from world_model.simulator.dataset.tables import Annotation, SceneTables, write_tables
from world_model.simulator.sensing.footprints import footprints
from world_model.simulator.sensing.labels import Labels
from world_model.simulator.simulator import Simulator
from world_model.simulator.state import SimState

FORMAT = 1


def identity(config: DatasetConfig) -> dict[str, object]:
    """What ``synthetic.json`` says about a data set."""
    found = {"format": FORMAT, "synthetic": True, "generator": GENERATOR_VERSION, **asdict(config)}
    if not config.wild:
        del found["wild"]  # data sets from before there was such a thing stay what they are
    return found


def annotate(tables: SceneTables, sample: str, boxes: NDArray[np.void], state: SimState, labels: Labels) -> None:
    """Add a keyframe's boxes (ego frame) to a scene's tables."""
    flat = labels.semantics.reshape(-1, labels.semantics.shape[-1])
    cell, owner = footprints(boxes["center"][:, :2], boxes["yaw"], boxes["size"])
    inside = (flat.take(cell, axis=0) == boxes["label"][owner, None]).sum(1)
    points = np.bincount(owner, inside, len(boxes)).astype(np.int64)
    filled = points / np.maximum(1.0, boxes["size"].prod(1) / OCC3D.voxel_m**3)
    visibility = 1 + np.minimum(3, (5 * filled).astype(np.int64))
    ids, m = boxes["instance"], state.movers
    columns = (
        ids, boxes["label"], m.xy[ids], boxes["center"][:, 2], boxes["size"], m.yaw[ids], m.speed[ids],
        state.cast.mobile[ids], points, visibility,
    )  # fmt: skip
    for a, label, (x, y), z, (length, width, height), yaw, speed, mobile, count, seen in zip(
        *(c.tolist() for c in columns), strict=True
    ):
        tables.add_box(
            sample,
            Annotation(
                instance=a, label=label, centre_m=(x, y, z), size_m=(length, width, height), yaw_rad=yaw,
                speed_mps=speed, mobile=mobile, points=count, visibility=seen,
            ),
        )  # fmt: skip


def write_scene(root: Path, config: DatasetConfig, scene: int) -> int:
    """Simulate and write one scene; it counts as done when its part file is in place.

    Returns:
        Number of keyframes.

    Raises:
        OutputError: the disk is full or read-only; earlier scenes stay as they are.
    """
    name = config.name(scene)
    draft, final = root / ".parts" / f"{name}.gts", root / "gts" / name
    simulator, tables = Simulator(config.simulator), SceneTables(config.seed, name, config.town(scene))
    statistics = SceneStatistics()
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        for state, time_us in scene_states(config, scene, simulator):
            labels = simulator.labels(state)
            e = state.ego
            sample = tables.add_frame(time_us, (e.x, e.y, e.z), e.yaw)
            boxes = simulator.boxes(state)
            annotate(tables, sample, boxes, state, labels)
            if not config.is_wild(scene):
                statistics.add(labels, boxes, simulator.ego_pose(state), time_us)
            (draft / sample).mkdir()
            (draft / sample / "labels.npz").write_bytes(label_bytes(labels))
        shutil.rmtree(final, ignore_errors=True)
        final.parent.mkdir(parents=True, exist_ok=True)
        draft.rename(final)
        write_json(part_path(root, config, scene), {"tables": tables.rows, "statistics": statistics.result()})
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"could not write {name} into {root}: {error.strerror or error}",
            "a writable folder with free space (about 3.5 MB a scene)",
            "free space or choose another --out, then run the same command again: finished scenes are kept",
        ) from error
    return len(tables.rows["sample"])


def part_path(root: Path, config: DatasetConfig, scene: int) -> Path:
    """Where a finished scene's tables and statistics lie."""
    return root / ".parts" / f"{config.name(scene)}.json"


def complete(root: Path, config: DatasetConfig, scene: int) -> bool:
    """Whether a scene is finished, and nobody has taken away any of its label files since."""
    frames = root / "gts" / config.name(scene)
    return part_path(root, config, scene).exists() and len(list(frames.glob("*/labels.npz"))) == config.keyframes(scene)


def claim(root: Path, config: DatasetConfig) -> None:
    """Make sure that ``root`` is new, empty, or the very same data set.

    Raises:
        DataError: the folder holds something else. OutputError: it cannot be written.
    """
    remedy = "choose an empty folder for --out, or delete this one"
    mark = root / "synthetic.json"
    if root.exists() and not root.is_dir():
        raise DataError(f"{root} is a file", "a folder", remedy)
    if mark.exists():
        try:
            found = json.loads(mark.read_text())
        except ValueError as error:
            raise DataError(f"{mark} cannot be read ({error})", "JSON written by make_synthetic", remedy) from error
        wanted = json.loads(json.dumps(identity(config)))
        if found != wanted:
            different = [k for k in {**wanted, **found} if found.get(k) != wanted.get(k)]
            told, asked = (
                ", ".join(f"{k}={v[k]!r}" if k in v else f"no {k}" for k in different) for v in (found, wanted)
            )
            raise DataError(
                f"{root} holds another synthetic data set: {told}",
                asked,
                remedy + ", or repeat the options it was made with",
            )
        return
    if root.exists() and any(root.iterdir()):
        raise DataError(
            f"{root} is not empty and holds no synthetic.json", "an empty folder or the same data set", remedy
        )
    write_json(mark, identity(config))


def _work(task: tuple[str, DatasetConfig, int]) -> tuple[int, int]:
    root, config, scene = task
    return scene, write_scene(Path(root), config, scene)


def make_dataset(
    root: Path, config: DatasetConfig, workers: int = 1, progress: Callable[[int, int, int], None] | None = None
) -> int:
    """Write the whole data set; scenes that are already there are kept, those that lack label files are written again.

    Args:
        root: output folder. config: what to make. workers: processes.
        progress: called with (scenes done, scenes in all, frames written now) after every scene.

    Returns:
        Frames written in this call.
    """
    claim(root, config)
    todo = [(str(root), config, i) for i in range(config.scenes) if not complete(root, config, i)]
    done, frames = config.scenes - len(todo), 0
    for _, count in _run(todo, workers):
        done, frames = done + 1, frames + count
        if progress:
            progress(done, config.scenes, frames)
    write_tables(root, config.version, [part_path(root, config, i) for i in range(config.scenes)])
    write_json(root / "splits.json", config.splits())
    return frames


def _run(todo: list[tuple[str, DatasetConfig, int]], workers: int) -> Iterator[tuple[int, int]]:
    if workers <= 1 or len(todo) <= 1:
        yield from map(_work, todo)
        return
    # Neighbouring scenes share a town, which a process builds once: hand them out in order.
    with multiprocessing.get_context("spawn").Pool(min(workers, len(todo))) as pool:
        yield from pool.imap_unordered(_work, todo, chunksize=1)


def statistics_of(root: Path, config: DatasetConfig) -> SceneStatistics:
    """Statistics of all finished scenes together; drives that nobody logs say nothing of how people drive."""
    merged = SceneStatistics()
    for i in (i for i in range(config.scenes) if not config.is_wild(i)):
        merged.merge(json.loads(part_path(root, config, i).read_text())["statistics"])
    return merged


__all__ = ["claim", "identity", "label_bytes", "make_dataset", "statistics_of", "write_scene"]
