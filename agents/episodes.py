"""Run planners over fixed scenes and put the results in a table: mean and 95 % interval over the scenes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from agents.planners.planner import Planner
from ii_world_env.engine import CAUSES, Engine
from ii_world_env.scenes import Scenes, Start, conditions
from ii_world_env.task.rewards import PDMScore
from world_model.core.table import Table
from world_model.evaluation.statistics import mean_interval

COLUMNS = ("success", "collision", "off_road", "progress", "comfort", "pdms", "reward", "steps")
PERCENT = ("success", "collision", "off_road", "progress", "comfort", "pdms")
SUCCESS_PROGRESS = 0.8


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One planner's drive through one scene.

    Args:
        scene: its name. frame: keyframe in the scene where it started.
        end: the cause of the end.
        success: no collision, never off the road, and at least 80 % of the route (routes below 5 m count as driven).
        progress: share of the route to the destination, in [0, 1].
        comfort: share of the steps that exceed no limit of comfort.
        pdms: mean NAVSIM score per step of the horizon; steps after a failure score 0.
        reward: sum of rewards. steps: number of steps.
    """

    scene: str
    frame: int
    end: str
    success: float
    collision: float
    off_road: float
    progress: float
    comfort: float
    pdms: float
    reward: float
    steps: float


def fixed_starts(scenes: Scenes, per_scene: int, limit: int | None = None) -> list[Start]:
    """The same starts for every planner and every run: spread evenly over each scene of the split.

    Args:
        scenes: the data.
        per_scene: starts in each scene, fewer where it is too short.
        limit: take the first so many scenes.
    """
    starts = []
    for scene in scenes.numbers[:limit]:
        inside = scenes.index.frames(scene)
        frames = [frame for frame in scenes.starts if frame in inside]
        picks = sorted({round(p) for p in np.linspace(0, len(frames) - 1, per_scene)}) if frames else []
        starts += [Start(scene=scene, frame=frames[p]) for p in picks]
    return starts


def drive(
    engine: Engine,
    scenes: Scenes,
    planner: Planner,
    starts: Sequence[Start],
    batch: int = 8,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Episode]:
    """One episode of a planner from each start.

    Args:
        engine: world, actions, reward.
        scenes: the data.
        planner: who drives.
        starts: where from.
        batch: episodes that run side by side.
        progress: called with the number of finished episodes.
    """
    episodes: list[Episode] = []
    for first in range(0, len(starts), batch):
        episodes += _drive_batch(engine, scenes, planner, starts[first : first + batch])
        progress(len(episodes))
    return episodes


def _drive_batch(engine: Engine, scenes: Scenes, planner: Planner, starts: Sequence[Start]) -> list[Episode]:
    world, count = engine.world, len(starts)
    clips = scenes.load(starts, engine.frames_ahead, world.needs_future_labels, world.grid)
    state = engine.reset(clips, **conditions(starts))
    planner.reset(state)
    pdm, cause = PDMScore(), torch.zeros(count, dtype=torch.long, device=state.pose.device)
    total, score, comfortable, steps, reached = (
        torch.zeros(count, dtype=torch.float32, device=state.pose.device) for _ in range(5)
    )
    while bool((cause == 0).any()):
        running = (cause == 0).float()
        state, out = engine.step(state, planner.act(state))
        total += running * out.reward
        score += running * torch.stack(list(pdm(out.outcome).values())).sum(0)
        comfortable += running * (~out.outcome.discomfort.any(-1)).float()
        steps += running
        reached += running * out.outcome.progress_m
        cause = torch.where(cause == 0, out.cause, cause)
    goal = state.route.goal_m
    share = (reached / goal.clamp(min=1e-6)).clamp(0, 1)
    share = torch.where(goal < engine.config.shortest_goal_m, torch.ones_like(share), share)
    # Arriving counts in full: the tolerance in front of the destination is not missing progress.
    share = torch.where(cause == CAUSES.index("destination"), torch.ones_like(share), share)
    safe = (cause != CAUSES.index("collision")) & (cause != CAUSES.index("off_road"))
    length = torch.minimum(state.route.recorded, torch.full_like(state.route.recorded, engine.config.horizon)).clamp(
        min=1
    )
    rows = torch.stack(
        (
            (safe & (share >= SUCCESS_PROGRESS)).float(),
            (cause == CAUSES.index("collision")).float(),
            (cause == CAUSES.index("off_road")).float(),
            share,
            comfortable / steps,
            (score / length).clamp(max=1),
            total,
            steps,
        ),
        -1,
    ).tolist()
    return [
        Episode(
            scene=scenes.name(start.scene),
            frame=start.frame - scenes.index.frames(start.scene).start,
            end=CAUSES[int(cause[i])],
            **dict(zip(COLUMNS, rows[i], strict=True)),
        )
        for i, start in enumerate(starts)
    ]


def summary(episodes: Sequence[Episode], resamples: int = 2000) -> dict[str, tuple[float, float, float]]:
    """Mean and 95 % bootstrap interval of every column, resampling whole scenes.

    Returns:
        By column: (mean, low, high).
    """
    names = sorted({e.scene for e in episodes})
    by_scene = [np.array([[asdict(e)[c] for c in COLUMNS] for e in episodes if e.scene == name]) for name in names]
    return dict(zip(COLUMNS, mean_interval(by_scene, resamples), strict=True))


def markdown(results: Mapping[str, Sequence[Episode]]) -> str:
    """A Markdown table, one row per planner: mean [low, high], or the mean alone of a single scene."""

    def cell(column: str, figures: tuple[float, float, float], alone: bool) -> str:
        scale, digits = (100, 0) if column in PERCENT else (1, 1)
        mean, low, high = (f"{figure * scale:.{digits}f}" for figure in figures)
        return mean if alone else f"{mean} [{low}, {high}]"

    rows = []
    for name, episodes in results.items():
        alone = len({e.scene for e in episodes}) == 1
        rows.append([name, *(cell(column, figures, alone) for column, figures in summary(episodes).items())])
    return Table(["planner", *(f"{c} %" if c in PERCENT else c for c in COLUMNS)], rows).markdown()
