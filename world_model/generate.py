"""Roll a scene forward inside a world and save what it saw: arrays, strips, a film."""

from __future__ import annotations

import sys
import time
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from world_model.checkpoints.checkpoint import bundled_path
from world_model.core.errors import IIWorldError, OptionError
from world_model.data.clips import Clips, load_clips
from world_model.data.index import COMMANDS, SceneIndex
from world_model.generation.output import (
    ABOVE,
    ARRAYS,
    FILM,
    MOTION,
    SUMMARY,
    VOXELS,
    Drive,
    Wanted,
    is_finished,
    write_drive,
)
from world_model.generation.trajectories import (
    Edit,
    edited,
    planar_motions,
    planar_steps,
    read_trajectory,
    sample_motions,
)
from world_model.rollouts.rollout import roll
from world_model.worlds.build import build_world
from world_model.worlds.kinds import II_WORLD, LEARNED, WEIGHT_FILES, resolve_world
from world_model.worlds.protocol import World

FILES = (ARRAYS, ABOVE, VOXELS, MOTION, f"{FILM}.gif")


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Roll recorded scenes forward inside a world and save arrays and pictures.

    Try:
      python -m world_model.generate
      python -m world_model.generate --control left --steps 12
      python -m world_model.generate --trajectory "4,0,0; 4,0.2,0.1; 3,0.4,0.2"
      python -m world_model.generate --trajectory my_drive.npz --film mp4
      python -m world_model.generate --control sampled --seed 3 --steps 40
      python -m world_model.generate --edit.speed 1.5 --edit.shift-m 2
      python -m world_model.generate --edit.stop-s 3 --world transport
      python -m world_model.generate --index data/synthetic --split val --scene all --out outputs/val
    """

    index: Path | None = None
    """Index file, or the data folder that holds it. If not given: the bundled demo scenes."""
    checkpoint: Path | None = None
    """Folder of a trained model. If not given: the bundled checkpoint."""
    world: str = "learned"
    """learned: what the checkpoint holds, the geometric world before ii-world (tokenizer and token forecaster); for the
    control right, left or straight always ii-world, the only one with a motion model. Or geometric, ii-world, transport
    (the current occupancy moved by the ego motion), replay (the log seen from the new pose), package.module:Class."""
    split: str = "all"
    """Where to look for scenes: train, val or all."""
    scene: tuple[str, ...] = ()
    """Names of the scenes, or the word all. If not given: the first of the split."""
    frame: int = 4
    """Frame of the scene to start from; up to four frames before it are observed."""
    control: Literal["logged", "right", "left", "straight", "fine", "sampled"] | None = None
    """logged: the recorded poses. right, left, straight: the motion of ii-world's own model under that command. fine:
    the motion in --trajectory. sampled: a drive drawn from the statistics of real driving. If not given: fine with a
    trajectory, else logged."""
    trajectory: str | None = None
    """Ego motion per step of 0.5 s: a CSV file with rows dx,dy,dyaw, or "dx,dy,dyaw; dx,dy,dyaw; ..." itself (metres
    and radians in the ego frame before the step: x forward, y left, yaw to the left), or a JSON or npz file with
    motions, transforms or poses, such as another forecast.npz (docs/howto/generation.md)."""
    seed: int = 0
    """Of sampled drives; each scene and frame has its own."""
    edit: Edit = field(default_factory=Edit)
    """Changes to the logged, given or sampled drive."""
    steps: int = 16
    """Steps of 0.5 s to roll, any number; logged and fine control end with the log or the trajectory unless edited: an
    edited drive goes straight on."""
    film: Literal["gif", "mp4", "none"] = "gif"
    """gif, mp4 (needs ffmpeg or the package imageio-ffmpeg; else a GIF is written) or none."""
    pictures: bool = True
    """Draw the strips; without them and with --film none only arrays are written."""
    labels: bool = False
    """Also write every forecast frame as an Occ3D labels.npz."""
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
        if self.edit.changes and self.control in COMMANDS:
            found = f"--control {self.control} with an edit"
            raise OptionError(found, "an edit of a logged, given or sampled drive", "leave one of them out")
        if self.trajectory is None and self.control == "fine":
            raise OptionError(
                "--control fine without --trajectory", "the motion of each step", 'add --trajectory "4,0,0; 4,0,0.1"'
            )

    @property
    def steering(self) -> str:
        """The control that is meant, with the default filled in."""
        return self.control or ("fine" if self.trajectory is not None else "logged")

    @property
    def world_name(self) -> str:
        """The world that is meant: only one of the learned worlds can choose the motion itself."""
        if self.world == LEARNED and self.steering in COMMANDS:
            return II_WORLD
        return resolve_world(self.world, self.checkpoint)

    @property
    def wanted(self) -> Wanted:
        """The files to write."""
        return Wanted(pictures=self.pictures, film=self.film, labels=self.labels)


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
    given = read_trajectory(options.trajectory) if options.trajectory is not None else None
    world: World | None = None
    folders = []
    scenes = _chosen(index, options)
    for number, scene in enumerate(scenes, 1):
        name = str(index.scene_name[scene])
        folder = options.out / f"{name}_{options.frame:03d}_{_way(options, given)}"
        folders.append(folder)
        asked = _asked(options, index, name, given)
        print(f"[{number}/{len(scenes)}] {name}, frame {options.frame}, control: {_control(options)}", flush=True)
        if not options.overwrite and is_finished(folder, asked, options.wanted):
            print(f"  already there: {folder} (--overwrite does it again)")
            continue
        if world is None:
            world = build_world(options.world_name, checkpoint=options.checkpoint, device=options.device)
        _one_scene(world, index, scene, given, options, folder, asked)
    print(f"\nresults: {options.out.resolve()}\n  in each folder: {_contents(options)}")
    return folders


def _contents(options: Generate) -> str:
    pictures = (ABOVE, VOXELS, MOTION) if options.pictures else ()
    film = () if options.film == "none" else (f"{FILM}.{options.film}" + " (or .gif)" * (options.film == "mp4"),)
    return ", ".join((ARRAYS, *pictures, *film, *(("labels/",) if options.labels else ()), SUMMARY))


def _control(options: Generate) -> str:
    """How the scene is driven, for titles."""
    edit = options.edit.name.replace("_", ", ")
    return f"{options.steering}, edited ({edit})" if edit else options.steering


def _way(options: Generate, given: NDArray[Any] | None) -> str:
    """The part of the folder's name that tells ways of driving apart."""
    way = options.steering
    if given is not None:  # two trajectories must not share a folder
        way += f"_{zlib.crc32(given.tobytes()):08x}"
    if options.steering == "sampled":
        way += f"{options.seed}"
    return f"{way}_{options.edit.name}" if options.edit.changes else way


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


