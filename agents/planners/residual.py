"""Residual policies: a learner corrects the action of a scripted prior, within bounds.

After Silver et al. (arXiv 1812.06298) and Johannink et al. (ICRA 2019). A policy that starts at zero drives like its
prior, so that training begins with a good driver and a small search space.

Legend: B environments, A components of an action.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from agents.planners.comfort import ComfortLimiter
from agents.planners.names import scripted_planner
from ii_world_env.ego.actions import PLAN_STEPS
from ii_world_env.engine import Engine, State
from world_model.core.errors import OptionError

SCALES = {"kinematic": (0.5, 0.1), "delta": (0.25, 0.1, 0.1), "waypoints": (0.25, 0.1, 0.1) * PLAN_STEPS}
"""Largest correction of every number of an action, by action mode: for "kinematic" 2 m/s², 3 m/s² in braking, and
0.05 rad of steering."""
Observed = Any
"""Tensors or arrays (B, ...), or a dict of them."""


class Residual:
    """A prior, and how far a policy may move its actions.

    Args:
        engine: that is driven in.
        prior: name of a scripted planner, such as "idm".
        comfort: let the comfort limiter have the last word.

    Raises:
        OptionError: no such planner, or an action mode of choices.
    """

    def __init__(self, engine: Engine, prior: str, comfort: bool = False) -> None:
        mode = engine.action_mode
        if mode.name not in SCALES:
            raise OptionError(f"a prior with action={mode.name!r}", f"one of {tuple(SCALES)}", "choose one of them")
        self.prior, self.shape = scripted_planner(prior, engine), mode.shape
        self.limiter = ComfortLimiter(engine) if comfort else None
        self.scale = torch.tensor(SCALES[mode.name], dtype=torch.float32)

    def reset(self, state: State) -> None:
        """New episodes everywhere; rows that begin anew alone need no call."""
        self.prior.reset(state)

    def plan(self, state: State) -> Tensor:
        """(B, A) actions of the prior; once for each step, because a prior may remember the step before."""
        return self.prior.act(state).clone()

    def actions(self, state: State, planned: Tensor, residual: Tensor) -> Tensor:
        """(B, A) actions: ``planned`` moved by ``residual`` (B, *shape) in [-1, 1], times the scale."""
        change = residual.to(planned).reshape(planned.shape).clamp(-1, 1) * self.scale.to(planned)
        actions = (planned + change).clamp(-1, 1)
        return actions if self.limiter is None else self.limiter(state, actions)

    def widened(self, space: spaces.Space[Any]) -> spaces.Space[Any]:
        """The space of observations that also hold the prior's action: of vectors, and of ``ego`` in a dict."""
        if isinstance(space, spaces.Dict):
            inner = {name: self.widened(box) if name == "ego" else box for name, box in space.spaces.items()}
            return spaces.Dict(inner)
        if not isinstance(space, spaces.Box) or space.shape is None or len(space.shape) != 1:
            return space
        own = np.ones(len(self.scale), np.float32)
        return spaces.Box(np.concatenate((space.low, -own)), np.concatenate((space.high, own)), dtype=np.float32)

    def joined(self, observed: Observed, planned: Any) -> Observed:
        """Observations (B, ...) as the policy sees them: those of `widened`; tensors or arrays, as they came."""
        if isinstance(observed, dict):
            return {name: self.joined(v, planned) if name == "ego" else v for name, v in observed.items()}
        if observed.ndim != 2:
            return observed
        if isinstance(observed, Tensor):
            return torch.cat((observed, planned.to(observed)), 1)
        return np.concatenate((observed, np.asarray(planned, observed.dtype)), 1)
