"""What an observation mode is, and from a name to one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from gymnasium import spaces
from torch import Tensor

from ii_world_env.ego.actions import ActionMode
from ii_world_env.ego.footprint import FootprintConfig
from ii_world_env.observations.modes import (
    BevObservation,
    FeatureObservation,
    OccupancyObservation,
    TimedTrafficObservation,
    TokenObservation,
    TrafficObservation,
)
from ii_world_env.state.state import State
from world_model.core.errors import ConfigError
from world_model.core.plugins import import_object
from world_model.worlds import World


@runtime_checkable
class Observation(Protocol):
    """What an agent observes.

    A class of a user's own is called with ``world=`` (`World`), ``action=`` (`ActionMode`) and ``footprint=``
    (`FootprintConfig`), and named by its import path: ``gym.make(..., observation="package.module:Class")``.

    Attributes:
        needs_occupancy: whether ``state.labels`` has to be decoded for `observe`.

    A class that sets ``needs_before = True`` finds in ``state.solid_before`` and ``state.pose_before`` what stood where
    one step earlier. One that sets ``needs_horizon = True`` is also called with ``horizon=``, the steps of an episode.
    """

    needs_occupancy: bool

    def space(self) -> spaces.Space[Any]:
        """Space of one environment's observation: a box, or a dict of boxes."""
        ...

    def observe(self, state: State) -> Tensor | dict[str, Tensor]:
        """Observations of B environments: one tensor (B, ...) of the box, or one for each box by name."""
        ...


OBSERVATION_MODES: dict[str, Callable[..., Observation]] = {
    "bev": BevObservation,
    "occupancy": OccupancyObservation,
    "tokens": TokenObservation,
    "state": FeatureObservation,
    "traffic": TrafficObservation,
    "traffic_timed": TimedTrafficObservation,
}


def build_observation(
    name: str, world: World, action: ActionMode, footprint: FootprintConfig | None = None, horizon: int = 16
) -> Observation:
    """Make an observation mode.

    Args:
        name: in `OBSERVATION_MODES`, or the import path "package.module:Class" of an `Observation`.
        world: that the states are of.
        action: mode of the actions, whose last one is part of some observations.
        footprint: what counts as an obstacle or as drivable; None is the default.
        horizon: steps of an episode.

    Raises:
        OptionError: there is no such mode.
        ConfigError: the class of an import path is no `Observation`, or the mode needs another world.
    """
    expected = f"one of {tuple(OBSERVATION_MODES)} or 'package.module:Class'"
    make = OBSERVATION_MODES.get(name) or import_object("observation", name, expected)
    timed = {"horizon": horizon} if getattr(make, "needs_horizon", False) else {}
    made: object = make(world=world, action=action, footprint=footprint or FootprintConfig(), **timed)
    if not isinstance(made, Observation) or not isinstance(made.needs_occupancy, bool) or not _flat(made.space()):
        raise ConfigError(
            f"{name} made a {type(made).__name__} without the Observation protocol",
            "an attribute needs_occupancy (True or False), and methods space() -> Box or Dict of boxes, observe(state)",
            "see ii_world_env/observations/build.py",
        )
    return made


def needs_before(observation: Observation) -> bool:
    """Whether it reads what stood where one step earlier, see `Engine.remembers`."""
    return bool(getattr(observation, "needs_before", False))


def check_observed(name: str, observed: object, space: spaces.Space[Any], batch: int) -> None:
    """Refuse observations that do not have the shape and type of their space.

    Raises:
        ConfigError: other names, shapes or types.
    """
    boxes: dict[str, Any] = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
    found = observed if isinstance(observed, dict) else {"": observed}
    expected = {key: f"{box.dtype} {(batch, *box.shape)}" for key, box in boxes.items()}
    came = {key: _described(value) for key, value in found.items()}
    if came != expected:
        raise ConfigError(
            f"observation={name!r} that observed {came}",
            f"tensors as in its space: {expected}",
            "mend observe or space",
        )


def _flat(space: object) -> bool:
    """Whether that is a box, or a dict of boxes."""
    parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    return bool(parts) and all(isinstance(part, spaces.Box) for part in parts)


def _described(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
