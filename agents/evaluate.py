"""Compare planners over fixed held-out scenes: ``python -m agents.evaluate``."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from agents.episodes import Episode, drive, fixed_starts, markdown, summary
from agents.planners.build import SCRIPTED, build_planner, check_planner
from ii_world_env.engine import Engine, EngineConfig
from ii_world_env.faces.options import DriveOptions
from ii_world_env.scenes import Scenes, open_scenes, with_event
from ii_world_env.task.rewards import reward_function
from world_model.core.command import run
from world_model.core.files import check_writable, write_json, write_text
from world_model.worlds import build_world, resolve_world
from world_model.worlds.events import check_event
from world_model.worlds.provenance import provenance, weights_source
from world_model.worlds.traffic import DEFAULT_TRAFFIC, DRAWN


@dataclass(frozen=True, kw_only=True)
class Evaluate(DriveOptions):
    """Drive planners through fixed held-out scenes and print a table: mean and 95 % interval over the scenes.

    Try:
      python -m agents.evaluate
      python -m agents.evaluate --world transport --planners log_replay idm
      python -m agents.evaluate --planners idm ppo:outputs/ppo/model.zip --index data/synthetic --per-scene 4
    """

    planners: tuple[str, ...] = tuple(SCRIPTED)
    """Any of stand_still, constant_velocity, log_replay, idm; cem and mppi, which search (cem:WORLD in another world,
    cem@PRIOR around the plan of another planner than IDM); ppo, the bundled policy, or ppo:PATH for one that
    agents.train saved; package.module:Class. +comfort behind a name adds the limiter."""
    split: str = "val"
    """Which scenes: train (or its parts fit and tune), val, all, or another that the data set names."""
    scenes: int | None = None
    """Take only the first so many scenes of the split."""
    per_scene: int = 2
    """Episodes in each scene, started at evenly spread frames."""
    batch: int = 8
    """Episodes that run side by side."""
    event: str | None = None
    """Stage a named event at every start (python -m agents.scenarios lists them), in geometric or simulated."""
    seed: int = 0
    """Of the events' variants, and of drawn traffic."""
    traffic: str = DEFAULT_TRAFFIC
    """How others move in the geometric world: constant-velocity, rigid, replay, log-like, sampled, aggressive."""
    out: Path = Path("outputs/planners")
    """Folder for results.json and results.md."""

    def __post_init__(self) -> None:
        for name in self.planners:
            check_planner(name)
        if self.event is not None:
            check_event(self.event)
        self.check_counts("per_scene", "batch", "horizon")


def evaluate(options: Evaluate) -> dict[str, list[Episode]]:
    """Run all planners, print the table, write results.json and results.md.

    Returns:
        The episodes of every planner.
    """
    check_writable(options.out)
    world = build_world(options.world, checkpoint=options.checkpoint, device=options.device, traffic=options.traffic)
    config = EngineConfig(action=options.action, horizon=options.horizon)
    # Collisions belong into the table whatever the reward asks for, and planners read the occupancy.
    engine = Engine(world, config, reward_function(options.reward), needs_occupancy=True)
    scenes = open_scenes(index=options.index, split=options.split, horizon=options.horizon)
    starts = fixed_starts(scenes, options.per_scene, options.scenes)
    if options.event is not None:
        starts = with_event(starts, options.event, options.seed)
    elif options.traffic in DRAWN:
        starts = [replace(start, seed=options.seed) for start in starts]
    planners = [build_planner(name, engine, scenes) for name in options.planners]
    results: dict[str, list[Episode]] = {}
    for planner in planners:
        begin = time.perf_counter()

        def show(done: int, name: str = planner.name, begin: float = begin) -> None:
            ending = "\n" if done == len(starts) else ""
            print(
                f"\r  {name}: {done}/{len(starts)} episodes, {time.perf_counter() - begin:.1f} s",
                end=ending,
                flush=True,
            )

        results[planner.name] = drive(engine, scenes, planner, starts, options.batch, show)
    _report(results, options, scenes, len(starts))
    return results


def _report(results: dict[str, list[Episode]], options: Evaluate, scenes: Scenes, count: int) -> None:
    shown = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()}
    answers = resolve_world(options.world, options.checkpoint)
    trained_on = weights_source(options.world, options.checkpoint)
    staged = "" if options.event is None else f" with the event {options.event}"
    traffic = "" if options.traffic == DEFAULT_TRAFFIC else f", traffic: {options.traffic}"
    title = (
        f"{count} episodes of {options.horizon} steps{staged} in "
        f"{len({e.scene for r in results.values() for e in r})} scenes, "
        f"split {options.split}, {provenance([trained_on], scenes.source)} ({scenes.index.poses} poses), "
        f"world: {answers}{traffic}, action: {options.action}, reward: {options.reward}. "
        "Mean [95 % interval over scenes]."
    )
    table = f"{title}\n\n{markdown(results)}\n"
    print(f"\n{table}")
    write_json(
        options.out / "results.json",
        {
            "options": shown,
            "data_source": scenes.source,
            "weights_source": trained_on,
            "poses": scenes.index.poses,
            "torch": torch.__version__,
            "summary": {name: summary(episodes) for name, episodes in results.items()},
            "episodes": {name: [asdict(e) for e in episodes] for name, episodes in results.items()},
        },
    )
    write_text(options.out / "results.md", table)
    print(f"wrote {options.out / 'results.json'} and {options.out / 'results.md'}")


def main() -> None:
    """Command line."""
    run(Evaluate, evaluate, "python -m agents.evaluate")


if __name__ == "__main__":
    main()
