"""The sizes of a model, read off its state dict."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from world_model.core.errors import DataError
from world_model.core.grid import VoxelGrid
from world_model.models.forecaster import ForecasterConfig
from world_model.models.occworld import OccWorldConfig
from world_model.models.tokenizer import TokenizerConfig

VOXEL_M = 0.4
LOWER_Z_M = -1.0


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers stand in the place of the group."""
    return len({m[1] for key in weights if (m := re.match(pattern, key))})


def _width(weights: Mapping[str, Tensor], key: str, axis: int = 0) -> int:
    if key not in weights or weights[key].dim() <= axis:
        raise DataError(f"a state dict without {key}", "the published parameter names", "give a folder of this layout")
    return int(weights[key].shape[axis])


def centred_grid(shape: tuple[int, ...]) -> VoxelGrid:
    """The grid of label arrays (X, Y, Z): 0.4 m voxels, centred on the vehicle in x and y, from -1 m in z."""
    if len(shape) != 3:
        raise DataError(f"labels of shape {shape}", "(X, Y, Z)", "give a folder of the golden layout")
    x, y, z = shape
    # n / 5 rather than 0.2 n: the nearest double to the lower corner.
    return VoxelGrid(shape=(x, y, z), lower_m=(-x / 5, -y / 5, LOWER_Z_M), voxel_m=VOXEL_M)


def tokenizer_config(weights: Mapping[str, Tensor], grid: VoxelGrid) -> TokenizerConfig:
    """Sizes of a published tokenizer, of any width and depth.

    Raises:
        DataError: parameters are missing that every tokenizer has.
    """
    levels = _count(weights, r"encoder\.down\.(\d+)\.block\.0\.")
    channels = _width(weights, "encoder.conv_in.weight")
    widths = [_width(weights, f"encoder.down.{i}.block.0.conv1.weight") for i in range(levels)]
    return TokenizerConfig(
        grid=grid,
        class_embed=_width(weights, "class_embeds.weight", 1),
        stem_kernel=_width(weights, "encoder.conv_in.weight", 2),
        channels=channels,
        channel_mult=tuple(width // channels for width in widths),
        res_blocks=tuple(_count(weights, rf"encoder\.down\.{i}\.block\.(\d+)\.") for i in range(levels)),
        level_attention=any(re.match(r"encoder\.down\.\d+\.attn\.", key) for key in weights),
        middle_attention="encoder.mid.attn_1.q.weight" in weights,
        latent=_width(weights, "vq.embedding.weight", 1),
        codes=_width(weights, "vq.embedding.weight"),
        spatial_divisors=tuple(2**i for i in reversed(range(_count(weights, r"vq\.recover_scale_conv\.(\d+)\.")))),
        memory=_count(weights, r"vq\.recover_time_conv\.(\d+)\."),
        faithful=True,
    )


def occworld_config(weights: Mapping[str, Tensor], grid: VoxelGrid) -> OccWorldConfig:
    """Sizes of a published OccWorld, of any width and depth. The number of heads leaves no trace in the weights.

    Raises:
        DataError: parameters are missing that every OccWorld has.
    """
    codec = {key.removeprefix("vae."): value for key, value in weights.items() if key.startswith("vae.")}
    levels = _count(codec, r"encoder\.down\.(\d+)\.block\.0\.")
    channels = _width(codec, "encoder.conv_in.weight")
    widths = [_width(codec, f"encoder.down.{i}.block.0.conv1.weight") for i in range(levels)]
    return OccWorldConfig(
        grid=grid,
        class_embed=_width(codec, "class_embeds.weight", 1),
        channels=channels,
        channel_mult=tuple(width // channels for width in widths),
        res_blocks=tuple(_count(codec, rf"encoder\.down\.{i}\.block\.(\d+)\.") for i in range(levels)),
        level_attention=any(re.match(r"encoder\.down\.\d+\.attn\.", key) for key in codec),
        middle_attention="encoder.mid.attn_1.q.weight" in codec,
        latent=_width(codec, "vqvae.embedding.weight", 1),
        codes=_width(codec, "vqvae.embedding.weight"),
        window=_width(weights, "transformer.temporal_embeddings.weight") - 1,
        temporal_layers=_count(weights, r"transformer\.temporal_attentions_en\.0\.(\d+)\."),
        pose_layers=_count(weights, r"transformer\.pose_attn_en\.0\.(\d+)\."),
    )


def forecaster_config(weights: Mapping[str, Tensor], latent_shape: tuple[int, int], heads: int = 8) -> ForecasterConfig:
    """Sizes of a published forecaster, of any width and depth. The number of heads leaves no trace in the weights.

    Raises:
        DataError: parameters are missing that every forecaster has.
    """
    layers = _count(weights, r"transformer\.intra_encoder\.layers\.(\d+)\.")
    first = "transformer.intra_encoder.layers.0.attentions.0"
    halved = "transformer.intra_encoder.layers.{}.convs.0.downsample.weight"
    return ForecasterConfig(
        width=_width(weights, "pose_encoder.plan_encoder.weight"),
        latent_shape=latent_shape,
        heads=heads,
        points=_width(weights, f"{first}.attention_weights.weight") // heads,
        strides=tuple(2 if halved.format(i) in weights else 1 for i in range(layers)),
        decoder_layers=_count(weights, r"transformer\.inter_decoder\.layers\.(\d+)\."),
        ffn=_width(weights, "transformer.inter_decoder.layers.0.ffns.0.layers.0.0.weight"),
        pose_width=_width(weights, "pose_encoder.pose_time_embedding", 2),
        history=_width(weights, "pose_encoder.pose_time_embedding", 1),
        faithful=True,
    )


def for_map(weights: Mapping[str, Tensor], latent_shape: tuple[int, int]) -> dict[str, Tensor]:
    """The weights for a smaller token map: it uses the first rows and columns of the position embedding."""
    name = "transformer.positional_encoding.{}_embed.weight"
    cut = {name.format("row"): latent_shape[0], name.format("col"): latent_shape[1]}
    return {key: value[: cut[key]] if key in cut else value for key, value in weights.items()}


def fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load a state dict.

    Raises:
        DataError: it does not fit the model.
    """
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise DataError(
            f"a state dict that does not fit the sizes read off it ({error})", "all published parameters", ""
        ) from error
