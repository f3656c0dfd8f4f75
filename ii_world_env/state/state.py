"""The state of B environments: frozen, complete, and free to copy, pick, repeat, mend and keep on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from ii_world_env.ego.route import Route
from ii_world_env.state.saved import load_tree, save_tree
from world_model.core.errors import ConfigError, DataError
from world_model.core.grid import FREE
from world_model.core.ground import on_level_ground
from world_model.data.index import COMMANDS
from world_model.worlds import TensorState, WorldState

CAUSES = ("running", "collision", "off_road", "destination", "horizon", "route_end", "untrusted")
"""Why an episode ended, by the number in `State.cause`."""
TERMINATIONS = 3
"""Causes 1..3 terminate, the later ones truncate."""
HORIZON = CAUSES.index("horizon")
C = TypeVar("C", Tensor, NDArray[Any])


def terminates(cause: C, finite_horizon: bool) -> C:
    """Whether causes (B,) terminate; with a finite horizon it does, too, since nothing lies beyond it."""
    ends: C = (cause > 0) & (cause <= TERMINATIONS)
    return ends | (cause == HORIZON) if finite_horizon else ends


OPTIONAL = ("decoded", "solid_before", "pose_before")
"""Fields of a state that may be None."""


@dataclass(frozen=True, kw_only=True)
class State(TensorState):
    """B environments at one moment. Everything that the next step depends on is here.

    Attributes:
        world: the world's own state.
        decoded: (B, X, Y, Z) uint8 occupancy in the current ego frame, or None where nothing has needed it yet;
            it follows from ``world``, see `Engine.with_occupancy`.
        ground: (B, X, Y) int8 votes of the observed frames for drivable (> 0) or other ground (< 0), start frame.
        pose: (B, 3) x, y in metres and yaw in rad of the ego in the start frame (the ego frame at reset).
        speed_mps, accel_mps2, lateral_mps2, yaw_rate_rps: (B,) the ego's motion over the last step.
        last_action: (B, A) float32.
        commands: (B, F + 1) int64 command at each step.
        route: the recorded route.
        progress_m: (B,) arc length along the route.
        steps: (B,) int64 steps since the reset.
        cause: (B,) int64 why the episode ended, index into `CAUSES`; 0 while it runs. The first cause stays.
        scene, frame: (B,) int64 scene and frame number in the index where the episode began.
        noise: (B,) float32 standard deviation of the noise on actions.
        seed: (B,) int64 what that noise depends on beside the step.
        solid_before: (B, X, Y) uint8 `solid_columns` of the occupancy one step earlier, in the ego frame of then; None
            where it is not asked for, see `Engine.remembers`.
        pose_before: (B, 3) the pose of then in the start frame; NaN where no such moment is known.
    """

    world: WorldState
    decoded: Tensor | None
    ground: Tensor
    pose: Tensor
    speed_mps: Tensor
    accel_mps2: Tensor
    lateral_mps2: Tensor
    yaw_rate_rps: Tensor
    last_action: Tensor
    commands: Tensor
    route: Route
    progress_m: Tensor
    steps: Tensor
    cause: Tensor
    scene: Tensor
    frame: Tensor
    noise: Tensor
    seed: Tensor
    solid_before: Tensor | None = field(default=None, metadata={"absent": lambda like, rows: None})
    pose_before: Tensor | None = field(default=None, metadata={"absent": lambda like, rows: None})

    @property
    def batch(self) -> int:
        """Number of environments B."""
        return self.pose.shape[0]

    @property
    def labels(self) -> Tensor:
        """(B, X, Y, Z) uint8 occupancy in the current ego frame.

        Raises:
            ConfigError: it has not been decoded.
        """
        if self.decoded is None:
            raise ConfigError(
                "labels of a state that was not decoded, since the reward needs no occupancy",
                "a state with its occupancy",
                "take engine.occupancy(state), or engine.with_occupancy(state).labels",
            )
        return self.decoded

    @cached_property
    def level_labels(self) -> Tensor:
        """`labels` with heights above the local ground (B, X, Y, Z), for all that asks what the body meets on its way.

        A kerb or a climbing road is no obstacle then, and a car uphill is one. Flat scenes are the same to the bit.
        """
        return on_level_ground(self.labels)

    def with_cause(self, cause: Tensor) -> State:
        """The same state with why its episodes ended."""
        ended = replace(self, cause=cause)
        if "level_labels" in self.__dict__:
            ended.__dict__["level_labels"] = self.level_labels  # it is the same, and costs a millisecond
        return ended

    def put(self, rows: Sequence[int], new: State) -> State:
        """The state with some environments replaced; this one stays as it is.

        Args:
            rows: (N) which environments.
            new: N environments of the same engine. The occupancy stays decoded only if both are, and what stood where
                before is kept only where both know it.
        """
        lone = [k for k in OPTIONAL if (getattr(self, k) is None) != (getattr(new, k) is None)]
        blank: dict[str, Any] = dict.fromkeys(lone)
        return TensorState.put(replace(self, **blank), rows, replace(new, **blank))

    def save(self, path: str | Path) -> None:
        """Write everything to a file, atomically and to the bit; the counterpart is `load`.

        Raises:
            OutputError: the file cannot be written.
            ConfigError: a user's own world keeps something that cannot be written.
        """
        save_tree(path, self)

    @staticmethod
    def load(path: str | Path, like: State) -> State:
        """Read what `save` wrote.

        Args:
            path: the file. Nothing in it can execute.
            like: any state of an engine with the same world and action mode, of any batch size, for instance right
                after a reset: the file must have the same fields, types and dimensions; only the occupancy may be
                decoded in one of the two alone. Its device is taken.

        Raises:
            DataError: no such file, a damaged one, or the state of another kind of engine.
        """
        state = load_tree(path, like, optional=OPTIONAL)
        _check_ranges(state, path)
        there = {name: getattr(state, name) for name in OPTIONAL if getattr(state, name) is not None}
        return replace(state, **{name: value.to(like.pose.device) for name, value in there.items()})


def _check_ranges(state: State, path: str | Path) -> None:
    """Refuse values that no engine writes: they would fail or mislead somewhere deep inside a step."""
    motion = (state.pose, state.speed_mps, state.accel_mps2, state.lateral_mps2, state.yaw_rate_rps, state.noise)
    finite = all(bool(torch.isfinite(value).all()) for value in (*motion, state.last_action, state.progress_m))
    for name, good in (
        ("pose, motion or last_action", finite),
        ("decoded", state.decoded is None or _are_labels(state.decoded, state.ground)),
        ("solid_before or pose_before", _is_before(state)),
        ("commands", bool(((state.commands >= 0) & (state.commands < len(COMMANDS))).all())),
        ("steps", int(state.steps.min()) >= 0),
        ("cause", bool(((state.cause >= 0) & (state.cause < len(CAUSES))).all())),
    ):
        if not good:
            raise DataError(f"{path}: {name} out of range", "what State.save() wrote", "write the file again")


def _are_labels(decoded: object, ground: Tensor) -> bool:
    """Whether that is an occupancy over a map of the ground (B, X, Y)."""
    if not isinstance(decoded, Tensor) or decoded.dtype != torch.uint8 or decoded.ndim != 4:
        return False
    shaped = decoded.shape[1:3] == ground.shape[1:]
    return shaped and int(decoded.max()) <= FREE


def _is_before(state: State) -> bool:
    """Whether both tensors of the earlier moment are there and fit, or neither is there."""
    solid, pose = state.solid_before, state.pose_before
    if not isinstance(solid, Tensor) or not isinstance(pose, Tensor):
        return solid is None and pose is None
    fits = solid.dtype == torch.uint8 and solid.shape == state.ground.shape
    return fits and pose.dtype == state.pose.dtype and pose.shape == state.pose.shape and not bool(pose.isinf().any())
