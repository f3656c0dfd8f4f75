"""Write synthetic scenes as a nuScenes folder with Occ3D labels; an interrupted run continues to the same bytes."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import DataError, OutputError
from world_model.core.files import write_json
from world_model.core.grid import OCC3D
from world_model.data.formats.poses import poses_of_matrices
from world_model.simulator.dataset.config import GENERATOR_VERSION, DatasetConfig, scene_states
from world_model.simulator.dataset.packing import npz_bytes
from world_model.simulator.dataset.statistics import SceneStatistics
from world_model.simulator.dataset.styles import draw_labels, scene_style
from world_model.simulator.dataset.tables import SceneTables, write_tables
from world_model.simulator.sensing.cells import footprints
from world_model.simulator.sensing.labels import Labels
from world_model.simulator.simulator import Simulator
from world_model.simulator.state import Floats, SimState, Table

FORMAT = 1


def identity(config: DatasetConfig) -> dict[str, Any]:
    """What ``synthetic.json`` says about a data set."""
    return {"format": FORMAT, "synthetic": True, "generator": GENERATOR_VERSION, **config.identity()}


def annotate(
    tables: SceneTables, sample: str, boxes: NDArray[np.void], state: SimState, labels: Labels, ground_m: Floats
) -> None:
    """Add a keyframe's boxes (ego frame) to a scene's tables.

    Args:
        labels: in the simulator's own style, for what is seen of each box.
        ground_m: (N,) global heights of the ground under the boxes.
    """
    flat = labels.semantics.reshape(-1, labels.semantics.shape[-1])
    cell, owner = footprints(boxes["center"][:, :2], boxes["yaw"], boxes["size"])
    inside = (flat.take(cell, axis=0) == boxes["label"][owner, None]).sum(1)
    points = np.bincount(owner, inside, len(boxes)).astype(np.int64)
    filled = points / np.maximum(1.0, boxes["size"].prod(1) / OCC3D.voxel_m**3)
    ids, motion = boxes["instance"], state.motion
    centre_m = np.column_stack([motion.xy[ids], boxes["size"][:, 2] / 2 + ground_m])
    columns: Table = dict(
        instance=ids, label=boxes["label"], centre_m=centre_m,
        size_m=boxes["size"], yaw_rad=motion.yaw[ids], speed_mps=motion.speed[ids], mobile=state.agents.mobile[ids],
        points=points, visibility=1 + np.minimum(3, (5 * filled).astype(np.int64)),
    )  # fmt: skip
    for values in zip(*(column.tolist() for column in columns.values()), strict=True):
        tables.add_box(sample, **dict(zip(columns, values, strict=True)))


def write_scene(root: Path, config: DatasetConfig, scene: int) -> int:
    """Simulate and write one scene; it counts as done when its part file is in place.

    Returns:
        Number of keyframes.

    Raises:
        OutputError: the disk is full or read-only; earlier scenes stay as they are.
    """
    name = config.name(scene)
    draft, final = root / ".parts" / f"{name}.gts", root / "gts" / name
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        tables, statistics = _draw_frames(draft, config, scene)
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


def _draw_frames(folder: Path, config: DatasetConfig, scene: int) -> tuple[SceneTables, SceneStatistics]:
    """Write the label files of a scene; returns its tables and statistics."""
    simulator, statistics = Simulator(config.simulator), SceneStatistics()
    tables = SceneTables(config.seed, config.name(scene), config.town(scene))
    style, hills = scene_style(config, scene), config.simulator.terrain == "hills"
    for number, (state, time_us) in enumerate(scene_states(config, scene, simulator)):
        labels, boxes, pose = simulator.labels(state), simulator.boxes(state), simulator.ego_pose(state)
        quaternion = poses_of_matrices([pose], "simulated poses", ["frame"])[1][0].tolist() if hills else None
        # Annotations are right in the ego frame of their keyframe, so without z they sink with its pose.
        sunk_m = pose[2, 3] if config.exported_poses == "nuscenes" else 0.0
        x, y, z = pose[:3, 3].tolist()
        sample = tables.add_frame(time_us, (x, y, z - sunk_m), state.ego.yaw, quaternion)
        ground_m = simulator.ground_m(state, state.motion.xy[boxes["instance"]])
        annotate(tables, sample, boxes, state, labels, ground_m - sunk_m)
        if not config.is_wild(scene):
            statistics.add(labels, boxes, pose, time_us, with_labels=config.plain, with_ground=hills)
        if not config.plain:
            labels = draw_labels(style, labels, pose, number)
        (folder / sample).mkdir()
        (folder / sample / "labels.npz").write_bytes(npz_bytes(vars(labels)))
    return tables, statistics


def part_path(root: Path, config: DatasetConfig, scene: int) -> Path:
    """Where a finished scene's tables and statistics lie."""
    return root / ".parts" / f"{config.name(scene)}.json"


