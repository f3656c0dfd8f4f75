"""What to generate: which scenes, in which world, along which way, and what to write."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from world_model.core.errors import OptionError
from world_model.data.index import COMMANDS
from world_model.generation.trajectories import Edit
from world_model.worlds.kinds import II_WORLD, LEARNED, resolve_world


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
    control right, left or straight always ii-world, the only one with a motion model. Or geometric, ii-world, occworld,
    occsora (drawn anew for the drive, at most 31 steps), transport (the current occupancy moved by the ego motion),
    replay (the log seen from the new pose), package.module:Class."""
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
    """gif, mp4 (needs the extra `video`; else a GIF is written) or none."""
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
        """The control, with the default filled in."""
        return self.control or ("fine" if self.trajectory is not None else "logged")

    @property
    def title(self) -> str:
        """How a scene is driven, in words."""
        edit = self.edit.name.replace("_", ", ")
        return f"{self.steering}, edited ({edit})" if edit else self.steering

    @property
    def world_name(self) -> str:
        """The name of the world: only one of the learned worlds can choose the motion itself."""
        if self.world == LEARNED and self.steering in COMMANDS:
            return II_WORLD
        return resolve_world(self.world, self.checkpoint)
