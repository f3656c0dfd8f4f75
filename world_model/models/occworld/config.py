"""Sizes of OccWorld, and its presets."""

from __future__ import annotations

from dataclasses import dataclass

from world_model.core.errors import ConfigError
from world_model.core.grid import OCC3D, VoxelGrid
from world_model.models.tokenizer.config import TINY_GRID, TokenizerConfig

FAITHFUL, REWARP, CONDITIONED = "faithful", "rewarp", "conditioned"
MODES = (FAITHFUL, REWARP, CONDITIONED)
"""How the forecast answers the action: not at all, as released; by a resampling afterwards; by a trained adapter."""
COMMANDS = 3
POSE_INPUTS = 2 + COMMANDS
"""Displacement to the right and forward, and the command as three flags."""


@dataclass(frozen=True, kw_only=True)
class OccWorldConfig:
    """Sizes of OccWorld. The defaults are the published ones.

    Args:
        grid: voxel grid of the labels.
        class_embed, patch, stem_kernel, channels, channel_mult, res_blocks, level_attention, middle_attention: of the
            tokenizer, as in `TokenizerConfig`.
        latent: width C of code vectors, and of the finest level of the forecaster; its levels have C, 2C and 4C.
        codes: number of code vectors.
        window: frames that the forecaster looks at, at most.
        temporal_layers, pose_layers: attention layers over time, of maps and of poses, in each stage.
        heads: attention heads.
        lever_m: distance of the point whose displacement is the pose input ahead of the ego frame's origin; published
            is the LiDAR of nuScenes.
        adapter: width of the adapter that lets the forecast answer the action; 0: none, as published.
        mode: how a world of this checkpoint answers the action where its name does not say it, one of `MODES`.

    Raises:
        ConfigError: sizes that do not go together.
    """

    grid: VoxelGrid = OCC3D
    class_embed: int = 8
    patch: int = 1
    stem_kernel: int = 3
    channels: int = 64
    channel_mult: tuple[int, ...] = (1, 2, 4)
    res_blocks: tuple[int, ...] = (2, 2, 2)
    level_attention: bool = True
    middle_attention: bool = True
    latent: int = 128
    codes: int = 512
    window: int = 15
    temporal_layers: int = 6
    pose_layers: int = 2
    heads: int = 8
    lever_m: float = 0.943713
    adapter: int = 0
    mode: str = FAITHFUL

    def __post_init__(self) -> None:
        if self.latent % self.heads or min(self.window, self.temporal_layers, self.pose_layers) < 1:
            raise ConfigError(
                f"latent {self.latent} with {self.heads} heads, window {self.window}, "
                f"layers {self.temporal_layers} and {self.pose_layers}",
                "a latent width divisible by the heads, at least one of the rest",
                "change one of them",
            )
        if self.mode not in MODES or (self.mode == CONDITIONED and not self.adapter):
            raise ConfigError(
                f"mode={self.mode!r} with adapter={self.adapter}", f"one of {MODES}; {CONDITIONED} with an adapter", ""
            )
        if self.adapter % (32 if self.adapter > 32 else 4):
            raise ConfigError(f"adapter={self.adapter}", "a multiple of 4 up to 32, else one of 32", "change --width")
        if min(self.levels[-1]) < 1:
            raise ConfigError(
                f"a latent map of {self.levels[0]} cells", "at least 4 x 4", "take a larger grid or fewer levels"
            )

    @property
    def codec(self) -> TokenizerConfig:
        """Sizes of the tokenizer: one stage, no memory."""
        return TokenizerConfig(
            grid=self.grid,
            class_embed=self.class_embed,
            patch=self.patch,
            stem_kernel=self.stem_kernel,
            channels=self.channels,
            channel_mult=self.channel_mult,
            res_blocks=self.res_blocks,
            level_attention=self.level_attention,
            middle_attention=self.middle_attention,
            latent=self.latent,
            codes=self.codes,
            spatial_divisors=(1,),
            memory=0,
        )

    @property
    def latent_shape(self) -> tuple[int, int]:
        """Size (Xl, Yl) of the map of codes."""
        return self.codec.latent_shape

    @property
    def levels(self) -> list[tuple[int, int]]:
        """Sizes of the three levels of the forecaster, fine to coarse."""
        x, y = self.latent_shape
        return [(x >> level, y >> level) for level in range(3)]


def base() -> OccWorldConfig:
    """The published model, 72.4 M parameters."""
    return OccWorldConfig()


def nano() -> OccWorldConfig:
    """The bundled one: the same grid and the same map of codes, sized for two CPU cores."""
    return OccWorldConfig(
        patch=2,
        stem_kernel=1,
        channels=32,
        channel_mult=(1, 2),
        res_blocks=(1, 1),
        level_attention=False,
        middle_attention=False,
        latent=16,
        window=6,
        temporal_layers=1,
        pose_layers=1,
        heads=4,
    )


def tiny(grid: VoxelGrid = TINY_GRID, window: int = 4) -> OccWorldConfig:
    """A few thousand parameters, for tests and trials of the whole chain."""
    return OccWorldConfig(
        grid=grid,
        class_embed=4,
        patch=2,
        stem_kernel=1,
        channels=8,
        channel_mult=(1, 2),
        res_blocks=(1, 1),
        level_attention=False,
        middle_attention=False,
        latent=8,
        codes=32,
        window=window,
        temporal_layers=1,
        pose_layers=1,
        heads=2,
    )


def trial() -> OccWorldConfig:
    """`tiny` on the grid of real data."""
    return tiny(OCC3D)


PRESETS = {"base": base, "nano": nano, "tiny": trial}
