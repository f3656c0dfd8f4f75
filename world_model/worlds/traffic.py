"""How other road users move in the geometric world, and where they are known from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.core.errors import OptionError
from world_model.models.geometric.agents.drivers import AGGRESSIVE, StyleKind, Styles
from world_model.models.geometric.agents.state import Agents

CONSTANT_VELOCITY, RIGID, REPLAY, LOG_LIKE = "constant-velocity", "rigid", "replay", "log-like"
DRAWN = {"sampled": StyleKind(), "aggressive": AGGRESSIVE}
"""Traffic whose drivers differ from seed to seed."""
REACTING = (LOG_LIKE, *DRAWN)
"""Traffic whose drivers answer, and which therefore has more than one future."""
DEFAULT_TRAFFIC = LOG_LIKE
TRAFFIC = (CONSTANT_VELOCITY, RIGID, REPLAY, *REACTING)
MODE, SAMPLE = "mode", "sample"
FUTURES = (MODE, SAMPLE)
VOXELS, BOXES = "voxels", "boxes"
AGENT_SOURCES = (VOXELS, BOXES)


def check_future(future: object) -> str:
    """The name of a future.

    Raises:
        OptionError: there is no such future.
    """
    if future not in FUTURES:
        raise OptionError(f"future={future!r}", f"one of {FUTURES}", "choose one of them")
    return str(future)


@dataclass(frozen=True, kw_only=True)
class TrafficConfig:
    """Other road users of the geometric world.

    Args:
        traffic: how they move. "constant-velocity": every observed column at the velocity that the network gives it.
            "rigid": objects are tracked, near ones completed to solids, and each moves as a whole body. "replay": so,
            and they do what was recorded where the data set has boxes, whatever the ego does. "log-like": rigid,
            and vehicles follow the road and keep a gap to what is ahead, the ego included. "sampled": so, and every
            driver differs by the seed. "aggressive": faster and closer, and half of them do not brake for the ego.
        agents: where they are known from: the observed "voxels", or the annotated "boxes" of the current frame, where
            the data set has some.

    Raises:
        OptionError: there is no such traffic or source.
    """

    traffic: str = DEFAULT_TRAFFIC
    agents: str = VOXELS

    def __post_init__(self) -> None:
        for name, known in (("traffic", TRAFFIC), ("agents", AGENT_SOURCES)):
            value = getattr(self, name)
            if value not in known:
                raise OptionError(f"{name}={value!r}", f"one of {known}", "choose one of them")

    def styles(self, agents: Agents, seed: Tensor, futures: Sequence[str | None] | None = None) -> Styles | None:
        """Drivers of a reset, each row's by its own seed (B,) and future (B); None: those that the reset found.

        Raises:
            OptionError: a future of traffic that has only one.
        """
        names = [None] * len(seed) if futures is None else list(futures)
        if any(names) and self.traffic not in REACTING:
            raise OptionError(
                f"future={next(filter(None, names))!r} with traffic={self.traffic!r}, which has one future",
                f"traffic with many: one of {REACTING}",
                "make the world with such traffic, or leave the future out",
            )
        drawn = [name == SAMPLE or (name is None and self.traffic in DRAWN) for name in names]
        if not any(drawn) and not (self.traffic in DRAWN and MODE in names):
            return None
        kind, tracks = DRAWN.get(self.traffic, StyleKind()), agents.found.tracks
        rows = torch.tensor(drawn, device=tracks.x.device)
        return Styles.drawn(tracks, seed, kind).where(rows, Styles.likely(tracks, kind))

    def check(self, kinds: set[str], world: str) -> None:
        """Refuse what a world without tracks cannot do.

        Args:
            kinds: what the world is made of.
            world: its name, for the message.

        Raises:
            OptionError: settings for a world that is not geometric.
        """
        if self != TrafficConfig() and kinds != {"geometric"}:
            raise OptionError(
                f"traffic={self.traffic!r}, agents={self.agents!r} for world={world!r}",
                "the geometric world: the traffic of other worlds is their own",
                "leave traffic= and agents= out, or choose world='geometric'",
            )
