"""Write pictures and films, atomically."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from world_model.core.errors import ConfigError
from world_model.core.files import atomic_write


def write_png(path: str | Path, image: NDArray[Any]) -> Path:
    """Write one (H, W, 3) uint8 picture.

    Raises:
        ConfigError: the array is no RGB picture.
        OutputError: the file cannot be written; an earlier one stays.
    """
    with atomic_write(path) as stream:
        Image.fromarray(_checked(image)).save(stream, format="PNG", optimize=True)
    return Path(path)


def write_gif(path: str | Path, frames: Sequence[NDArray[Any]], fps: float = 4.0, hold_s: float = 1.0) -> Path:
    """Write a film that loops for ever.

    All frames share one palette, taken from the whole film, so that surfaces keep their colour from frame to frame.

    Args:
        path: the GIF file.
        frames: (H, W, 3) uint8 pictures of one size.
        fps: frames per second.
        hold_s: how long the last frame stays before the film starts again.

    Raises:
        ConfigError: no frames, or frames of several sizes.
        OutputError: the file cannot be written; an earlier one stays.
    """
    shapes = {frame.shape for frame in frames}
    if len(shapes) != 1 or fps <= 0:
        raise ConfigError(
            f"{len(frames)} frames of shapes {sorted(shapes)} at {fps} a second", "one or more frames of one size"
        )
    palette = _shared_palette(frames)
    pictures = [Image.fromarray(_checked(f)).quantize(palette=palette, dither=Image.Dither.NONE) for f in frames]
    # GIF counts in hundredths of a second.
    times = [max(20, round(100 / fps) * 10)] * len(pictures)
    times[-1] += round(hold_s * 1000)
    content = io.BytesIO()
    pictures[0].save(content, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0, optimize=False)
    with atomic_write(path) as stream:
        stream.write(content.getvalue())
    return Path(path)


def _checked(image: NDArray[Any]) -> NDArray[Any]:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ConfigError(f"a picture of {image.dtype} {image.shape}", "uint8 (height, width, 3)")
    return np.ascontiguousarray(image)


def _shared_palette(frames: Sequence[NDArray[Any]]) -> Image.Image:
    """A palette of 256 colours for all frames.

    Colours count by the root of how often they occur: a small red car must not lose its colour to wide roads.
    """
    counts = np.zeros(1 << 15, np.int64)
    for frame in frames:
        coarse = (_checked(frame) >> 3).astype(np.int32)
        counts += np.bincount((coarse[..., 0] << 10 | coarse[..., 1] << 5 | coarse[..., 2]).ravel(), minlength=1 << 15)
    used = np.flatnonzero(counts)
    colors = np.stack((used >> 10, used >> 5 & 31, used & 31), -1) * 8 + 4
    weighted = np.repeat(colors, np.ceil(np.sqrt(counts[used])).astype(int), axis=0)
    sample = Image.fromarray(np.ascontiguousarray(weighted[None], dtype=np.uint8))
    return sample.quantize(colors=256, method=Image.Quantize.MEDIANCUT)
