"""Roll a scene forward with the learned world and save what it saw: arrays, strips, a film."""

from __future__ import annotations

import json
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from world_model.checkpoint import bundled_path
from world_model.data.clips import Clips, load_clips
from world_model.data.index import SceneIndex
from world_model.errors import IIWorldError, OptionError
from world_model.files import write_json, write_npz
from world_model.grid import STEP_S
from world_model.pictures.drive import drive_film, drive_strip
from world_model.pictures.video import write_gif, write_png
from world_model.rollout import Rollout, parse_trajectory, roll
from world_model.worlds.build import build_world
from world_model.worlds.protocol import World

FILES = ("forecast.npz", "birds_eye.png", "voxels.png", "drive.gif")


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Roll recorded scenes forward inside a world and save arrays and pictures.

    Examples:
      python -m world_model.generate
      python -m world_model.generate --control left --steps 12
      python -m world_model.generate --trajectory "4,0,0; 4,0.2,0.1; 3,0.4,0.2"
      python -m world_model.generate --index data/synthetic --split val --scene all --out outputs/val
    """

    index: Path | None = None
    """Index file, or the data folder that holds it. If not given: the bundled demo scenes."""
    checkpoint: Path | None = None
    """Folder with tokenizer.safetensors and forecaster.safetensors. If not given: the bundled checkpoint."""
    world: str = "learned"
    """learned, transport (the current occupancy moved by the ego motion) or replay (the log seen from the new pose)."""
    split: str = "all"
    """Where to look for scenes: train, val or all."""
    scene: tuple[str, ...] = ()
    """Names of the scenes, or the word all. If not given: the first of the split."""
    frame: int = 4
    """Frame of the scene to start from; up to four frames before it are observed."""
    control: Literal["logged", "right", "left", "straight", "fine"] | None = None
    """logged: the recorded poses. right, left, straight: the model's own motion under that command. fine: the motion in
    --trajectory. If not given: fine with a trajectory, else logged."""
    trajectory: str | None = None
    """Ego motion per step of 0.5 s: a CSV file with rows dx,dy,dyaw, or "dx,dy,dyaw; dx,dy,dyaw; ..." itself. Metres
    and radians in the ego frame before the step: x forward, y left, yaw to the left."""
    steps: int = 16
    """Steps of 0.5 s to roll; ends earlier where the log or the trajectory ends."""
    out: Path = Path("outputs/generate")
    """Folder of the results; each scene gets its own folder in it."""
    overwrite: bool = False
    """Do scenes again that are already finished there."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise OptionError(f"--steps {self.steps}", "at least 1", "ask for one step or more")
        if self.trajectory is not None and self.control not in (None, "fine"):
            raise OptionError(
                f"--control {self.control} together with --trajectory", "one of the two", "leave one of them out"
            )
        if self.trajectory is None and self.control == "fine":
            raise OptionError(
                "--control fine without --trajectory", "the motion of each step", 'add --trajectory "4,0,0; 4,0,0.1"'
            )

    @property
    def steering(self) -> str:
        """The control that is meant, with the default filled in."""
        return self.control or ("fine" if self.trajectory is not None else "logged")


def generate(options: Generate) -> list[Path]:
    """Roll the chosen scenes and save each; finished ones are skipped.

    Returns:
        The folder of every chosen scene.

    Raises:
        DataError: the index, a scene or its labels cannot be used.
        OptionError: an option does not fit.
        OutputError: a result cannot be written.
    """
    index = SceneIndex.load(_demo() if options.index is None else options.index)
    motions = parse_trajectory(options.trajectory) if options.trajectory is not None else None
    world: World | None = None
    folders = []
    scenes = _chosen(index, options)
    for number, scene in enumerate(scenes, 1):
        name = str(index.scene_name[scene])
        steering = options.steering
        if motions is not None:  # two trajectories must not share a folder
            steering += f"_{zlib.crc32(motions.tobytes()):08x}"
        folder = options.out / f"{name}_{options.frame:03d}_{steering}"
        folders.append(folder)
        asked = _asked(options, index, name)
        print(f"[{number}/{len(scenes)}] {name}, frame {options.frame}, {options.steering} control", flush=True)
        if not options.overwrite and _finished(folder, asked):
            print(f"  already there: {folder} (--overwrite does it again)")
            continue
        if world is None:
            world = build_world(options.world, checkpoint=options.checkpoint, device=options.device)
        _one_scene(world, index, scene, motions, options, folder, asked)
    print(f"\nresults: {options.out.resolve()}\n  in each folder: {', '.join((*FILES, 'summary.json'))}")
    return folders


def _demo() -> Path:
    from world_model.data.demo import demo_root

    return demo_root()


def _chosen(index: SceneIndex, options: Generate) -> list[int]:
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


