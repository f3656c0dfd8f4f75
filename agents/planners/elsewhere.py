"""Plan in one world, drive in another: at every step the planner's world begins anew from what was observed."""

from __future__ import annotations

import torch
from torch import Tensor

from agents.planners.planner import Planner, follows, moment
from ii_world_env.engine import Engine, State
from ii_world_env.scenes import PAST, Scenes, Start
from world_model.core.geometry import invert_pose, planar_pose


class Elsewhere:
    """A planner in a world of its own, which sees the occupancy of the world that is driven in.

    Args:
        engine: that is driven in.
        plan_in: with the planner's world; the same grid and action mode.
        planner: of ``plan_in``.
        name: shown in tables.
        scenes: recordings, to begin with the observed frames before a start; None begins with one frame.
    """

    def __init__(
        self, engine: Engine, plan_in: Engine, planner: Planner, name: str, scenes: Scenes | None = None
    ) -> None:
        self.name, self.engine, self.plan_in, self.planner, self.scenes = name, engine, plan_in, planner, scenes
        self._labels: Tensor | None = None
        self._poses: Tensor | None = None
        self._seen: Tensor | None = None

    def reset(self, state: State) -> None:
        self._seen = None
        self.planner.reset(state)

    @torch.inference_mode()
    def act(self, state: State) -> Tensor:
        labels, pose = self.engine.occupancy(state), state.pose
        if self._seen is None or self._labels is None or self._poses is None or len(self._seen) != state.batch:
            self._labels, self._poses = self._begin(state, labels)
        else:
            new = ~follows(self._seen, state)
            self._labels = torch.cat((self._labels[:, 1:], labels[:, None]), 1)
            self._poses = torch.cat((self._poses[:, 1:], pose[:, None]), 1)
            if bool(new.any()):
                rows = new.nonzero()[:, 0].tolist()
                self._labels[rows], self._poses[rows] = self._begin(state.index(rows), labels[rows])
        self._seen = moment(state)
        return self.planner.act(self.plan_in.observe(state, self._labels, self._poses))

    def _begin(self, state: State, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, P, X, Y, Z) and (B, P, 3) observed frames of episodes that the planner has not seen before."""
        count = PAST + 1
        if self.scenes is None or bool((state.steps > 0).any()):
            return labels[:, None].repeat(1, count, 1, 1, 1), state.pose[:, None].repeat(1, count, 1)
        starts = [Start(scene=s, frame=f) for s, f in zip(state.scene.tolist(), state.frame.tolist(), strict=True)]
        clips = self.scenes.load(starts, 1, False, self.engine.world.grid)
        ego = clips.ego_to_global[:, :count]
        poses = planar_pose(invert_pose(ego[:, -1:]) @ ego).float().to(state.pose.device)
        observed = clips.occupancy.to(labels.device)
        observed[:, -1] = labels  # the driven world's own first moment
        return observed, poses
