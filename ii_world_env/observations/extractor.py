"""Features for stable-baselines3 out of each observation mode.

Class maps go through an embedding per class and a small convolutional net of about 0.2 M parameters: SB3's default
would flatten 10,000 class numbers (or one-hot 640,000 voxels) into a dense layer. Token maps go through the same net.
`GroupMapExtractor` is the fast one, for training.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor
from torch import Tensor, nn

from ii_world_env.observations import modes as observations
from world_model.core.errors import ConfigError, OptionError
from world_model.core.grid import FREE, NUM_CLASSES, OCC3D

PATCH = 4
"""Edge in cells of the squares that `GroupMapExtractor` reads at once: 3.2 m."""
GROUPS = ((11,), (12, 13, 14), (0, 1, 8, 15, 16), (3, 4, 5, 9, 10), (2, 6, 7))
"""Class ids that mean the same to a driver: road, other ground, what stands, vehicles, people and two-wheelers."""


class ClassMapExtractor(BaseFeaturesExtractor):
    """Observation -> feature vector (B, features_dim).

    Args:
        observation_space: of `observation="bev"` (a dict) or `observation="occupancy"`.
        embedding: width of a class embedding.
        map_features: features of the map.
        vector_features: features of ego and route together.

    Raises:
        ConfigError: another observation space; in the first pass, class ids that were normalised.
    """

    scale: Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        embedding: int = 8,
        map_features: int = 96,
        vector_features: int = 64,
    ) -> None:
        is_dict = isinstance(observation_space, spaces.Dict)
        if not _has_class_map(observation_space):
            raise ConfigError(
                f"observation space {observation_space}",
                'that of observation="bev" or "occupancy"',
                "use one of these modes",
            )
        super().__init__(observation_space, map_features + (vector_features if is_dict else 0))
        self._checked = False
        shape = observation_space["bev"].shape if isinstance(observation_space, spaces.Dict) else (100, 100)
        assert shape is not None
        self._make(embedding)
        with torch.no_grad():
            size = self._cells(torch.full((1, *shape), FREE)).shape[1]
        self.map_out = nn.Sequential(nn.Linear(size, map_features), nn.ReLU())
        self.vector: nn.Module | None = None
        if isinstance(observation_space, spaces.Dict):
            bound = _bounds(observation_space)
            self.register_buffer("scale", 1 / bound)
            self.vector = _perceptron(len(bound), vector_features)

    def forward(self, observation: Tensor | dict[str, Tensor]) -> Tensor:
        if not self._checked:  # once: it waits for the device
            check_class_ids(observation if isinstance(observation, Tensor) else observation["bev"])
            self._checked = True
        if isinstance(observation, Tensor):
            return self._map(observations.bev(observation.to(torch.uint8), OCC3D))
        assert self.vector is not None
        vector = torch.cat((observation["ego"], observation["route"]), -1) * self.scale
        return torch.cat((self._map(observation["bev"]), self.vector(vector)), -1)

    def _map(self, classes: Tensor) -> Tensor:
        features: Tensor = self.map_out(self._cells(classes))
        return features

    def _make(self, embedding: int) -> None:
        self.embed, self.map = nn.Embedding(NUM_CLASSES, embedding), _convolutions(embedding)

    def _cells(self, classes: Tensor) -> Tensor:
        """Class maps (B, W, H) -> (B, F)."""
        # SB3 hands over floats; class numbers up to 17 are exact in them.
        cells: Tensor = self.map(self.embed(classes.long()).permute(0, 3, 1, 2))
        return cells


class GroupMapExtractor(ClassMapExtractor):
    """As `ClassMapExtractor`, four to five times faster: it tells groups of classes apart, and strides first.

    Every square of 4 x 4 cells goes through one linear layer, with five numbers for each cell: which of `GROUPS` its
    class belongs to, none where it is free. Nothing is learned for single cells, so no gradient runs to them.

    Args:
        observation_space, map_features, vector_features: as in `ClassMapExtractor`.
        channels: width of the map behind the first layer.
    """

    groups: Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        channels: int = 32,
        map_features: int = 96,
        vector_features: int = 64,
    ) -> None:
        super().__init__(observation_space, channels, map_features, vector_features)

    def _make(self, channels: int) -> None:
        table = torch.zeros(NUM_CLASSES, len(GROUPS))
        for number, classes in enumerate(GROUPS):
            table[list(classes), number] = 1
        self.register_buffer("groups", table, persistent=False)
        self.stem = nn.Linear(PATCH**2 * len(GROUPS), channels)
        layers = [nn.ReLU(), nn.Conv2d(channels, 32, 3, stride=2, padding=1), nn.ReLU()]
        self.map = nn.Sequential(*layers, nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten())

    def _cells(self, classes: Tensor) -> Tensor:
        classes = classes.to(torch.uint8)
        over = [-size % PATCH for size in classes.shape[1:]]
        if any(over):
            classes = F.pad(classes, (0, over[1], 0, over[0]), value=FREE)
        batch, rows, columns = len(classes), classes.shape[1] // PATCH, classes.shape[2] // PATCH
        squares = classes.view(batch, rows, PATCH, columns, PATCH).transpose(2, 3).reshape(-1, PATCH**2)
        squares = F.embedding(squares.int(), self.groups).flatten(1)
        cells: Tensor = self.map(self.stem(squares).view(batch, rows, columns, -1).permute(0, 3, 1, 2))
        return cells


class TokenMapExtractor(BaseFeaturesExtractor):
    """`observation="tokens"` -> feature vector (B, features_dim); arguments as in `ClassMapExtractor`."""

    scale: Tensor

    def __init__(self, observation_space: spaces.Dict, map_features: int = 96, vector_features: int = 64) -> None:
        super().__init__(observation_space, map_features + vector_features)
        shape = observation_space["tokens"].shape
        assert shape is not None
        self.map, bound = _convolutions(shape[0]), _bounds(observation_space)
        with torch.no_grad():
            size = self.map(torch.zeros(1, *shape)).shape[1]
        self.map_out = nn.Sequential(nn.Linear(size, map_features), nn.ReLU())
        self.register_buffer("scale", 1 / bound)
        self.vector = _perceptron(len(bound), vector_features)

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        vector = torch.cat((observation["ego"], observation["route"]), -1) * self.scale
        return torch.cat((self.map_out(self.map(observation["tokens"])), self.vector(vector)), -1)


OUTLIER = 5.0
"""Standardised numbers are clipped to this."""


class BoundedExtractor(BaseFeaturesExtractor):
    """Features of `observation="state"` -> the same (B, F), divided by their bounds."""

    scale: Tensor

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, int(np.prod(observation_space.shape)))
        self.register_buffer("scale", 1 / torch.as_tensor(observation_space.high))

    def forward(self, observation: Tensor) -> Tensor:
        return observation * self.scale


class StandardExtractor(BaseFeaturesExtractor):
    """Features of a vector -> the same (B, F), by mean and deviation of a sample, within `OUTLIER`."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, int(np.prod(observation_space.shape)))
        self.register_buffer("mean", torch.zeros(self.features_dim, dtype=torch.float32))
        self.register_buffer("deviation", torch.ones(self.features_dim, dtype=torch.float32))

    def fit(self, sample: Tensor) -> None:
        """Take the moments of observations (N, F); what never changes is left as it is."""
        spread = sample.std(0)
        self.mean.copy_(sample.mean(0))
        self.deviation.copy_(torch.where(spread > 1e-4, spread, torch.ones_like(spread)))

    def forward(self, observation: Tensor) -> Tensor:
        return ((observation - self.mean) / self.deviation).clamp(-OUTLIER, OUTLIER)


