"""Sizes of the forecaster, and its presets."""

from __future__ import annotations

from dataclasses import dataclass, replace

from world_model.core.errors import ConfigError
from world_model.models.tokenizer.config import TokenizerConfig
from world_model.models.tokenizer.config import base as base_tokenizer
from world_model.models.tokenizer.config import nano as nano_tokenizer
from world_model.models.tokenizer.config import tiny as tiny_tokenizer


@dataclass(frozen=True, kw_only=True)
class ForecasterConfig:
    """Sizes of the II-Former. The defaults are the published ones.

    Args:
        width: channels C of tokens and of the transformer.
        latent_shape: size (Xl, Yl) of the token map.
        lower_m: lower corner (x0, y0) of the map, metres, ego frame.
        cell_m: edge of a cell, metres.
        heads: attention heads.
        points: sampling points per head of the deformable attention.
        strides: stride of each intra encoder layer.
        decoder_layers: inter decoder layers.
        ffn: hidden width of the feed-forward blocks.
        pose_width: width of the motion encoder.
        history: tokens and motions remembered, the current one included.
        transport: move the token history into the next ego frame before decoding, and predict the change against the
            moved current token. False is published: the network itself has to learn to move the scene.
        faithful: keep the mistakes that the published weights were trained with (`world_model.checkpoints.deviations`).
    """

    width: int = 128
    latent_shape: tuple[int, int] = (50, 50)
    lower_m: tuple[float, float] = (-40.0, -40.0)
    cell_m: float = 1.6
    heads: int = 8
    points: int = 4
    strides: tuple[int, ...] = (1, 2, 2)
    decoder_layers: int = 3
    ffn: int = 512
    pose_width: int = 64
    history: int = 5
    transport: bool = False
    faithful: bool = False

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 2:
            raise ConfigError(
                f"width {self.width} with {self.heads} heads",
                "an even width divisible by the heads",
                "change one of them",
            )
        if self.faithful and self.transport:
            raise ConfigError(
                "faithful=True with transport=True",
                "one of the two: the published model does not move its token history",
                "use faithful=True for published weights only",
            )

    def fits(self, tokenizer: TokenizerConfig) -> bool:
        """Whether tokens of this tokenizer can be forecast."""
        return self == for_tokenizer(self, tokenizer)


def for_tokenizer(config: ForecasterConfig, tokenizer: TokenizerConfig) -> ForecasterConfig:
    """The same forecaster for another tokenizer's token map."""
    return replace(
        config,
        width=tokenizer.latent,
        latent_shape=tokenizer.latent_shape,
        lower_m=tokenizer.grid.lower_m[:2],
        cell_m=tokenizer.cell_m,
    )


def base() -> ForecasterConfig:
    """The published forecaster, 2.5 M parameters."""
    return for_tokenizer(ForecasterConfig(), base_tokenizer())


def nano() -> ForecasterConfig:
    """The bundled one: half as wide, with transport."""
    return for_tokenizer(
        ForecasterConfig(strides=(1, 2), decoder_layers=2, ffn=128, pose_width=32, transport=True), nano_tokenizer()
    )


def tiny(tokenizer: TokenizerConfig | None = None) -> ForecasterConfig:
    """A few thousand parameters, for tests."""
    small = ForecasterConfig(
        width=16, heads=4, points=2, strides=(1, 2), decoder_layers=1, ffn=32, pose_width=8, transport=True
    )
    return for_tokenizer(small, tokenizer or tiny_tokenizer())


PRESETS = {"base": base, "nano": nano, "tiny": tiny}
