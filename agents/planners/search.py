"""Search for the best plan in the world itself: cross-entropy method and model-predictive path integrals.

CEM after iCEM (Pinneri et al., CoRL 2020): smooth noise, elites that are kept, a warm start from the step before, the
best candidate is executed. MPPI after Williams et al. (ICRA 2017). Candidates are bounded corrections of a scripted
prior's plan, and the plan itself is always among them.

Legend: B environments, S candidates, H steps, A components of an action.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.planners.forecast import SharedForecast, forecast, scores
from agents.planners.names import scripted_planner
from agents.planners.planner import Planner, follows, moment
from agents.planners.residual import SCALES
from ii_world_env.engine import Engine, State
from ii_world_env.task.rewards import reward_function
from world_model.core.errors import OptionError

METHODS = ("cem", "mppi")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How the search goes on.

    Args:
        steps: H, of 0.5 s.
        candidates: S, in each iteration.
        iterations: at most; with a budget as many as fit into it.
        budget_ms: no iteration begins that would probably end later than this after the first forecast began; None:
            all iterations, so that results do not depend on the machine.
        elites: candidates that the next distribution follows (CEM).
        kept: elites that stay candidates, also in the next step.
        smoothness: correlation of the noise of neighbouring steps.
        spread: first standard deviation, as a share of the largest correction.
        temperature: in units of the scores' standard deviation (MPPI).
        prior: scripted planner whose plan is corrected.
        reward: that candidates are scored with, whatever the engine's own.
        branches: "forecast" scores all candidates in one forecast along the prior's plan, see
            `agents.planners.forecast`; "world" steps the world for every candidate.
        seed: of the noise.
    """

    steps: int = 6
    candidates: int = 32
    iterations: int = 3
    budget_ms: float | None = None
    elites: int = 5
    kept: int = 2
    smoothness: float = 0.7
    spread: float = 0.6
    temperature: float = 0.3
    prior: str = "idm"
    reward: str = "default"
    branches: str = "forecast"
    seed: int = 0


class Search:
    """Plans anew at every step.

    Args:
        engine: that is driven in, or planned in.
        method: "cem" or "mppi".
        config: how the search goes on.
        prior: of ``engine``, instead of the config's: a trained policy, so that it guides the search.

    Raises:
        OptionError: no such method, or an action mode of choices.
    """

    def __init__(
        self, engine: Engine, method: str = "cem", config: SearchConfig | None = None, prior: Planner | None = None
    ) -> None:
        self.config = config or SearchConfig()
        known = self.config.branches in ("forecast", "world")
        if method not in METHODS or not known or engine.config.action not in SCALES:
            raise OptionError(
                f"search {method!r} with branches={self.config.branches!r} and action={engine.config.action!r}",
                f"one of {METHODS}, forecast or world, one of {tuple(SCALES)}",
                "choose one of them",
            )
        self.name, self.method = method, method
        self.engine = Engine(engine.world, engine.config, reward_function(self.config.reward), needs_occupancy=True)
        self.prior = prior or scripted_planner(self.config.prior, engine)
        self.engine.remembers = engine.remembers  # a prior's observation may want it
        self.scale = torch.tensor(SCALES[engine.config.action], dtype=torch.float32)
        self._random = torch.Generator()
        self._elites: Tensor | None = None
        self._seen: Tensor | None = None

    def reset(self, state: State) -> None:
        """Forget the plans of earlier episodes; the noise begins anew."""
        self.prior.reset(state)
        self._random.manual_seed(self.config.seed)
        self._elites = None

    @torch.inference_mode()
    def act(self, state: State) -> Tensor:
        config, begin = self.config, time.perf_counter()
        shared = forecast(self.engine, state, self._prior(), config.steps)
        elites = self._warm(state, shared.actions)
        mean, spread = elites[:, 0], torch.full_like(elites[:, 0], config.spread)
        for done in range(config.iterations):
            spent = 1000 * (time.perf_counter() - begin)
            if config.budget_ms is not None and done and spent * (done + 1) / done > config.budget_ms:
                break
            drawn = (mean[:, None] + spread[:, None] * self._noise(mean)).clamp(-1, 1)
            # The prior's own plan and the middle of the distribution are always candidates, the plan first.
            candidates = torch.cat((torch.zeros_like(mean)[:, None], mean[:, None], elites, drawn), 1)
            score = self._scores(state, shared, candidates)
            order = score.argsort(dim=1, descending=True, stable=True)[:, : max(config.elites, config.kept)]
            chosen = candidates.gather(1, order[..., None, None].expand(-1, -1, *mean.shape[1:]))
            elites = chosen[:, : config.kept]
            if self.method == "cem":
                mean, spread = chosen.mean(1), chosen.std(1).clamp(min=0.05)
            else:
                unit = config.temperature * score.std(1, keepdim=True).clamp(min=1e-6)
                mean = (torch.softmax(score / unit, 1)[..., None, None] * candidates).sum(1)
        self._elites, self._seen = elites, moment(state)
        return self._plans(shared.actions, elites[:, :1])[:, 0, 0]

    def _prior(self) -> Callable[[State], Tensor]:
        """The prior as the driver of a forecast: only what it sees now stays in its memory."""
        imagined: list[Planner] = []

        def act(state: State) -> Tensor:
            if imagined:
                return imagined[0].act(state)
            actions = self.prior.act(state)
            imagined.append(deepcopy(self.prior))
            return actions

        return act

    def _warm(self, state: State, like: Tensor) -> Tensor:
        """(B, K, H, A) elites of the step before, a step on; zero in rows that begin anew."""
        batch, steps, width = like.shape
        if self._elites is None or self._seen is None or len(self._elites) != batch:
            return like.new_zeros(batch, self.config.kept, steps, width)
        later = torch.cat((self._elites[:, :, 1:], torch.zeros_like(self._elites[:, :, :1])), 2)
        return later * follows(self._seen, state)[:, None, None, None]

    def _noise(self, mean: Tensor) -> Tensor:
        """(B, S, H, A) standard normal noise, correlated along the steps."""
        batch, steps, width = mean.shape
        white = torch.randn(batch, self.config.candidates, steps, width, generator=self._random, dtype=torch.float32)
        share, parts = self.config.smoothness, [white[:, :, 0]]
        for step in range(1, steps):
            parts.append(share * parts[-1] + (1 - share**2) ** 0.5 * white[:, :, step])
        return torch.stack(parts, 2).to(mean.device)

    def _plans(self, prior: Tensor, corrections: Tensor) -> Tensor:
        """(B, S, H, A) actions of corrections in [-1, 1] of the prior's (B, H, A)."""
        return (prior[:, None] + corrections * self.scale.to(prior)).clamp(-1, 1)

    def _scores(self, state: State, shared: SharedForecast, candidates: Tensor) -> Tensor:
        plans = self._plans(shared.actions, candidates)
        if self.config.branches == "forecast":
            return scores(self.engine, shared, plans)
        total = self.engine.rollout(state.expand(plans.shape[1]), plans.flatten(0, 1)).total
        return total.view(plans.shape[:2])
