"""A drive that can be looked at from any moment: a tree of moments, the same actions in every world beside it.

A moment is an action after another moment. What a world says about it is computed when it is first looked at, and kept:
so stepping back costs nothing, a new action after an old moment makes a branch, and a world that is put beside the
others later tells its version of the whole drive.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ii_world_env.engine import CAUSES, Engine, State, StepResult
from world_model.core.errors import OptionError
from world_model.core.grid import STEP_S

KEPT = 2000
"""Moments of a drive. Each keeps some MB in every world that has been looked at."""


class Driver(Protocol):
    """What chooses the actions of a pane; every planner is one."""

    def reset(self, state: State) -> None:
        """Forget earlier episodes."""
        ...

    def act(self, state: State) -> Tensor:
        """Actions (1, A)."""
        ...


@dataclass(eq=False, kw_only=True)
class Moment:
    """One moment of a drive.

    Attributes:
        number: it was the so-manieth that was made, 0 for the start. parent: the moment before.
        action: (1, A) what was done there. steps: half seconds since the start.
        next: the moment after it that was looked at last.
    """

    number: int
    parent: Moment | None = None
    action: Tensor | None = None
    steps: int = 0
    next: Moment | None = None

    @property
    def line(self) -> list[Moment]:
        """From the start to here."""
        moments: list[Moment] = []
        at: Moment | None = self
        while at is not None:
            moments.append(at)
            at = at.parent
        return moments[::-1]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A moment in one world: the state of one environment, and the step that led to it (None at the start)."""

    state: State
    result: StepResult | None


@dataclass(eq=False, kw_only=True)
class Pane:
    """One world beside others.

    Args:
        title: shown above it. engine: the world. start: state of one environment where the drive begins.
        driver: who drives here; None: the actions of the drive.
        since: the moment from which on ``driver`` drives.
    """

    title: str
    engine: Engine
    start: State
    driver: Driver | None = None
    since: Moment | None = None
    kept: dict[int, Seen] = field(default_factory=dict)

    def at(self, moment: Moment) -> Seen:
        """This world at a moment."""
        missing = []
        at: Moment | None = moment
        while at is not None and at.number not in self.kept:
            missing.append(at)
            at = at.parent
        for one in reversed(missing):
            self.kept[one.number] = self._after(one)
        return self.kept[moment.number]

    def _after(self, moment: Moment) -> Seen:
        if moment.parent is None or moment.action is None:
            return Seen(state=self.engine.with_occupancy(self.start), result=None)
        before = self.kept[moment.parent.number].state
        own = self.driver is not None and (self.since is None or moment.parent.steps >= self.since.steps)
        action = self.driver.act(before) if own and self.driver is not None else moment.action
        state, result = self.engine.step(before, action)
        return Seen(state=self.engine.with_occupancy(state), result=result)

    def labels(self, moment: Moment) -> NDArray[Any]:
        """(X, Y, Z) uint8 around the ego."""
        labels: NDArray[Any] = self.at(moment).state.labels[0].cpu().numpy()
        return labels

    def path(self, moment: Moment) -> NDArray[Any]:
        """(N, 3) poses that the ego has driven to a moment, in the start frame."""
        self.at(moment)
        seen = [self.kept[one.number] for one in moment.line]
        parts = [seen[0].state.pose, *(one.result.path[0] for one in seen if one.result is not None)]
        return torch.cat(parts).cpu().numpy()


class Drive:
    """A drive and who watches it.

    Args:
        panes: one or more worlds side by side; the first one leads: drivers see its states.
    """

    def __init__(self, panes: Sequence[Pane]) -> None:
        self.panes = list(panes)
        self.now = Moment(number=0)
        self.moments = [self.now]

    @property
    def lead(self) -> Pane:
        """The world that drivers see."""
        return self.panes[0]

    @property
    def state(self) -> State:
        """Of the leading world, now."""
        return self.lead.at(self.now).state

    def step(self, action: Tensor) -> Moment:
        """Go on from now by an action (1, A) or a choice (1,); where there was a moment after it already, branch.

        Raises:
            ActionError: no such action.
            OptionError: the drive is too long.
        """
        if len(self.moments) >= KEPT:
            raise OptionError(f"a drive of {KEPT} moments", "a shorter one", "save it and begin anew")
        mode = self.lead.engine.action_mode
        checked = mode.checked(action, 1, self.state.pose.device)
        after = Moment(number=len(self.moments), parent=self.now, action=checked, steps=self.now.steps + 1)
        for pane in self.panes:
            pane.at(after)
        self.moments.append(after)
        self.now.next, self.now = after, after
        return after

    def back(self) -> bool:
        """To the moment before; False at the start."""
        return self.now.parent is not None and self.go(self.now.parent.number)

    def forth(self) -> bool:
        """To the moment after, where there is one."""
        return self.now.next is not None and self.go(self.now.next.number)

    def go(self, number: int) -> bool:
        """To any moment; the way to it is what `forth` follows from now on."""
        if not 0 <= number < len(self.moments):
            raise OptionError(f"moment {number}", f"0..{len(self.moments) - 1}", "name one of them")
        self.now = self.moments[number]
        line = self.now.line
        for before, after in itertools.pairwise(line):
            before.next = after
        return True

    @property
    def line(self) -> list[Moment]:
        """The branch in view: from the start through now to its end."""
        moments, at = self.now.line, self.now.next
        while at is not None:
            moments.append(at)
            at = at.next
        return moments

    @property
    def branches(self) -> list[Moment]:
        """The last moment of every branch."""
        parents = {id(moment.parent) for moment in self.moments}
        return [moment for moment in self.moments if id(moment) not in parents]

    def facts(self, pane: Pane | None = None) -> dict[str, NDArray[Any]]:
        """Along the branch in view: ``time_s``, ``trust`` where the world has one, ``reward`` and every term of it,
        each (N,), NaN at the start."""
        pane = pane or self.lead
        seen = [(moment, pane.at(moment)) for moment in self.line]
        rows = [_facts(one) for _, one in seen]
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
        return {"time_s": np.array([moment.steps * STEP_S for moment, _ in seen]), **table}

    def end(self, pane: Pane | None = None) -> str | None:
        """Why the episode of a pane has ended by now, if it has."""
        cause = int((pane or self.lead).at(self.now).state.cause[0])
        return CAUSES[cause] if cause else None


def _facts(seen: Seen) -> dict[str, float]:
    result = seen.result
    if result is None:
        return {}
    trust = {} if result.outcome.trust is None else {"trust": float(result.outcome.trust[0])}
    return {**trust, "reward": float(result.reward[0]), **{n: float(v[0]) for n, v in result.terms.items()}}