def complete(root: Path, config: DatasetConfig, scene: int) -> bool:
    """Whether a scene is finished and still has all of its label files."""
    written = len(list((root / "gts" / config.name(scene)).glob("*/labels.npz")))
    return part_path(root, config, scene).exists() and written == len(config.gaps(scene)) + 1


def claim(root: Path, config: DatasetConfig) -> None:
    """Make sure that ``root`` is new, empty, or the very same data set.

    Raises:
        DataError: the folder holds something else. OutputError: it cannot be written.
    """
    remedy, mark = "choose an empty folder for --out, or delete this one", root / "synthetic.json"
    if root.exists() and not root.is_dir():
        raise DataError(f"{root} is a file", "a folder", remedy)
    if not mark.exists():
        if root.exists() and any(root.iterdir()):
            wanted = "an empty folder or the same data set"
            raise DataError(f"{root} is not empty and holds no synthetic.json", wanted, remedy)
        write_json(mark, identity(config))
    try:
        found = json.loads(mark.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{mark} cannot be read ({error})", "JSON written by make_synthetic", remedy) from error
    asked = json.loads(json.dumps(identity(config)))
    different = [k for k in {**asked, **found} if found.get(k) != asked.get(k)]
    old, new = (", ".join(f"{k}={v[k]!r}" if k in v else f"no {k}" for k in different) for v in (found, asked))
    if different:
        remedy += ", or repeat the options it was made with"
        raise DataError(f"{root} holds another synthetic data set: {old}", new, remedy)


def make_dataset(
    root: Path, config: DatasetConfig, workers: int = 1, progress: Callable[[int, int, int], None] | None = None
) -> int:
    """Write the whole data set; finished scenes are kept, those that lack label files are written again.

    Args:
        root: output folder. config: what to make. workers: processes.
        progress: called with (scenes done, scenes in all, frames written now) after every scene.

    Returns:
        Frames written in this call.
    """
    claim(root, config)
    todo = [i for i in range(config.scenes) if not complete(root, config, i)]
    frames, write = 0, partial(write_scene, root, config)
    for done, count in enumerate(_run(write, todo, workers), config.scenes - len(todo) + 1):
        frames += count
        if progress:
            progress(done, config.scenes, frames)
    write_tables(root, config.version, [part_path(root, config, i) for i in range(config.scenes)])
    write_json(root / "splits.json", config.splits())
    return frames


def _run(write: Callable[[int], int], todo: list[int], workers: int) -> Iterator[int]:
    """Write scenes; yields the number of keyframes of each."""
    if workers <= 1 or len(todo) <= 1:
        yield from map(write, todo)
        return
    # Neighbouring scenes share a town, which a process builds once: hand them out in order.
    # Ctrl-C reaches all processes: this one reports it and ends the workers.
    context, ignore = multiprocessing.get_context("spawn"), (signal.SIGINT, signal.SIG_IGN)
    with context.Pool(min(workers, len(todo)), initializer=signal.signal, initargs=ignore) as pool:
        yield from pool.imap_unordered(write, todo)


def statistics_of(root: Path, config: DatasetConfig) -> SceneStatistics:
    """Statistics of all finished scenes together, without wild ones: they say nothing of how people drive."""
    merged = SceneStatistics()
    for i in (i for i in range(config.scenes) if not config.is_wild(i)):
        merged.merge(json.loads(part_path(root, config, i).read_text(encoding="utf-8-sig"))["statistics"])
    return merged
