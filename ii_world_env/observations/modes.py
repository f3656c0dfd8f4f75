"""What an agent sees, as batched tensors.

Legend: B environments, W x H cells of the compact bird's-eye map, N route points, A numbers of the last action.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ii_world_env.ego.footprint import FootprintConfig, band
from ii_world_env.observations.features import FEATURE_BOUNDS, features
from ii_world_env.state.route import points_at
from world_model.core.errors import ConfigError, OptionError
from world_model.core.grid import FREE, NUM_CLASSES, VoxelGrid
from world_model.core.planar import into
from world_model.core.vehicle import MAX_SPEED_MPS
from world_model.worlds import Latent, World

if TYPE_CHECKING:
    from ii_world_env.state.state import State

PRIORITY = (FREE, 11, 12, 14, 13, 0, 16, 15, 9, 10, 5, 3, 4, 1, 6, 2, 8, 7)
"""Which class a cell shows when it holds several, the last wins: ground, structures, vehicles, the small."""
CLEARANCE_M = 3.0
"""Voxels above this height do not concern a car and would hide what is under them (tree crowns, bridges)."""
POOL = 2
"""Voxels per cell of the bird's-eye map along x and y."""
ROUTE_POINTS = 8
ROUTE_SPACING_M = 4.0
ROUTE_BOUND_M = 80.0
EGO_FIELDS = ("speed_mps", "yaw_rate_rps", "accel_mps2", "route_left_m")
EGO_BOUNDS = (MAX_SPEED_MPS, 2.0, 20.0, 200.0)
"""Bounds of `EGO_FIELDS`; values are clipped to them."""

_RANK = torch.tensor([PRIORITY.index(c) for c in range(NUM_CLASSES)], dtype=torch.uint8)
_BYTE = 1 << 8
_PAIR_RANK = torch.zeros(NUM_CLASSES, _BYTE, dtype=torch.uint8)
"""Higher rank of two voxels: [class of the upper, class of the lower]."""
_PAIR_RANK[:, :NUM_CLASSES] = torch.maximum(_RANK[:, None], _RANK)


