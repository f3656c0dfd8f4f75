"""Roll recorded scenes forward inside a world, one folder of results for each."""

from __future__ import annotations

import time
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.checkpoints.checkpoint import bundled_path
from world_model.core.errors import OptionError
from world_model.core.files import check_writable
from world_model.core.geometry import planar_motions, planar_steps
from world_model.data.clips import Clips, load_clips
from world_model.data.demo import demo_root
from world_model.data.index import COMMANDS, SceneIndex
from world_model.generation.drive import drive
from world_model.generation.options import Generate
from world_model.generation.output import GeneratedDrive, contents, is_finished, write_drive
from world_model.generation.trajectories import edited, read_trajectory, sample_motions
from world_model.worlds.build import build_world
from world_model.worlds.kinds import WEIGHT_FILES
from world_model.worlds.protocol import World


def generate(options: Generate) -> list[Path]:
    """Roll the chosen scenes and save each; finished ones are skipped.

    Returns:
        The folder of every chosen scene.

    Raises:
        DataError: the index, a scene or its labels cannot be used.
        OptionError: an option does not fit.
        OutputError: a result cannot be written.
    """
    index = SceneIndex.load(options.index or demo_root())
    given = read_trajectory(options.trajectory) if options.trajectory is not None else None
    world: World | None = None
    check_writable(options.out)
    folders = []
    scenes = _chosen(index, options)
    for number, scene in enumerate(scenes, 1):
        name = str(index.scene_name[scene])
        folder = options.out / f"{name}_{options.frame:03d}_{_way(options, given)}"
        folders.append(folder)
        asked = decisive(options, index, name, given)
        print(f"[{number}/{len(scenes)}] {name}, frame {options.frame}, control: {options.title}", flush=True)
        if not options.overwrite and is_finished(folder, asked, options):
            print(f"  already there: {folder} (--overwrite does it again)")
            continue
        if world is None:
            world = build_world(options.world_name, checkpoint=options.checkpoint, device=options.device)
        write_drive(folder, _drive_scene(world, index, scene, given, options, asked))
        print(f"  wrote {folder}", flush=True)
    print(f"\nresults: {options.out.resolve()}\n  in each folder: {', '.join(contents(options))}")
    return folders


def _chosen(index: SceneIndex, options: Generate) -> list[int]:
    """Numbers of the scenes."""
    scenes = index.scenes(options.split)
    if options.scene in (("all",), ()):
        return scenes if options.scene else scenes[:1]
    known = {str(index.scene_name[i]): i for i in scenes}
    for name in options.scene:
        if name not in known:
            some = ", ".join(list(known)[:8]) + (", ..." if len(known) > 8 else "")
            raise OptionError(
                f"no scene {name!r} in split {options.split!r}", f"one of: {some}", "choose another scene or split"
            )
    return [known[name] for name in options.scene]


def _way(options: Generate, given: NDArray[Any] | None) -> str:
    """The part of the folder's name that tells ways of driving apart."""
    way = options.steering
    if given is not None:  # two trajectories must not share a folder
        way += f"_{zlib.crc32(given.tobytes()):08x}"
    if options.steering == "sampled":
        way += f"{options.seed}"
    return f"{way}_{options.edit.name}" if options.edit.changes else way


def decisive(options: Generate, index: SceneIndex, scene: str, given: NDArray[Any] | None = None) -> dict[str, object]:
    """What decides the result; a finished folder with the same answers need not be done again."""
    return {
        "scene": scene,
        "frame": options.frame,
        "control": options.steering,
        "trajectory": options.trajectory,
        "trajectory_crc": None if given is None else f"{zlib.crc32(given.tobytes()):08x}",  # its file may change
        "seed": options.seed if options.steering == "sampled" else None,
        "edit": asdict(options.edit) if options.edit.changes else None,
        "steps": options.steps,
        "world": options.world_name,
        "checkpoint": str(options.checkpoint) if options.checkpoint else "bundled",
        "weights": _weights(options),
        "data_source": index.source,
        "data_fingerprint": index.fingerprint,
        "data_labels": index.labels_digest,
    }


def _weights(options: Generate) -> str | None:
    """Short checksum of the model files: weights trained anew under the same path are another model."""
    names = WEIGHT_FILES.get(options.world_name, ())
    paths = [(options.checkpoint or bundled_path(name)) / name for name in names]
    files = [path for path in paths if path.exists()]
    return f"{zlib.crc32(b''.join(file.read_bytes() for file in files)):08x}" if files else None


def _drive_scene(
    world: World,
    index: SceneIndex,
    scene: int,
    given: NDArray[Any] | None,
    options: Generate,
    asked: dict[str, object],
) -> GeneratedDrive:
    frames = index.frames(scene)
    if not 0 <= options.frame < len(frames):
        raise OptionError(
            f"--frame {options.frame} of {index.scene_name[scene]}", f"0..{len(frames) - 1}", "choose another frame"
        )
    steps = _steps(options, len(frames) - 1 - options.frame, given)
    current = frames[options.frame]
    clips = load_clips(index, [current], future=steps, with_future_labels=True, grid=world.grid)
    motions = _motions(options, clips, index.ego_to_global[current : frames.stop], given, steps)
    begin = time.perf_counter()

    def progress(done: int) -> None:
        rate = done / (time.perf_counter() - begin)
        print(f"\r  step {done}/{steps}, {rate:.1f} steps/s", end="\n" if done == steps else "", flush=True)

    command = options.steering if options.steering in COMMANDS else None
    rollout = drive(world, clips, steps, motions=motions, command=command, progress=progress)
    same_way = command is None and motions is None
    return GeneratedDrive(
        options=options, rollout=rollout, clips=clips, grid=world.grid, asked=asked, same_way=same_way
    )


def _steps(options: Generate, recorded: int, given: NDArray[Any] | None) -> int:
    """How far this drive goes, with ``recorded`` steps left of the log."""
    limit = options.steps
    if not options.edit.changes:
        limit = {"logged": recorded, "fine": 0 if given is None else len(given)}.get(options.steering, options.steps)
    steps = min(options.steps, limit)
    if steps < 1 or (options.steering == "logged" and recorded < 1):
        raise OptionError(
            f"frame {options.frame} is the last of the scene", "recorded frames after it", "choose an earlier frame"
        )
    if steps < options.steps:
        print(f"  {steps} steps instead of {options.steps}: the {options.steering} motion ends there")
    return steps


def _motions(
    options: Generate, clips: Clips, recorded: NDArray[Any], given: NDArray[Any] | None, steps: int
) -> NDArray[Any] | None:
    """Motions to drive (H, 3) or (H, 4, 4); None where the log or the model decides."""
    if options.steering == "sampled":
        rng = np.random.default_rng([options.seed, clips.frame[0]])
        speed, _, yaw_rate = clips.motion[0, clips.past].tolist()
        given = sample_motions(rng, steps, speed, yaw_rate)
    if not options.edit.changes:
        return given
    if given is None:
        # All that is left of the log: a faster drive gets farther than the log does in the same time.
        given = planar_motions(recorded)
    elif given.ndim == 3:
        given = planar_steps(given)
    return edited(given, options.edit, steps)
