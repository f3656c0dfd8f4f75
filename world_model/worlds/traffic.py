"""How other road users move in the geometric world, and where they are known from."""

from __future__ import annotations

from dataclasses import dataclass

from world_model.core.errors import OptionError
from world_model.models.geometric.agents.drivers import AGGRESSIVE, StyleKind

CONSTANT_VELOCITY, RIGID, LOG_LIKE = "constant-velocity", "rigid", "log-like"
DRAWN = {"sampled": StyleKind(), "aggressive": AGGRESSIVE}
"""Traffic whose drivers differ from seed to seed."""
TRAFFIC = (CONSTANT_VELOCITY, RIGID, LOG_LIKE, *DRAWN)
VOXELS, BOXES = "voxels", "boxes"
AGENT_SOURCES = (VOXELS, BOXES)


@dataclass(frozen=True, kw_only=True)
class TrafficConfig:
    """Other road users of the geometric world.

    Args:
        traffic: how they move. "constant-velocity": every observed column at the velocity that the network gives it.
            "rigid": objects are tracked, near ones completed to solids, and each moves as a whole body. "log-like": so,
            and vehicles follow the road and keep a gap to what is ahead, the ego included. "sampled": so, and every
            driver differs by the seed. "aggressive": faster and closer, and half of them do not brake for the ego.
        agents: where they are known from: the observed "voxels", or the annotated "boxes" of the current frame, where
            the data set has some.

    Raises:
        OptionError: there is no such traffic or source.
    """

    traffic: str = CONSTANT_VELOCITY
    agents: str = VOXELS

    def __post_init__(self) -> None:
        for name, known in (("traffic", TRAFFIC), ("agents", AGENT_SOURCES)):
            value = getattr(self, name)
            if value not in known:
                raise OptionError(f"{name}={value!r}", f"one of {known}", "choose one of them")

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
