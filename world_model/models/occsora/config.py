"""Sizes of OccSora's two networks, and their presets.

Source: OccSora: 4D Occupancy Generation Models as World Simulators for Autonomous Driving (Wang et al., 2024, arXiv
2405.20337).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from world_model.core.errors import ConfigError
from world_model.core.grid import OCC3D, VoxelGrid
from world_model.models.tokenizer.config import TINY_GRID

Trajectory = Literal["command_flags", "step_metres", "path_metres", "path_unit"]
"""What the two numbers per frame of a trajectory are; see `world_model.models.occsora.trajectory`."""


@dataclass(frozen=True, kw_only=True)
class SoraTokenizerConfig:
    """Sizes of the 4D tokenizer. The defaults are the published ones.

    Args:
        grid: voxel grid of the labels.
        frames: keyframes that are encoded together.
        class_embed: width of a class embedding.
        patch: edge in voxels of the bird's-eye patches that enter and leave as channels; 1 is published.
        stem: width of a 1x1 map between the folded labels and the convolutions; 0, as published: none.
        width: channels of the convolutions.
        halvings: how often time, x and y are halved; the number of stages is the largest of them.
        blocks: residual blocks with axial attention on each side.
        heads: heads of the axial attention.
        latent: channels of a code.
        codes: number of codebook entries.
    """

    grid: VoxelGrid = OCC3D
    frames: int = 32
    class_embed: int = 8
    patch: int = 1
    stem: int = 0
    width: int = 512
    halvings: tuple[int, int, int] = (3, 3, 3)
    blocks: int = 4
    heads: int = 2
    latent: int = 128
    codes: int = 512

    def __post_init__(self) -> None:
        if any(n % self.patch for n in self.grid.shape[:2]) or self.width % self.heads:
            raise ConfigError(
                f"grid {self.grid.shape}, patch {self.patch}, width {self.width}, heads {self.heads}",
                "X and Y divisible by the patch, the width by the heads",
                "change one of them",
            )
        if self.frames % 2 ** self.halvings[0]:
            raise ConfigError(
                f"{self.frames} frames halved {self.halvings[0]} times", "frames that can be halved so often", ""
            )

    @property
    def folded(self) -> int:
        """Channels of the folded labels: (patch x, patch y, z, embedding)."""
        return self.patch**2 * self.grid.shape[2] * self.class_embed

    @property
    def sizes(self) -> list[tuple[int, int, int]]:
        """Size (t, x, y) before each stage, and of the latent last; odd sizes round up."""
        x, y, _ = self.grid.shape
        size, all_sizes = (self.frames, x // self.patch, y // self.patch), []
        for stage in range(max(self.halvings)):
            all_sizes.append(size)
            t, x, y = (-(-n // s) for n, s in zip(size, self.stride(stage), strict=True))
            size = (t, x, y)
        return [*all_sizes, size]

    def stride(self, stage: int) -> tuple[int, int, int]:
        """Strides (t, x, y) of a stage of the encoder."""
        t, x, y = (2 if stage < n else 1 for n in self.halvings)
        return (t, x, y)

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(C, t, x, y) of a latent."""
        return (self.latent, *self.sizes[-1])


@dataclass(frozen=True, kw_only=True)
class SoraTransformerConfig:
    """Sizes of the diffusion transformer, and what it expects. The defaults are the published ones.

    Args:
        latent_shape: (C, t, x, y) of the tokenizer's latent.
        frames: keyframes of a latent, each with two numbers of the trajectory.
        width: of a token.
        depth: number of blocks.
        heads: attention heads.
        trajectory_width: hidden width of the trajectory's MLP.
        trajectory: what its two numbers per frame are. The release does not say: a property of the weights.
        trajectory_scale: these numbers are divided by it.
        latent_scale: latents are divided by it before noise is added.
        history: the transformer is also given the latent of the observation, carried along the trajectory. The release
            has no such input.
        steps: steps of the noise process.
        beta: variance of its first and its last step, linear between.
    """

    latent_shape: tuple[int, int, int, int] = (128, 4, 25, 25)
    frames: int = 32
    width: int = 256
    depth: int = 28
    heads: int = 16
    trajectory_width: int = 128
    trajectory: Trajectory = "step_metres"
    trajectory_scale: float = 1.0
    latent_scale: float = 10.0
    history: bool = False
    steps: int = 1000
    beta: tuple[float, float] = (1e-4, 0.02)

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 2 or min(self.trajectory_scale, self.latent_scale) <= 0:
            raise ConfigError(
                f"width {self.width}, {self.heads} heads, scales {self.trajectory_scale} and {self.latent_scale}",
                "an even width that the heads divide, positive scales",
                "change one of them",
            )

    def fits(self, tokenizer: SoraTokenizerConfig) -> bool:
        """Whether latents of a tokenizer are what the transformer draws."""
        return (self.latent_shape, self.frames) == (tokenizer.latent_shape, tokenizer.frames)


Sizes = tuple[SoraTokenizerConfig, SoraTransformerConfig]


def base() -> Sizes:
    """The published networks: 137.4 M and 36.8 M parameters."""
    return SoraTokenizerConfig(), SoraTransformerConfig()


def nano() -> Sizes:
    """The bundled ones: the same grid, frames and parts, sized for a CPU core. The latent is 16 x 4 x 13 x 13."""
    tokenizer = SoraTokenizerConfig(
        class_embed=8, patch=4, stem=16, width=48, halvings=(3, 2, 2), blocks=2, latent=16, codes=512
    )
    transformer = SoraTransformerConfig(
        latent_shape=tokenizer.latent_shape, width=80, depth=5, heads=5, trajectory_width=64, trajectory_scale=5.0
    )
    return tokenizer, transformer


def tiny(grid: VoxelGrid = TINY_GRID) -> Sizes:
    """A few thousand parameters, for tests and trials of the whole chain; eight frames."""
    tokenizer = SoraTokenizerConfig(
        grid=grid, frames=8, class_embed=2, patch=4, stem=8, width=8, halvings=(2, 1, 2), blocks=1, latent=4, codes=16
    )
    transformer = SoraTransformerConfig(
        latent_shape=tokenizer.latent_shape, frames=8, width=16, depth=2, heads=2, trajectory_width=8, steps=50
    )
    return tokenizer, transformer


def trial() -> Sizes:
    """`tiny` on the grid of real data."""
    return tiny(OCC3D)


PRESETS = {"base": base, "nano": nano, "tiny": trial}