def _asked(options: Generate, index: SceneIndex, scene: str, given: NDArray[Any] | None = None) -> dict[str, object]:
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
    }


def _weights(options: Generate) -> str | None:
    """Short checksum of the model files: weights trained anew under the same path are another model."""
    folder = options.checkpoint or bundled_path()
    files = [folder / name for name in WEIGHT_FILES.get(options.world_name, ()) if (folder / name).exists()]
    return f"{zlib.crc32(b''.join(file.read_bytes() for file in files)):08x}" if files else None


def _one_scene(
    world: World,
    index: SceneIndex,
    scene: int,
    given: NDArray[Any] | None,
    options: Generate,
    folder: Path,
    asked: dict[str, object],
) -> None:
    frames = index.frames(scene)
    if not 0 <= options.frame < len(frames):
        raise OptionError(
            f"--frame {options.frame} of {index.scene_name[scene]}", f"0..{len(frames) - 1}", "choose another frame"
        )
    ahead = len(frames) - 1 - options.frame
    steps = _steps(options, ahead, given)
    clips = load_clips(index, [frames[options.frame]], future=steps, with_future_labels=True, grid=world.grid)
    recorded = index.ego_to_global[frames[options.frame] : frames.stop]
    motions = _motions(options, clips, recorded, given, steps)
    begin = time.perf_counter()

    def progress(done: int) -> None:
        rate = done / (time.perf_counter() - begin)
        print(f"\r  step {done}/{steps}, {rate:.1f} steps/s", end="\n" if done == steps else "", flush=True)

    steering = "fine" if motions is not None else options.steering
    drive = Drive(
        rollout=roll(world, clips, steering, motions, steps, progress),
        clips=clips,
        index=index,
        world=options.world_name,
        control=_control(options),
        grid=world.grid,
        asked=asked,
        same_way=steering == "logged",
    )
    write_drive(folder, drive, options.wanted)
    print(f"  wrote {folder}", flush=True)


def _steps(options: Generate, ahead: int, given: NDArray[Any] | None) -> int:
    """How far this drive goes."""
    limit = options.steps
    if not options.edit.changes:
        limit = {"logged": ahead, "fine": 0 if given is None else len(given)}.get(options.steering, options.steps)
    steps = min(options.steps, limit)
    if steps < 1 or (options.steering == "logged" and ahead < 1):
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


def main() -> None:
    """Command line."""
    try:
        generate(tyro.cli(Generate, prog="python -m world_model.generate"))
    except IIWorldError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
