"""Write synthetic scenes as a nuScenes folder with Occ3D labels; killed at any moment, it goes on to the same bytes."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from world_model.errors import ConfigError, DataError, OutputError
from world_model.files import write_json
from world_model.grid import OCC3D
from world_model.simulator.calibration import SceneStatistics
from world_model.simulator.footprints import footprints
from world_model.simulator.labels import Labels
from world_model.simulator.packing import label_bytes
from world_model.simulator.simulator import Simulator, SimulatorConfig
from world_model.simulator.state import SimState
from world_model.simulator.tables import Annotation, SceneTables, write_tables

FORMAT = 1
GENERATOR_VERSION = 2
"""Raised whenever equal options would give other scenes than before: such data is another data set."""
HELD_OUT_TOWNS = 1_000_000
"""Towns of the held-out scenes are numbered from here, so that no training scene ever lies in one."""
START_US = 1_500_000_000_000_000
GAPS_S = (0.5, 0.4, 0.45, 0.55, 0.6)
GAP_SHARES = (0.9, 0.025, 0.025, 0.025, 0.025)


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """What a synthetic data set contains.

    Args:
        scenes: how many scenes of about 20 s. seed: everything follows from it and a scene's number.
        version: name of the table folder, such as v1.0-mini.
        val_fraction: share of the scenes, at the end, that are held out.
        simulator: the simulator's own options.
    """

    scenes: int = 10
    seed: int = 0
    version: str = "v1.0-mini"
    val_fraction: float = 0.2
    simulator: SimulatorConfig = field(default_factory=SimulatorConfig)

    def __post_init__(self) -> None:
        if self.scenes < 1 or not 0 <= self.val_fraction < 1 or self.seed < 0:
            raise ConfigError(
                f"scenes={self.scenes}, seed={self.seed}, val_fraction={self.val_fraction}",
                "scenes >= 1, seed >= 0 and 0 <= val_fraction < 1",
                "correct these options",
            )

    @property
    def held_out(self) -> int:
        """Number of held-out scenes; at least one if there are two scenes and any share is asked for."""
        wanted = round(self.scenes * self.val_fraction)
        return min(self.scenes - 1, max(wanted, int(self.val_fraction > 0)))

    def town(self, scene: int) -> int:
        """Town of a scene: training and held-out scenes never share one."""
        first = self.scenes - self.held_out
        per = self.simulator.scenes_per_town
        return scene // per if scene < first else HELD_OUT_TOWNS + (scene - first) // per

    def name(self, scene: int) -> str:
        """Scene name as nuScenes writes it."""
        return f"scene-{scene + 1:04d}"

    def splits(self) -> dict[str, list[str]]:
        """Scene names of both splits."""
        names = [self.name(i) for i in range(self.scenes)]
        first = self.scenes - self.held_out
        return {"train": names[:first], "val": names[first:]}


def identity(config: DatasetConfig) -> dict[str, object]:
    """What ``synthetic.json`` says about a data set."""
    return {"format": FORMAT, "synthetic": True, "generator": GENERATOR_VERSION, **asdict(config)}


def frame_gaps(seed: int, scene: int) -> NDArray[np.float64]:
    """Seconds between the 39-41 keyframes of a scene: 0.5 in nine of ten cases, else 0.40-0.60."""
    rng = np.random.default_rng([seed, scene, 303])
    return rng.choice(GAPS_S, int(rng.integers(38, 41)), p=GAP_SHARES)


def scene_states(config: DatasetConfig, scene: int) -> Iterator[tuple[SimState, int]]:
    """The keyframes of a scene driven by the built-in driver: states and timestamps in microseconds."""
    simulator = Simulator(config.simulator)
    state = simulator.reset(config.seed, scene, config.town(scene))
    time_us = START_US + scene * 60_000_000
    yield state, time_us
    for gap in frame_gaps(config.seed, scene):
        state = simulator.step(state, dt_s=float(gap))
        time_us += round(float(gap) * 1e6)
        yield state, time_us


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
        for state, time_us in scene_states(config, scene):
            labels = simulator.labels(state)
            e = state.ego
            sample = tables.add_frame(time_us, (e.x, e.y, e.z), e.yaw)
            boxes = simulator.boxes(state)
            annotate(tables, sample, boxes, state, labels)
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
            different = [k for k in wanted if found.get(k) != wanted[k]]
            raise DataError(
                f"{root} holds another synthetic data set: " + ", ".join(f"{k}={found.get(k)!r}" for k in different),
                ", ".join(f"{k}={wanted[k]!r}" for k in different),
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
    """Write the whole data set; scenes that are already there are kept.

    Args:
        root: output folder. config: what to make. workers: processes.
        progress: called with (scenes done, scenes in all, frames written now) after every scene.

    Returns:
        Frames written in this call.
    """
    claim(root, config)
    todo = [(str(root), config, i) for i in range(config.scenes) if not part_path(root, config, i).exists()]
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
    """Statistics of all finished scenes together."""
    merged = SceneStatistics()
    for i in range(config.scenes):
        merged.merge(json.loads(part_path(root, config, i).read_text())["statistics"])
    return merged


__all__ = ["DatasetConfig", "claim", "identity", "label_bytes", "make_dataset", "statistics_of", "write_scene"]
