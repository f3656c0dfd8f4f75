"""What an agent observes: a bird's-eye map, the whole occupancy, token maps, or features; see `Observation`.

Legend: B environments, W x H cells of the compact bird's-eye map, N route points, A numbers of the last action.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from ii_world_env.ego.actions import ActionMode
from ii_world_env.ego.footprint import FootprintConfig, band, solid_columns
from ii_world_env.ego.route import points_at
from ii_world_env.observations.features import FEATURE_BOUNDS, RAYS, features
from ii_world_env.observations.traffic import TRAFFIC_BOUNDS, traffic
from ii_world_env.state.state import State
from world_model.core.errors import ConfigError
from world_model.core.geometry import into
from world_model.core.grid import FREE, NUM_CLASSES, VoxelGrid
from world_model.core.vehicle import MAX_SPEED_MPS
from world_model.worlds import Latent, World

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

_RANK = torch.tensor([PRIORITY.index(c) for c in range(NUM_CLASSES)], dtype=torch.uint8, device="cpu")
_BYTE = 1 << 8
_PAIR_RANK = torch.zeros(NUM_CLASSES, _BYTE, dtype=torch.uint8, device="cpu")
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
    ahead = torch.arange(1, ROUTE_POINTS + 1, dtype=torch.float32, device=state.pose.device) * ROUTE_SPACING_M
    points = points_at(state.route, state.progress_m[:, None] + ahead)
    return into(state.pose, points).flatten(1).clamp(-ROUTE_BOUND_M, ROUTE_BOUND_M)


class BevObservation:
    """`observation="bev"`: a dict of the compact map, the ego's own motion and the route ahead."""

    needs_occupancy = True

    def __init__(self, *, world: World, action: ActionMode, footprint: FootprintConfig) -> None:
        self.grid, self.width = world.grid, action.width

    def space(self) -> spaces.Dict:
        cells = (self.grid.shape[0] // POOL, self.grid.shape[1] // POOL)
        return spaces.Dict({"bev": class_box(cells), **vector_boxes(self.width)})

    def observe(self, state: State) -> dict[str, Tensor]:
        return {"bev": bev(state.level_labels, self.grid), "ego": ego(state), "route": route(state)}


class OccupancyObservation:
    """`observation="occupancy"`: the whole forecast (X, Y, Z) uint8."""

    needs_occupancy = True

    def __init__(self, *, world: World, action: ActionMode, footprint: FootprintConfig) -> None:
        self.grid = world.grid

    def space(self) -> spaces.Box:
        return class_box(self.grid.shape)

    def observe(self, state: State) -> Tensor:
        return state.labels


class TokenObservation:
    """`observation="tokens"`: a dict of the latent map, the ego's own motion and the route ahead.

    Raises:
        ConfigError: a world that has no latent map.
    """

    needs_occupancy = False

    def __init__(self, *, world: World, action: ActionMode, footprint: FootprintConfig) -> None:
        if not isinstance(world, Latent):
            raise ConfigError(
                f"observation='tokens' in a {type(world).__name__}",
                "a world with a latent map: token_shape and tokens(state)",
                "use world='ii-world', or another observation mode",
            )
        self.world, self.width = world, action.width

    def space(self) -> spaces.Dict:
        tokens = spaces.Box(-np.inf, np.inf, self.world.token_shape, np.float32)
        return spaces.Dict({"tokens": tokens, **vector_boxes(self.width)})

    def observe(self, state: State) -> dict[str, Tensor]:
        return {"tokens": self.world.tokens(state.world), "ego": ego(state), "route": route(state)}


class FeatureObservation:
    """`observation="state"`: one vector of `FEATURES`, the ego's own motion and the route ahead."""

    needs_occupancy = True

    def __init__(self, *, world: World, action: ActionMode, footprint: FootprintConfig) -> None:
        self.grid, self.width, self.footprint = world.grid, action.width, footprint

    def space(self) -> spaces.Box:
        return _joined(_box(FEATURE_BOUNDS), *vector_boxes(self.width).values())

    def observe(self, state: State) -> Tensor:
        solid = solid_columns(state.level_labels, self.grid, self.footprint)
        return torch.cat((features(state, solid, self.grid, self.footprint), ego(state), route(state)), 1)


class TrafficObservation:
    """`observation="traffic"`: the numbers of "state" and of `TRAFFIC`, what the others do, divided by their bounds."""

    needs_occupancy = True
    needs_before = True
    timed = False

    def __init__(self, *, world: World, action: ActionMode, footprint: FootprintConfig, horizon: int = 1) -> None:
        self.grid, self.width, self.footprint, self.horizon = world.grid, action.width, footprint, horizon
        own = vector_boxes(self.width)
        self._bounds = _joined(_box(FEATURE_BOUNDS), *own.values(), _box(TRAFFIC_BOUNDS))

    def space(self) -> spaces.Box:
        scaled = spaces.Box(self._bounds.low / self._bounds.high, np.ones_like(self._bounds.high))
        return _joined(scaled, _box([(0.0, 1.0)])) if self.timed else scaled

    def observe(self, state: State) -> Tensor:
        solid = solid_columns(state.level_labels, self.grid, self.footprint)
        known = features(state, solid, self.grid, self.footprint)
        others = traffic(state, solid, known[:, :RAYS], self.grid, self.footprint)
        values = torch.cat((known, ego(state), route(state), others), 1)
        scaled = values / torch.from_numpy(self._bounds.high).to(values.device)
        if not self.timed:
            return scaled
        left = ((self.horizon - state.steps) / self.horizon).clamp(0, 1)
        return torch.cat((scaled, left[:, None]), 1)


class TimedTrafficObservation(TrafficObservation):
    """`observation="traffic_timed"`: "traffic", and last the share of the horizon that is left."""

    needs_horizon = True
    timed = True


def class_box(shape: tuple[int, ...]) -> spaces.Box:
    """Class ids, bounded by 17 and not 255: stable-baselines3 would take the latter for a picture."""
    return spaces.Box(0, FREE, shape, np.uint8)


def _box(bounds: Sequence[tuple[float, float]]) -> spaces.Box:
    """A box of (low, high) pairs."""
    low, high = np.array(bounds, np.float32).T
    return spaces.Box(low.copy(), high.copy())


def _joined(*boxes: spaces.Box) -> spaces.Box:
    """One box of the numbers of several."""
    return spaces.Box(np.concatenate([box.low for box in boxes]), np.concatenate([box.high for box in boxes]))


def vector_boxes(action_width: int) -> dict[str, spaces.Box]:
    """Boxes of `ego` and `route`; ``action_width`` numbers A remember the last action."""
    own = np.array([*EGO_BOUNDS, *[1.0] * action_width], np.float32)
    ahead = np.full(2 * ROUTE_POINTS, ROUTE_BOUND_M, np.float32)
    return {"ego": spaces.Box(-own, own), "route": spaces.Box(-ahead, ahead)}