def extractor_for(
    name: str, space: spaces.Space[Any], *, grouped: bool = False, standard: bool = False
) -> type[BaseFeaturesExtractor]:
    """The features extractor of an observation mode; of a mode of one's own, SB3's.

    Args:
        name: the mode. space: its space, with what a prior adds to it.
        grouped: for class maps the `GroupMapExtractor`.
        standard: for vectors the `StandardExtractor`.

    Raises:
        OptionError: ``standard`` for anything but a vector.
    """
    if standard:
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise OptionError(
                f"standardised observations of observation={name!r}", "a vector, such as traffic", "leave it out"
            )
        return StandardExtractor
    maps = GroupMapExtractor if grouped else ClassMapExtractor
    own: type[BaseFeaturesExtractor] = CombinedExtractor if isinstance(space, spaces.Dict) else FlattenExtractor
    known: dict[str, type[BaseFeaturesExtractor]] = {
        "bev": maps,
        "occupancy": maps,
        "tokens": TokenMapExtractor,
        "state": BoundedExtractor,
    }
    return known.get(name, own)


def check_class_ids(classes: Tensor) -> None:
    """Refuse what is no class id.

    Raises:
        ConfigError: a wrapper has normalised or scaled the class ids; names the keys that it may have.
    """
    if bool(((classes != classes.round()) | (classes < 0) | (classes >= NUM_CLASSES)).any()):
        raise ConfigError(
            f"class ids from {float(classes.min()):.3g} to {float(classes.max()):.3g}, which were normalised or scaled",
            f"whole numbers 0..{NUM_CLASSES - 1}",
            'leave them out: VecNormalize(env, norm_obs_keys=["ego", "route"]), norm_obs=False for "occupancy"',
        )


def _has_class_map(space: spaces.Space[Any]) -> bool:
    return {"bev", "ego", "route"} <= set(space) if isinstance(space, spaces.Dict) else space.shape == OCC3D.shape


def _convolutions(channels: int) -> nn.Sequential:
    """Maps (B, C, X, Y) -> (B, F)."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise((channels, 16, 32, 32, 32))):
        kernel = 5 if i == 0 else 3
        layers += [nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten())


def _bounds(space: spaces.Dict) -> Tensor:
    """Upper bounds of ego and route together."""
    return torch.cat([torch.as_tensor(space[key].high) for key in ("ego", "route")])  # type: ignore[attr-defined]  # boxes


def _perceptron(width: int, features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, features), nn.ReLU())
