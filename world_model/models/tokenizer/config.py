"""Sizes of the tokenizer, and its presets."""

from __future__ import annotations

from dataclasses import dataclass

from world_model.core.errors import ConfigError
from world_model.core.grid import OCC3D, VoxelGrid


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Sizes of the II-Tokenizer. The defaults are the published ones.

    Args:
        grid: voxel grid of the labels.
        class_embed: width e of a class embedding.
        patch: edge in voxels of the bird's-eye patches that enter the first and leave the last convolution as
            channels. 1 is published; 2 quarters the cost of the finest level (Shi et al., CVPR 2016).
        stem_kernel: kernel of the first and the last convolution. 3 is published; 1 lets the first one skip all free
            voxels.
        channels: width of the finest level.
        channel_mult: width of each level, as a multiple of ``channels``. Every level but the last is halved.
        res_blocks: residual blocks of each level.
        level_attention: self-attention after every residual block of the coarsest level.
        middle_attention: self-attention between the middle blocks.
        latent: channels C of latent, codebook and token.
        codes: number of codebook entries.
        spatial_divisors: the latent is quantized at its size divided by each of these, coarse to fine.
        memory: frames of temporal memory, one quantizer stage each.
        faithful: keep the mistakes that the published weights were trained with (`world_model.checkpoints.deviations`).
    """

    grid: VoxelGrid = OCC3D
    class_embed: int = 16
    patch: int = 1
    stem_kernel: int = 3
    channels: int = 64
    channel_mult: tuple[int, ...] = (1, 2, 4)
    res_blocks: tuple[int, ...] = (2, 2, 4)
    level_attention: bool = True
    middle_attention: bool = True
    latent: int = 128
    codes: int = 512
    spatial_divisors: tuple[int, ...] = (4, 2, 1)
    memory: int = 4
    faithful: bool = False

    def __post_init__(self) -> None:
        if len(self.channel_mult) != len(self.res_blocks):
            raise ConfigError(
                f"channel_mult {self.channel_mult} and res_blocks {self.res_blocks} differ in length",
                "one entry per level in each",
                "change one of the two",
            )
        # Only stages of several resolutions, and the memory, need whole cells.
        factor = self.patch if self.spatial_divisors == (1,) and not self.memory else self.stride
        if any(n % factor for n in self.grid.shape[:2]):
            raise ConfigError(
                f"grid {self.grid.shape} with patch {self.patch} and {len(self.channel_mult)} levels",
                f"X and Y divisible by {factor}",
                "change grid, patch or the number of levels",
            )

    @property
    def stride(self) -> int:
        """Voxels per latent cell along x and y."""
        return int(self.patch * 2 ** (len(self.channel_mult) - 1))

    @property
    def latent_shape(self) -> tuple[int, int]:
        """Size (Xl, Yl) of the latent map."""
        return (-(-self.grid.shape[0] // self.stride), -(-self.grid.shape[1] // self.stride))

    @property
    def cell_m(self) -> float:
        """Edge of a latent cell in metres."""
        return self.grid.voxel_m * self.stride

    @property
    def stem_channels(self) -> int:
        """Channels that enter the first and leave the last convolution."""
        return self.grid.shape[2] * self.class_embed * self.patch**2


def base() -> TokenizerConfig:
    """The published tokenizer, 20.2 M parameters."""
    return TokenizerConfig()


def nano() -> TokenizerConfig:
    """The bundled one: the same grid and the same stages, sized for two CPU cores."""
    return TokenizerConfig(
        class_embed=8,
        patch=2,
        stem_kernel=1,
        channels=32,
        channel_mult=(1, 2),
        res_blocks=(1, 1),
        level_attention=False,
        middle_attention=False,
        latent=64,
        codes=512,
    )


TINY_GRID = VoxelGrid(shape=(40, 40, 16), lower_m=(-8.0, -8.0, -1.0))
"""A 16 x 16 m grid for tests."""


def tiny(grid: VoxelGrid = TINY_GRID) -> TokenizerConfig:
    """A few thousand parameters, for tests and trials of the whole chain."""
    return TokenizerConfig(
        grid=grid,
        class_embed=4,
        patch=2,
        stem_kernel=1,
        channels=8,
        channel_mult=(1, 2),
        res_blocks=(1, 1),
        level_attention=False,
        middle_attention=False,
        latent=16,
        codes=32,
    )


def trial() -> TokenizerConfig:
    """`tiny` on the grid of real data: tries the whole chain of commands in seconds."""
    return tiny(OCC3D)


PRESETS = {"base": base, "nano": nano, "tiny": trial}
