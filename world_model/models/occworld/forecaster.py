"""OccWorld's forecaster: a U-net over maps of codes and ego poses, with attention over time in every stage.

Two members go through the same weights: queries, which ask for the next frame, and tokens, which say what a frame was.
Nothing flows from the poses to the maps, and tokens never look at other frames: so what a past frame said stays as it
is, and one step needs one frame only (`cache`).

Source: Zheng et al., ECCV 2024. Legend: B windows, F frames of a window, n given frames, h x w cells, C width.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.models.occworld.blocks import PoseLayer, TemporalLayer, blocks, mlp
from world_model.models.occworld.config import OccWorldConfig

QUERY, TOKEN = 0, 1
"""Places of the two members along the first axis."""


class Forecaster(nn.Module):
    """Code vectors and pose vectors of frames -> features of the maps and the poses of the frames after them."""

    def __init__(self, config: OccWorldConfig) -> None:
        super().__init__()
        c, (fine, middle, coarse) = config.latent, config.levels
        down, up = ((c, c), (c, 2 * c)), ((4 * c, 2 * c), (2 * c, c))
        self.config = config
        self.temporal_embeddings = nn.Embedding(config.window + 1, c)
        self.pose_temporal_embeddings = nn.Embedding(config.window + 1, c)

        def stages(kind: type[nn.Module], widths: tuple[int, int], layers: int) -> nn.ModuleList:
            each = (nn.ModuleList(kind(width, config.heads) for _ in range(layers)) for width in widths)
            return nn.ModuleList(each)

        self.temporal_attentions_en = stages(TemporalLayer, (c, c), config.temporal_layers)
        self.temporal_attentions_de = stages(TemporalLayer, (4 * c, 2 * c), config.temporal_layers)
        self.pose_attn_en = stages(PoseLayer, (c, c), config.pose_layers)
        self.pose_attn_de = stages(PoseLayer, (4 * c, 2 * c), config.pose_layers)
        sizes = zip(down, (fine, middle), strict=True)
        self.encoders = nn.ModuleList(blocks(a, b, size, over_channels=False) for (a, b), size in sizes)
        self.mid = blocks(2 * c, 4 * c, coarse, over_channels=True)
        sizes = zip(up, (middle, fine), strict=True)
        self.decoders = nn.ModuleList(blocks(a, b, size, over_channels=True) for (a, b), size in sizes)
        self.downsamples = nn.ModuleList(nn.Conv2d(b, b, 2, stride=2) for _, b in down)
        self.upsamples = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in up)
        self.pose_en = nn.ModuleList(mlp(a, b) for a, b in down)
        self.pose_mid = mlp(2 * c, 4 * c)
        self.pose_de = nn.ModuleList(mlp(a, b) for a, b in up)
        self.pose_up = nn.ModuleList(nn.Linear(a, b) for a, b in up)
        self.conv_out = nn.Conv2d(c, config.codes, 3, padding=1)
        self.pose_out = nn.Linear(c, c)

    @property
    def cache_shape(self) -> tuple[int, int]:
        """(F, N): numbers that are kept of each frame of a window."""
        return self.config.window, sum(channels * (rows * columns + 1) for channels, rows, columns in self._stages())

    def _stages(self) -> list[tuple[int, int, int]]:
        """Channels, rows and columns where attention looks, in order."""
        c, (fine, middle, _) = self.config.latent, self.config.levels
        return [(c, *fine), (c, *middle), (4 * c, *middle), (2 * c, *fine)]

    def forward(self, z: Tensor, p: Tensor, at: Tensor, cache: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features of the frame after each of n frames.

        Args:
            z: (B, n, C, h, w) code vectors.
            p: (B, n, C) pose vectors.
            at: (B, n) places of the frames in their windows.
            cache: (B, F, N) what earlier frames said; what these frames say is written into it. None: the n frames are
                all that there are.

        Returns:
            (B, n, C, h, w) before `conv_out`, and (B, n, C) after `pose_out`.
        """
        batch, n = at.shape
        time, pose_time = self.temporal_embeddings.weight, self.pose_temporal_embeddings.weight
        maps = torch.stack([z + time[at + ahead, :, None, None] for ahead in (1, 0)])
        poses = torch.stack([p + pose_time[at + ahead] for ahead in (1, 0)])
        seen = int(at.max()) + 1 if cache is not None else n
        places = torch.arange(seen, device=at.device) if cache is not None else at[:, None]
        mask = places <= at[..., None]
        keep = self._parts(cache, at, seen)

        def each(module: nn.Module, x: Tensor) -> Tensor:
            """A module over the maps of all frames of both members."""
            out: Tensor = module(x.flatten(0, 2))
            return out.view(2, batch, n, *out.shape[1:])

        def over_time(layers: nn.Module, x: Tensor) -> Tensor:
            keys = _cells(next(keep)(x[TOKEN])).transpose(1, 2)
            query = _cells(x[QUERY]).transpose(1, 2)
            for layer in layers.children():
                query = layer(query, keys, mask[:, None])
            back = query.permute(0, 2, 3, 1).reshape(x.shape[1:])
            return torch.stack((back, x[TOKEN]))

        def of_poses(layers: nn.Module, v: Tensor, x: Tensor) -> Tensor:
            keys, cells, query = next(keep)(v[TOKEN]), _cells(x[QUERY]), v[QUERY]
            for layer in layers.children():
                query = layer(query, keys, mask, cells)
            return torch.stack((query, v[TOKEN]))

        kept = []
        for i in range(2):
            poses = self.pose_en[i](of_poses(self.pose_attn_en[i], poses, maps))
            maps = each(self.encoders[i], over_time(self.temporal_attentions_en[i], maps))
            kept.append((maps, poses))
            maps = each(self.downsamples[i], maps)
        maps, poses = each(self.mid, maps), self.pose_mid(poses)
        for i in range(2):
            earlier, earlier_poses = kept.pop()
            maps = torch.cat((_padded(each(self.upsamples[i], maps), earlier.shape[-2:]), earlier), 3)
            maps = over_time(self.temporal_attentions_de[i], maps)
            poses = torch.cat((self.pose_up[i](poses), earlier_poses), -1)
            poses = self.pose_de[i](of_poses(self.pose_attn_de[i], poses, maps))
            maps = each(self.decoders[i], maps)
        return maps[QUERY], self.pose_out(poses[QUERY])

    def _parts(self, cache: Tensor | None, at: Tensor, seen: int) -> Iterator[_Keep]:
        """What is kept where attention looks, in the order of the forward pass."""
        begin, parts = 0, []
        for channels, rows, columns in self._stages():
            for size in ((channels, rows, columns), (channels,)):
                end = begin + channels * (rows * columns if len(size) == 3 else 1)
                part = None if cache is None else cache[..., begin:end]
                parts.append(_Keep(part, at, seen, size))
                begin = end
        # Down stages ask for poses first, up stages for maps.
        return iter([parts[k] for k in (1, 0, 3, 2, 4, 5, 6, 7)])


class _Keep:
    """What the tokens of earlier frames said at one place of the network."""

    def __init__(self, part: Tensor | None, at: Tensor, seen: int, size: tuple[int, ...]) -> None:
        self.part, self.at, self.seen, self.size = part, at, seen, size

    def __call__(self, tokens: Tensor) -> Tensor:
        """Add (B, n, ...) of the given frames; returns (B, m, ...) of all frames so far."""
        if self.part is None:
            return tokens
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        self.part[rows, self.at] = tokens.flatten(2)
        return self.part[:, : self.seen].reshape(len(tokens), self.seen, *self.size)


def _cells(maps: Tensor) -> Tensor:
    """(B, n, C, h, w) -> (B, n, cells, C), row by row."""
    return maps.flatten(-2).transpose(-1, -2)


def _padded(x: Tensor, size: torch.Size) -> Tensor:
    """Zeros at the far edges, up to a size."""
    return F.pad(x, (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]))
