"""The geometry-first forecaster: observed frames and an ego motion -> the occupancy that the ego will see.

    seen      = model.observe(model.align(labels, frame_to_current))      # once
    evidence  = gather_evidence(seen, target_to_source, elapsed_s, grid)  # geometry
    labels, _ = model.fusion.forecast(evidence)                           # the network

Unlike the token forecaster it has no bottleneck between the observation and the forecast: what rigid motion explains
arrives voxel by voxel, and the network only says how far to believe it, how fast movers go, and what comes into view.
"""

from __future__ import annotations

from torch import Tensor, nn

from world_model.core.errors import DataError
from world_model.models.geometric.config import GeometricConfig
from world_model.models.geometric.evidence import Observation, align_past, observe
from world_model.models.geometric.fusion import FusionNet
from world_model.models.geometric.motion import MotionNet


class GeometricForecaster(nn.Module):
    """Motion and fusion network around the geometry.

    Args:
        config: sizes.
    """

    def __init__(self, config: GeometricConfig) -> None:
        super().__init__()
        self.config = config
        self.motion = MotionNet(config)
        self.fusion = FusionNet(config)

    def align(self, labels: Tensor, frame_to_current: Tensor) -> Tensor:
        """The observed frames (B, P, X, Y, Z) in the ego frame of the current one, newest first.

        Args:
            labels: (B, P, X, Y, Z) uint8, oldest first, the last is the current keyframe; P as configured.
            frame_to_current: (B, P, 4, 4) float32 ego frame of each -> current ego frame, metres.

        Raises:
            DataError: another number of frames or another grid than configured.
        """
        wanted = (self.config.observed, *self.config.grid.shape)
        if tuple(labels.shape[1:]) != wanted:
            raise DataError(
                f"observed labels of shape {tuple(labels.shape)}",
                f"(batch, {', '.join(map(str, wanted))})",
                "give as many past frames, on the grid, as the model was trained with",
            )
        return align_past(labels, frame_to_current, self.config.grid)

    def observe(self, aligned: Tensor) -> Observation:
        """What stands, what moves and how fast, in frames of `align`."""
        return observe(aligned, self.motion.velocity(aligned))