def bev(labels: Tensor, grid: VoxelGrid) -> Tensor:
    """Compact map of classes from above.

    Args:
        labels: (B, X, Y, Z) uint8 class ids.

    Returns:
        (B, X/2, Y/2) uint8 class ids, axis 1 forward and axis 2 left; 17 (free) where nothing is known.
    """
    batch, (rows, columns) = len(labels), (labels.shape[1] // POOL, labels.shape[2] // POOL)
    low = labels[:, : rows * POOL, : columns * POOL, : band((-1e9, CLEARANCE_M), grid)[1]]
    # Two voxels, one above the other, are looked up as one number (little-endian); free ones rank lowest.
    pairs = F.pad(low, (0, low.shape[-1] % 2), value=FREE).contiguous().view(torch.int16)
    # All voxels of a cell outermost, so that the maximum runs over long rows.
    cells = pairs.view(batch, rows, POOL, columns, POOL, -1).permute(2, 4, 5, 0, 1, 3).contiguous()
    ranks = _PAIR_RANK.to(labels.device).view(-1).index_select(0, cells.view(-1).int())
    highest = ranks.view(-1, batch * rows * columns).amax(0)
    shown = torch.tensor(PRIORITY, dtype=torch.uint8, device=labels.device).index_select(0, highest.int())
    return shown.view(batch, rows, columns)


def ego(state: State) -> Tensor:
    """The ego's own motion: (B, 4 + A) float32, `EGO_FIELDS` and then the last action."""
    left = (state.route.goal_m - state.progress_m).clamp(min=0)
    values = torch.stack((state.speed_mps, state.yaw_rate_rps, state.accel_mps2, left), -1)
    bound = values.new_tensor(EGO_BOUNDS)
    return torch.cat((torch.minimum(torch.maximum(values, -bound), bound), state.last_action), -1)


def route(state: State) -> Tensor:
    """The route ahead: (B, 2 N) float32, x and y in metres of points 4, 8, ... 32 m ahead, in the ego frame."""
    ahead = torch.arange(1, ROUTE_POINTS + 1, device=state.pose.device) * ROUTE_SPACING_M
    points = points_at(state.route, state.progress_m[:, None] + ahead)
    return into(state.pose, points).flatten(1).clamp(-ROUTE_BOUND_M, ROUTE_BOUND_M)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One array of an observation.

    Attributes:
        shape: without the batch.
        low, high: bounds, of one value for all or of each value.
        whole: uint8 class ids, else float32.
    """

    shape: tuple[int, ...]
    low: float | list[float]
    high: float | list[float]
    whole: bool = False


@dataclass(frozen=True, kw_only=True)
class ObservationMode:
    """One way to see.

    Attributes:
        parts: names of its arrays; a single one is given bare, several in a dict.
        needs_labels: whether the occupancy has to be decoded for it.
    """

    parts: tuple[str, ...]
    needs_labels: bool = True


OBSERVATION_MODES = {
    "bev": ObservationMode(parts=("bev", "ego", "route")),
    "occupancy": ObservationMode(parts=("occupancy",)),
    "tokens": ObservationMode(parts=("tokens", "ego", "route"), needs_labels=False),
    "state": ObservationMode(parts=("state",)),
}


def observe(mode: str, state: State, world: World, config: FootprintConfig | None = None) -> Tensor | dict[str, Tensor]:
    """What the agent of an observation mode sees: one batched tensor, or several by name; see `parts_of`.

    Args:
        mode: name in `OBSERVATION_MODES`.
        state: B environments.
        world: the one that the state is of.
        config: what counts as touching, for the features of "state".
    """
    touching = config or FootprintConfig()
    make: dict[str, Callable[[], Tensor]] = {
        "bev": lambda: bev(state.labels, world.grid),
        "ego": lambda: ego(state),
        "route": lambda: route(state),
        "occupancy": lambda: state.labels,
        "tokens": lambda: _latent(world).tokens(state.world),
        "state": lambda: torch.cat((features(state, world.grid, touching), ego(state), route(state)), 1),
    }
    seen = {name: make[name]() for name in _mode(mode).parts}
    return seen if len(seen) > 1 else next(iter(seen.values()))


def parts_of(mode: str, grid: VoxelGrid, action_width: int, world: World | None = None) -> dict[str, Part]:
    """The arrays of an observation mode with their bounds.

    Args:
        mode: name in `OBSERVATION_MODES`.
        grid: of the world.
        action_width: numbers A by which the last action is remembered.
        world: "tokens" takes the shape of the latent map from it.

    Raises:
        OptionError: no such mode.
        ConfigError: tokens of a world that has none.
    """
    size_x, size_y, size_z = grid.shape
    own = [*EGO_BOUNDS, *[1.0] * action_width]
    ahead = [ROUTE_BOUND_M] * (2 * ROUTE_POINTS)
    low, high = [low for low, _ in FEATURE_BOUNDS], [high for _, high in FEATURE_BOUNDS]
    minus = [-bound for bound in own + ahead]
    make: dict[str, Callable[[], Part]] = {
        "bev": lambda: Part(shape=(size_x // POOL, size_y // POOL), low=0, high=FREE, whole=True),
        "ego": lambda: Part(shape=(len(own),), low=[-bound for bound in own], high=own),
        "route": lambda: Part(shape=(len(ahead),), low=-ROUTE_BOUND_M, high=ROUTE_BOUND_M),
        "occupancy": lambda: Part(shape=(size_x, size_y, size_z), low=0, high=FREE, whole=True),
        "tokens": lambda: Part(shape=_latent(world).token_shape, low=-math.inf, high=math.inf),
        "state": lambda: Part(shape=(len(low + minus),), low=low + minus, high=high + own + ahead),
    }
    return {name: make[name]() for name in _mode(mode).parts}


def _mode(name: str) -> ObservationMode:
    if name not in OBSERVATION_MODES:
        raise OptionError(f"observation={name!r}", f"one of {tuple(OBSERVATION_MODES)}", "choose one of them")
    return OBSERVATION_MODES[name]


def _latent(world: World | None) -> Latent:
    if not isinstance(world, Latent):
        raise ConfigError(
            f"observation='tokens' in a {type(world).__name__}",
            "a world with a latent map: token_shape and tokens(state)",
            "use world='ii-world', or another observation mode",
        )
    return world
