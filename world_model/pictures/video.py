"""Write pictures and films, atomically. GIFs need nothing; MP4s need the extra `video` (imageio and imageio-ffmpeg)."""

from __future__ import annotations

import importlib
import importlib.util
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from world_model.core.errors import ConfigError, OutputError
from world_model.core.files import atomic_write

INSTALL = "pip install 'iiworld[video]'"
"""Installs what MP4 films need."""


def write_png(path: str | Path, image: NDArray[Any]) -> Path:
    """Write one (H, W, 3) uint8 picture.

    Raises:
        ConfigError: the array is no RGB picture.
        OutputError: the file cannot be written; an earlier one stays.
    """
    with atomic_write(path) as stream:
        Image.fromarray(_checked(image)).save(stream, format="PNG", optimize=True)
    return Path(path)


def write_film(path: str | Path, frames: Sequence[NDArray[Any]], fps: float = 4.0) -> Path:
    """Write a film in the format of its suffix; without the extra `video` a GIF instead of an MP4, and say so.

    Args:
        path: a file that ends in .gif or .mp4.
        frames: (H, W, 3) uint8 pictures of one size.
        fps: frames per second.

    Returns:
        The file that was written.

    Raises:
        ConfigError: no frames, frames of several sizes, or another suffix.
        OutputError: the file cannot be written; an earlier one stays.
    """
    path = Path(path)
    if path.suffix not in (".gif", ".mp4"):
        raise ConfigError(f"a film named {path.name}", "a name that ends in .gif or .mp4")
    if path.suffix == ".mp4" and not can_write_mp4():
        path = path.with_suffix(".gif")
        print(f"  an MP4 needs imageio-ffmpeg ({INSTALL}): wrote {path.name} instead", flush=True)
    return write_gif(path, frames, fps) if path.suffix == ".gif" else write_mp4(path, frames, fps)


def write_gif(path: str | Path, frames: Sequence[NDArray[Any]], fps: float = 4.0, hold_s: float = 1.0) -> Path:
    """Write a film that loops for ever.

    All frames share one palette, taken from the whole film, so that surfaces keep their colour from frame to frame.

    Args:
        path, frames, fps: see `write_film`.
        hold_s: how long the last frame stays before the film starts again.

    Raises:
        ConfigError, OutputError: as `write_film`.
    """
    frames = _film(frames, fps)
    palette = _shared_palette(frames)
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    # GIF counts in hundredths of a second.
    times = [max(20, round(100 / fps) * 10)] * len(pictures)
    times[-1] += round(hold_s * 1000)
    content = io.BytesIO()
    pictures[0].save(content, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0, optimize=False)
    with atomic_write(path) as stream:
        stream.write(content.getvalue())
    return Path(path)


def can_write_mp4() -> bool:
    """Whether imageio and imageio-ffmpeg are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("imageio", "imageio_ffmpeg"))


def write_mp4(path: str | Path, frames: Sequence[NDArray[Any]], fps: float = 4.0) -> Path:
    """Write an H.264 film; odd edges are padded by a black pixel, because the codec needs even ones.

    Args:
        path, frames, fps: see `write_film`.

    Raises:
        ConfigError, OutputError: as `write_film`; also an `OutputError` where the extra `video` is not installed.
    """
    frames = _film(frames, fps)
    if not can_write_mp4():
        raise OutputError(f"no imageio-ffmpeg to write {path} with", "the extra `video`", f"{INSTALL}, or write a GIF")
    edges = [(0, n % 2) for n in frames[0].shape[:2]] + [(0, 0)]
    imageio: Any = importlib.import_module("imageio.v2")
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        try:
            imageio.mimwrite(
                film,
                [np.pad(frame, edges) for frame in frames],
                format="FFMPEG",
                fps=fps,
                codec="libx264",
                macro_block_size=2,
                ffmpeg_log_level="error",
            )
        except (OSError, RuntimeError) as error:
            remedy = "free space, choose another folder, or write a GIF"
            raise OutputError(f"ffmpeg could not write {path}: {str(error)[-300:]}", "a film", remedy) from error
        with atomic_write(path) as stream:
            stream.write(film.read_bytes())
    return Path(path)


def _film(frames: Sequence[NDArray[Any]], fps: float) -> list[NDArray[Any]]:
    shapes = {frame.shape for frame in frames}
    if len(shapes) != 1 or fps <= 0:
        raise ConfigError(
            f"{len(frames)} frames of shapes {sorted(shapes)} at {fps} a second", "one or more frames of one size"
        )
    return [_checked(frame) for frame in frames]


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
        coarse = (frame >> 3).astype(np.int32)
        counts += np.bincount((coarse[..., 0] << 10 | coarse[..., 1] << 5 | coarse[..., 2]).ravel(), minlength=1 << 15)
    used = np.flatnonzero(counts)
    colors = np.stack((used >> 10, used >> 5 & 31, used & 31), -1) * 8 + 4
    weighted = np.repeat(colors, np.ceil(np.sqrt(counts[used])).astype(int), axis=0)
    sample = Image.fromarray(np.ascontiguousarray(weighted[None], dtype=np.uint8))
    return sample.quantize(colors=256, method=Image.Quantize.MEDIANCUT)
