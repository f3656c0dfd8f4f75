"""Films as MP4 where an ffmpeg is at hand, else as GIF."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from world_model.core.errors import ConfigError, OutputError
from world_model.core.files import atomic_write
from world_model.pictures.video import write_gif

CODECS = ("libx264", "mpeg4")
"""Tried in this order: not every ffmpeg is built with x264."""
_REMEDY = "install ffmpeg, or `pip install imageio-ffmpeg`, or ask for a GIF"


def find_ffmpeg() -> str | None:
    """The ffmpeg of the system, else the one that the package imageio-ffmpeg carries, else None."""
    found = shutil.which("ffmpeg")
    if found is None and importlib.util.find_spec("imageio_ffmpeg") is not None:
        import imageio_ffmpeg

        try:
            found = str(imageio_ffmpeg.get_ffmpeg_exe())
        except RuntimeError:  # the package is there, its binary is not
            return None
    return found


def write_film(path: str | Path, frames: Sequence[NDArray[Any]], fps: float = 4.0) -> Path:
    """Write a film in the format of its suffix; where an MP4 cannot be made, a GIF of the same name, and say so.

    Returns:
        Where the film lies.

    Raises:
        ConfigError: no frames, frames of several sizes, or another suffix than ``.gif`` or ``.mp4``.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".gif", ".mp4"):
        raise ConfigError(f"a film named {path.name}", "a name that ends in .gif or .mp4")
    if path.suffix == ".mp4" and find_ffmpeg() is None:
        path = path.with_suffix(".gif")
        print(f"  no ffmpeg here, so no MP4: wrote {path.name} ({_REMEDY.split(', or ask')[0]})", flush=True)
    return write_gif(path, frames, fps) if path.suffix == ".gif" else write_mp4(path, frames, fps)


def write_mp4(path: str | Path, frames: Sequence[NDArray[Any]], fps: float = 4.0) -> Path:
    """Write an H.264 film, atomically.

    Args:
        path: the MP4 file.
        frames: (H, W, 3) uint8 pictures of one size; odd edges are padded by a pixel.
        fps: frames per second.

    Raises:
        ConfigError: no frames, or frames that are no RGB pictures of one size.
        OutputError: there is no ffmpeg, it fails, or the file cannot be written; an earlier one stays.
    """
    kinds = {(frame.shape, frame.dtype.str) for frame in frames}
    if len(kinds) != 1 or fps <= 0 or frames[0].ndim != 3 or frames[0].shape[2] != 3 or frames[0].dtype != np.uint8:
        raise ConfigError(
            f"{len(frames)} frames of {sorted(map(str, kinds))} at {fps} a second", "RGB frames of one size"
        )
    program = find_ffmpeg()
    if program is None:
        raise OutputError(f"no ffmpeg to write {path} with", "an ffmpeg", _REMEDY)
    said = ""
    with tempfile.TemporaryDirectory() as folder:
        for codec in CODECS:
            film = Path(folder) / "film.mp4"
            said = _encode(program, codec, frames, fps, film)
            if not said and film.is_file() and film.stat().st_size:
                with atomic_write(path) as stream:
                    stream.write(film.read_bytes())
                return Path(path)
    raise OutputError(
        f"{program} could not write {path}: {said.strip()[-300:] or 'nothing came out'}", "a film", _REMEDY
    )


def _encode(program: str, codec: str, frames: Sequence[NDArray[Any]], fps: float, film: Path) -> str:
    """Pipe raw frames into ffmpeg; returns what went wrong, or an empty string."""
    height, width = frames[0].shape[:2]
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-"]
    even = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"]
    command = [program, "-y", "-loglevel", "error", *source, "-an", "-c:v", codec, *even]
    with tempfile.TemporaryFile() as errors:
        try:
            worker = subprocess.Popen([*command, str(film)], stdin=subprocess.PIPE, stderr=errors)
        except OSError as error:
            return f"{error.strerror or error}"
        assert worker.stdin is not None
        # A pipe that breaks means that it has ended early; what it said follows.
        with suppress(BrokenPipeError), worker.stdin:
            for frame in frames:
                worker.stdin.write(np.ascontiguousarray(frame).tobytes())
        status = worker.wait()
        errors.seek(0)
        return errors.read().decode(errors="replace") or f"exit code {status}" if status else ""
