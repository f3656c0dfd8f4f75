"""How good a policy is on held-out episodes while it is being trained."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from agents.episodes import COLUMNS, drive, fixed_starts
from agents.learning.normalise import Normaliser
from agents.planners.learned import PolicyPlanner
from agents.policies import PolicyFacts
from ii_world_env.engine import Engine, EngineConfig, State
from ii_world_env.faces.options import DriveOptions
from ii_world_env.scenes import Scenes, open_scenes
from ii_world_env.task.rewards import reward_function
from world_model.evaluation.windows import spread
from world_model.pictures.bev import birds_eye
from world_model.pictures.strip import strip
from world_model.training.report import Look
from world_model.training.report_options import ReportOptions
from world_model.worlds import build_world

PICTURES = 6
"""Moments of the first episode in the picture."""


def held_out_episodes(
    options: DriveOptions, reports: ReportOptions, world: str, facts: PolicyFacts
) -> HeldOutEpisodes | None:
    """What the options of a command ask for; None: no looks.

    Args:
        options: how it drives.
        reports: the same command's options of reports.
        world: to judge in.
        facts: how the policy drives.
    """
    if not reports.held_out_every:
        return None
    built = build_world(world, checkpoint=options.checkpoint, device=options.device)
    config = EngineConfig(action=options.action, horizon=options.horizon)
    engine = Engine(built, config, reward_function(options.reward), needs_occupancy=True)
    scenes = open_scenes(index=options.index, split=reports.held_out_split, horizon=options.horizon)
    return HeldOutEpisodes(engine, scenes, facts, reports.held_out)


class HeldOutEpisodes:
    """Drives the same held-out episodes at every look.

    Args:
        engine: world, actions and reward to judge in; it needs the occupancy.
        scenes: the data.
        facts: how the policy drives.
        count: episodes, at most two in a scene, spread evenly.
    """

    def __init__(self, engine: Engine, scenes: Scenes, facts: PolicyFacts, count: int) -> None:
        every = fixed_starts(scenes, 1 if count <= len(scenes.numbers) else 2)
        self.engine, self.scenes, self.facts = engine, scenes, facts
        self.starts = [every[n] for n in spread(range(len(every)), count)]

    def __call__(self, policy: Any, normaliser: Normaliser | None) -> Look:
        """Means of the columns of the planner table as fractions, and a picture of the first episode."""
        witness = Witness(self.engine, PolicyPlanner.of(self.engine, self.facts, policy, normaliser))
        episodes = drive(self.engine, self.scenes, witness, self.starts)
        means = {name: round(float(np.mean([getattr(e, name) for e in episodes])), 6) for name in COLUMNS}
        seen = witness.seen[: max(1, round(episodes[0].steps))]
        picture = strip([[seen[n] for n in spread(range(len(seen)), PICTURES)]], with_legend=False)
        return Look(values=means, pictures={"held_out/episode": picture})


class Witness:
    """Another planner, with pictures of the first environment of the first batch."""

    def __init__(self, engine: Engine, planner: PolicyPlanner) -> None:
        self.engine, self.planner, self.name = engine, planner, planner.name
        self.seen: list[NDArray[Any]] = []
        self._batches = 0

    def reset(self, state: State) -> None:
        """New episodes."""
        self._batches += 1
        self.planner.reset(state)

    def act(self, state: State) -> Tensor:
        if self._batches == 1:
            self.seen.append(birds_eye(state.labels[0].cpu().numpy(), grid=self.engine.world.grid))
        return self.planner.act(state)