def _asked(options: Generate, index: SceneIndex, scene: str) -> dict[str, str | int | None]:
    """What decides the result; a finished folder with the same answers need not be done again."""
    return {
        "scene": scene,
        "frame": options.frame,
        "control": options.steering,
        "trajectory": options.trajectory,
        "steps": options.steps,
        "world": options.world,
        "checkpoint": str(options.checkpoint) if options.checkpoint else "bundled",
        "weights": _weights(options),
        "data_source": index.source,
        "data_fingerprint": index.fingerprint,
    }


def _weights(options: Generate) -> str | None:
    """Short checksum of the model files: weights trained anew under the same path are another model."""
    if options.world != "learned":
        return None
    folder = options.checkpoint or bundled_path()
    files = sorted(folder.glob("*.safetensors"))
    return f"{zlib.crc32(b''.join(file.read_bytes() for file in files)):08x}" if files else None


def _finished(folder: Path, asked: dict[str, str | int | None]) -> bool:
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        return False
    return summary.get("asked") == asked and all((folder / name).exists() for name in FILES)


def _one_scene(
    world: World,
    index: SceneIndex,
    scene: int,
    motions: np.ndarray | None,
    options: Generate,
    folder: Path,
    asked: dict[str, str | int | None],
) -> None:
    frames = index.frames(scene)
    if not 0 <= options.frame < len(frames):
        raise OptionError(
            f"--frame {options.frame} of {index.scene_name[scene]}", f"0..{len(frames) - 1}", "choose another frame"
        )
    ahead = len(frames) - 1 - options.frame
    limit = {"logged": ahead, "fine": len(motions) if motions is not None else 0}.get(options.steering, options.steps)
    steps = min(options.steps, limit)
    if steps < 1:
        raise OptionError(
            f"frame {options.frame} is the last of the scene", "recorded frames after it", "choose an earlier frame"
        )
    if steps < options.steps:
        print(f"  {steps} steps instead of {options.steps}: the {options.steering} motion ends there")
    clips = load_clips(index, [frames[options.frame]], future=steps, with_future_labels=True, grid=world.grid)
    begin = time.perf_counter()

    def progress(done: int) -> None:
        rate = done / (time.perf_counter() - begin)
        print(f"\r  step {done}/{steps}, {rate:.1f} steps/s", end="\n" if done == steps else "", flush=True)

    rollout = roll(world, clips, options.steering, motions, steps, progress)
    _save(rollout, clips, world, options, folder, asked)
    print(f"  wrote {folder}", flush=True)


def _save(
    rollout: Rollout, clips: Clips, world: World, options: Generate, folder: Path, asked: dict[str, str | int | None]
) -> None:
    steps = len(rollout.occupancy)
    write_npz(
        folder / "forecast.npz",
        occupancy=rollout.occupancy,
        start=rollout.start,
        ego_to_global=rollout.ego_to_global,
        command=rollout.command,
        time_s=np.arange(1, steps + 1) * STEP_S,
        control=np.array(options.steering),
        meta=np.array(json.dumps(asked)),
    )
    film = [rollout.start, *rollout.occupancy]
    logged_poses = clips.ego_to_global[0, clips.past :].numpy()
    recorded = clips.future_occupancy
    assert recorded is not None
    real = [v.numpy() if ok else None for v, ok in zip(recorded[0], clips.valid[0, clips.past + 1 :], strict=True)]
    same_way = options.steering == "logged"
    rows: dict[str, Sequence[np.ndarray | None]] = {
        options.world: film,
        "recorded" if same_way else "recorded drive": [rollout.start, *real],
    }
    poses = {options.world: rollout.ego_to_global, list(rows)[1]: logged_poses}
    title = f"{asked['scene']} ({asked['data_source']}), {options.steering} control"
    for view, name in (("bev", FILES[1]), ("voxels", FILES[2])):
        picture = drive_strip(rows, poses, title=title, view=view, columns=6 if view == "bev" else 5, grid=world.grid)
        write_png(folder / name, picture)
    write_gif(folder / FILES[3], drive_film(film, rollout.ego_to_global, title=options.steering, grid=world.grid))
    moved = np.linalg.norm(np.diff(rollout.ego_to_global[:, :2, 3], axis=0), axis=1)
    end = np.linalg.inv(rollout.ego_to_global[0]) @ rollout.ego_to_global[-1]
    write_json(
        folder / "summary.json",
        {
            "asked": asked,
            "steps": steps,
            "seconds": steps * STEP_S,
            "distance_m": round(float(moved.sum()), 3),
            "end_x_m": round(float(end[0, 3]), 3),
            "end_y_m": round(float(end[1, 3]), 3),
            "end_yaw_rad": round(float(np.arctan2(end[1, 0], end[0, 0])), 4),
        },
    )


def main() -> None:
    """Command line."""
    try:
        generate(tyro.cli(Generate, prog="python -m world_model.generate"))
    except IIWorldError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
