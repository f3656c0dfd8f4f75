"""What to evaluate: a checkpoint, the data, the rows of the table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from world_model.core.errors import OptionError
from world_model.evaluation.result import steps_of
from world_model.worlds.kinds import II_WORLD, LEARNED, WITH_MOTION, resolve_world
from world_model.worlds.traffic import DEFAULT_TRAFFIC, DRAWN, VOXELS, TrafficConfig


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score a checkpoint on a split: reconstruction (labels -> tokens -> labels), and forecasting (4 past keyframes and
    the current one in; 1, 2, 3 s ahead out) beside copy-paste, ego warp and ego warp + constant-velocity boxes.

    Without options: the bundled checkpoint on the bundled synthetic demo scenes. A run that was killed goes on where it
    stopped. For a quick look on a CPU use --stride, --max-scenes or --max-windows. On several GPUs or machines:
    torchrun --nproc-per-node N -m world_model.evaluate. Neither --batch nor the number of processes changes the sums.
    """

    index: Path | None = None
    """Index file from `python -m world_model.prepare`, or its folder. If not given: the bundled demo scenes."""
    checkpoint: Path | None = None
    """Folder with the models of the worlds that are scored. If not given: the bundled nano checkpoint."""
    out: Path = Path("runs/evaluation")
    """Folder for results.md, results.json, the plots, and partial results."""
    split: str = "val"
    """Scenes to score: val (held out), train, or all."""
    what: tuple[Literal["reconstruction", "forecasting"], ...] = ("reconstruction", "forecasting")
    """What to measure."""
    models: Literal["both", "tokenizer", "none"] = "both"
    """What is taken from the checkpoint: with `both` its learned world and its tokenizer, where it has one; with
    `tokenizer` the tokenizer alone; with `none` only baselines and worlds that are named explicitly are scored."""
    world: tuple[str, ...] = ("learned",)
    """Whose forecasts to score: learned (what the checkpoint holds), geometric, ii-world, occworld
    (or a mode: occworld-faithful, occworld-rewarp, occworld-conditioned), transport, replay,
    'package.module:Class'; one or more."""
    traffic: tuple[str, ...] = (DEFAULT_TRAFFIC,)
    """How others move in the geometric world: constant-velocity, rigid, log-like; a row for each."""
    agents: str = VOXELS
    """Where the geometric world knows others from: voxels, or the boxes of the data set."""
    regimes: tuple[Literal["gt-ego", "pred-ego", "action"], ...] = ("gt-ego", "pred-ego")
    """Ego poses of the forecasts: the true ones, the model's own, or those of actions that follow the log."""
    action_mode: Literal["kinematic", "delta"] = "kinematic"
    """Which actions of the environment the regime `action` takes."""
    horizons_s: tuple[float, ...] = (1.0, 2.0, 3.0)
    """Forecast horizons in seconds. The long table is 1 2 3 4 5 6 (its windows need 12 future frames)."""
    mask: Literal["none", "camera", "lidar"] = "none"
    """What part of a frame is scored: all of it, or only what its cameras or its LiDAR have seen (`mask_camera`,
    `mask_lidar` of the label files). Published scores of perception networks are inside the camera mask."""
    faithful: bool = False
    """Round as the original does: each horizon to two decimals before the mean over the horizons."""
    stride: int = 1
    """Score every K-th window."""
    max_windows: int | None = None
    """Score at most this many windows, evenly spread over the split."""
    max_scenes: int | None = None
    """Score at most this many scenes, evenly spread over the split."""
    batch: int = 8
    """Windows that are forecast at once; a matter of speed and memory, not of results."""
    workers: int | None = None
    """Processes on this machine. If not given: on a CPU one per core (at most 8), else 1; 1 when called from Python."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda (spread over all GPUs), cuda:1, ..."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the models."""
    resume: bool = True
    """Use partial results of an earlier run with the same data, models and settings."""

    def __post_init__(self) -> None:
        steps_of(self.horizons_s)
        for traffic in self.traffic:
            TrafficConfig(traffic=traffic, agents=self.agents)
            if traffic in DRAWN:
                raise OptionError(f"traffic={traffic!r}", "traffic without a seed", "score log-like instead")
        for name in ("stride", "batch", "max_windows", "max_scenes", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name}={value}", "a number >= 1", f"leave --{name.replace('_', '-')} out")
        if not self.what or (self.models == "none" and self.what == ("reconstruction",)):
            raise OptionError(
                f"what={self.what} with models={self.models}", "something to measure", "see --help for --what, --models"
            )
        for name in ("what", "world", "regimes", "traffic"):
            value = getattr(self, name)
            if len({v.rpartition(":")[2] for v in value}) != len(value):
                raise OptionError(f"{name}={value}", "different names", "name each of them once")
        if II_WORLD in self.world and self.models != "both":
            raise OptionError(
                f"models={self.models!r} with world={II_WORLD!r}", "both of its models", "leave --models out"
            )
        self._check_regimes(name for name in self.world if name != LEARNED)

    @property
    def worlds(self) -> tuple[str, ...]:
        """The names of the worlds to score, without "learned".

        Raises:
            CheckpointError: "learned", but the checkpoint holds no learned world.
            OptionError: a world twice, or worlds and regimes that do not go together.
        """
        asked = [world for world in self.world if world != LEARNED or self.models == "both"]
        names = tuple(resolve_world(world, self.checkpoint) for world in asked)
        if len(set(names)) != len(names):
            raise OptionError(
                f"world={self.world}, which are {names}",
                "different worlds",
                "name each of them once, without 'learned'",
            )
        self._check_regimes(names)
        return names

    def _check_regimes(self, worlds: Iterable[str]) -> None:
        others = [name for name in worlds if name not in WITH_MOTION]
        if others and not set(self.regimes) - {"pred-ego"}:
            raise OptionError(
                f"regimes={self.regimes} for {others}, which have no motion of their own",
                "the regime gt-ego or action",
                "add --regimes gt-ego, or score ii-world alone",
            )
