"""How fast synthetic scenes are made: milliseconds a frame by stage, and frames a second of one core.

The cost of towns and scene starts is shared by the frames of their scenes, as in ``make_synthetic``. Stages are timed
by the processor time of this process, so that other processes disturb less; still, compare shares, not runs.

    python benchmarks/simulator.py
    python benchmarks/simulator.py --scenes 20 --frames 40
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeVar

import tyro

from world_model.simulator import Simulator
from world_model.simulator.dataset.export import annotate
from world_model.simulator.dataset.packing import npz_bytes
from world_model.simulator.dataset.statistics import SceneStatistics
from world_model.simulator.dataset.tables import SceneTables
from world_model.simulator.simulator import SimulatorConfig
from world_model.simulator.town.town import build_town

T = TypeVar("T")
P = ParamSpec("P")
FRAME_US = 500_000


@dataclass(frozen=True, kw_only=True)
class Args:
    """Make scenes without writing them and print what each stage costs."""

    scenes: int = 5
    """Scenes of one town, as ``make_synthetic`` lays them out."""
    frames: int = 40
    """Keyframes of a scene."""
    seed: int = 7
    """Of the data set."""
    terrain: Literal["flat", "hills"] = "flat"
    """The ground of the town."""


def timed(seconds: dict[str, float], stage: str, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Run a piece of work and add its processor time to a stage."""
    start = time.process_time()
    result = work(*args, **options)
    seconds[stage] = seconds.get(stage, 0.0) + time.process_time() - start
    return result


def make_scene(seconds: dict[str, float], simulator: Simulator, args: Args, number: int) -> int:
    """One scene; returns the bytes of its labels."""
    timed(seconds, "town", build_town, args.seed, 0, args.terrain)
    state = timed(seconds, "reset", simulator.reset, args.seed, number, 0)
    tables, statistics, size = SceneTables(args.seed, f"scene-{number}", 0), SceneStatistics(), 0
    for k in range(args.frames):
        state = timed(seconds, "step", simulator.step, state)
        labels = timed(seconds, "labels", simulator.labels, state)
        size += len(timed(seconds, "compress", npz_bytes, vars(labels)))
        boxes, pose = simulator.boxes(state), simulator.ego_pose(state)
        ground_m = simulator.ground_m(state, state.motion.xy[boxes["instance"]])
        sample = tables.add_frame(k * FRAME_US, (state.ego.x, state.ego.y, 0.0), state.ego.yaw)
        timed(seconds, "tables", annotate, tables, sample, boxes, state, labels, ground_m)
        timed(seconds, "statistics", statistics.add, labels, boxes, pose, k * FRAME_US)
    return size


def main(args: Args) -> None:
    """Print the table."""
    simulator = Simulator(SimulatorConfig(terrain=args.terrain))
    seconds: dict[str, float] = {}
    make_scene({}, simulator, Args(scenes=1, frames=2, seed=args.seed + 1, terrain=args.terrain), 0)  # fills the caches
    size = sum(make_scene(seconds, simulator, args, number) for number in range(args.scenes))
    frames, total, slowest = args.scenes * args.frames, sum(seconds.values()), max(seconds.values())
    print(f"{frames} frames in one town, {platform.processor() or platform.machine()}, one core")
    print("stage        ms a frame   of the slowest")
    for stage, spent in seconds.items():
        print(f"{stage:11s} {1e3 * spent / frames:11.2f} {spent / slowest:16.2f}")
    print(f"all         {1e3 * total / frames:11.2f}")
    drawn, kilobytes = seconds["step"] + seconds["labels"], size / frames / 1e3
    print(f"{frames / total:.0f} frames/s a core, {frames / drawn:.0f} without writing; {kilobytes:.0f} kB each")


if __name__ == "__main__":
    main(tyro.cli(Args, prog="python benchmarks/simulator.py", description=__doc__))
