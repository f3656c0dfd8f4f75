"""Collisions that do not happen: the same actions in a world and in the simulator.

A planner drives each start in the simulator. Its actions are repeated in the other world, so that the ego vehicle is at
the same places at the same times. A collision there without one in the simulator is false; the other way round it was
missed.

    python benchmarks/false_collisions.py --index data/synthetic --worlds transport geometric
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

from agents.planners.build import build_planner
from agents.starts import HORIZONS, starts_of
from ii_world_env.engine import CAUSES, Engine, EngineConfig, State
from ii_world_env.scenes import Scenes, Start, open_scenes
from world_model.core.table import Table
from world_model.worlds import build_world

COLLISION = CAUSES.index("collision")


@dataclass(frozen=True, kw_only=True)
class Args:
    """Count false and missed collisions."""

    index: Path
    """Prepared synthetic data set."""
    split: str = "tune"
    """Its scenes."""
    scenes: int | None = None
    """At most so many of them."""
    per_scene: int = 1
    """Starts in each."""
    starts: str = "regular"
    """regular, long or interactive."""
    planners: tuple[str, ...] = ("idm+comfort", "log_replay")
    """Whose drives."""
    worlds: tuple[str, ...] = ("transport", "agents.foreseen:Foreseen", "geometric")
    """Where they are repeated. NAME@TRAFFIC chooses how others move in the geometric world."""
    batch: int = 8
    """Drives side by side."""
    verbose: bool = False
    """Also name each collision that only one of both has."""


def engine_of(world: str, horizon: int) -> Engine:
    name, _, traffic = world.partition("@")
    built = build_world(name, device="cpu", traffic=traffic) if traffic else build_world(name, device="cpu")
    return Engine(built, EngineConfig(horizon=horizon), needs_occupancy=True)


def driven(engine: Engine, scenes: Scenes, starts: list[Start], planner: str) -> tuple[Tensor, Tensor]:
    """Actions (B, H, A) of a planner, and the step (B,) of its collision; H where it has none."""
    state = begin(engine, scenes, starts)
    driver, actions, at = build_planner(planner, engine, scenes), [], collisions(engine, state)
    driver.reset(state)
    for step in range(engine.config.horizon):
        actions.append(driver.act(state))
        state, _ = engine.step(state, actions[-1])
        note(at, state, step)
    return torch.stack(actions, 1), at


def repeated(engine: Engine, scenes: Scenes, starts: list[Start], actions: Tensor) -> Tensor:
    """The step (B,) of the collision of the same actions in another world; H where there is none."""
    state = begin(engine, scenes, starts)
    at = collisions(engine, state)
    for step in range(engine.config.horizon):
        state, _ = engine.step(state, actions[:, step])
        note(at, state, step)
    return at


def begin(engine: Engine, scenes: Scenes, starts: list[Start]) -> State:
    world = engine.world
    return engine.reset(scenes.load(starts, engine.frames_ahead, world.needs_future_labels, world.grid))


def collisions(engine: Engine, state: State) -> Tensor:
    return torch.full_like(state.cause, engine.config.horizon)


def note(at: Tensor, state: State, step: int) -> None:
    """Keep the step of a collision; the first cause of an end stays."""
    at[(state.cause == COLLISION) & (at > step)] = step


def main(args: Args) -> None:
    torch.set_num_threads(1)
    horizon = HORIZONS[args.starts]
    scenes = open_scenes(index=args.index, split=args.split, horizon=horizon)
    starts = starts_of(args.starts, scenes, args.per_scene, args.scenes)
    rows = []
    truth, worlds = engine_of("simulated", horizon), {name: engine_of(name, horizon) for name in args.worlds}
    for planner in args.planners:
        found: dict[str, list[Tensor]] = {name: [] for name in ("simulated", *worlds)}
        for first in range(0, len(starts), args.batch):
            some = starts[first : first + args.batch]
            actions, at = driven(truth, scenes, some, planner)
            found["simulated"].append(at)
            for name, engine in worlds.items():
                found[name].append(repeated(engine, scenes, some, actions))
        true = torch.cat(found["simulated"]) < horizon
        for name, parts in found.items():
            at = torch.cat(parts)
            here = at < horizon
            false, missed = here & ~true, true & ~here
            counts = () if name == "simulated" else (false, missed)
            rows.append([planner, name, str(len(at)), *(str(int(k.sum())) for k in (here, *counts))])
            for row in (false | missed).nonzero()[:, 0].tolist() if args.verbose else ():
                scene = scenes.name(starts[row].scene)
                print(f"  {planner}, {name}: {scene} from frame {starts[row].frame}, step {int(at[row]) + 1}")
    print(Table(["planner", "world", "starts", "collisions", "false", "missed"], rows).markdown())


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
