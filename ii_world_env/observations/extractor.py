"""Features for stable-baselines3 out of class maps: an embedding per class, then a small convolutional net.

About 0.2 M parameters. SB3's default would flatten 10,000 class numbers (or one-hot 640,000 voxels) into a dense layer.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from ii_world_env.observations import modes as observations
from world_model.core.errors import ConfigError
from world_model.core.grid import NUM_CLASSES, OCC3D


class ClassMapExtractor(BaseFeaturesExtractor):
    """Observation -> feature vector (B, features_dim).

    Args:
        observation_space: of `observation="bev"` (a dict) or `observation="occupancy"`.
        embedding: width of a class embedding.
        map_features: features of the map.
        vector_features: features of ego and route together.

    Raises:
        ConfigError: another observation space.
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
        if not is_dict and observation_space.shape != OCC3D.shape:
            raise ConfigError(
                f"observation space {observation_space}",
                'that of observation="bev" or "occupancy"',
                "use one of these modes",
            )
        super().__init__(observation_space, map_features + (vector_features if is_dict else 0))
        self.embed = nn.Embedding(NUM_CLASSES, embedding)
        widths = (embedding, 16, 32, 32, 32)
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(widths)):
            kernel = 5 if i == 0 else 3
            layers += [nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2), nn.ReLU()]
        self.map = nn.Sequential(*layers, nn.Flatten())
        shape = observation_space["bev"].shape if isinstance(observation_space, spaces.Dict) else (100, 100)
        assert shape is not None
        with torch.no_grad():
            size = self.map(torch.zeros(1, embedding, *shape)).shape[1]
        self.map_out = nn.Sequential(nn.Linear(size, map_features), nn.ReLU())
        self.vector: nn.Module | None = None
        if isinstance(observation_space, spaces.Dict):
            bound = [torch.as_tensor(observation_space[key].high) for key in ("ego", "route")]  # type: ignore[attr-defined]
            self.register_buffer("scale", 1 / torch.cat(bound))
            self.vector = nn.Sequential(
                nn.Linear(len(torch.cat(bound)), 64), nn.ReLU(), nn.Linear(64, vector_features), nn.ReLU()
            )

    def forward(self, observation: Tensor | dict[str, Tensor]) -> Tensor:
        if isinstance(observation, Tensor):
            return self._map(observations.bev(observation.to(torch.uint8), OCC3D))
        assert self.vector is not None
        vector = torch.cat((observation["ego"], observation["route"]), -1) * self.scale
        return torch.cat((self._map(observation["bev"]), self.vector(vector)), -1)

    def _map(self, classes: Tensor) -> Tensor:
        # SB3 hands over floats; class numbers up to 17 are exact in them.
        features: Tensor = self.map_out(self.map(self.embed(classes.long()).permute(0, 3, 1, 2)))
        return features
