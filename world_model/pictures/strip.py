"""Pictures side by side with captions, and the legend of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from world_model.core.errors import ConfigError
from world_model.core.grid import CLASS_COLORS, CLASS_NAMES, FREE

BACKGROUND = (24, 27, 36)
TEXT_COLOR = (232, 236, 244)
QUIET_COLOR = (150, 160, 180)
_GAP = 6


def caption(
    image: NDArray[Any], text: str, *, size: int = 14, color: tuple[int, int, int] = TEXT_COLOR, corner: str = "top"
) -> NDArray[Any]:
    """Write a line over a picture on a dark plate.

    Args:
        image: (H, W, 3) uint8.
        text: the line; line breaks are kept.
        size: text height in pixels.
        color: RGB of the text.
        corner: "top" or "bottom", always at the left.

    Returns:
        A new (H, W, 3) uint8 picture.
    """
    canvas = Image.fromarray(np.ascontiguousarray(image))
    draw = ImageDraw.Draw(canvas, "RGBA")
    font = ImageFont.load_default(size)
    left, top, right, bottom = draw.multiline_textbbox((0, 0), text, font=font, spacing=3)
    y = 6 if corner == "top" else canvas.height - 6 - (bottom - top) - 6
    draw.rounded_rectangle((6, y, 6 + (right - left) + 12, y + (bottom - top) + 8), radius=4, fill=(*BACKGROUND, 190))
    draw.multiline_text((12 - left, y + 4 - top), text, font=font, fill=color, spacing=3)
    return np.asarray(canvas)


def strip(
    rows: Sequence[Sequence[NDArray[Any] | None]],
    *,
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
    title: str = "",
    with_legend: bool = True,
) -> NDArray[Any]:
    """Lay pictures out as a table.

    Args:
        rows: pictures (H, W, 3) uint8 of one size; None leaves a place empty.
        columns: a caption above each column.
        labels: a name at the left of each row.
        title: a line above everything.
        with_legend: put the class colours under the table.

    Returns:
        (H', W', 3) uint8.

    Raises:
        ConfigError: no pictures, or pictures of several sizes.
    """
    sizes = {picture.shape[:2] for row in rows for picture in row if picture is not None}
    if len(sizes) != 1:
        raise ConfigError(f"pictures of sizes {sorted(sizes)} in one strip", "at least one picture, all of one size")
    (height, width), count = sizes.pop(), max(len(row) for row in rows)
    small, large = ImageFont.load_default(15), ImageFont.load_default(19)
    left = _GAP + (round(max(small.getlength(name) for name in labels)) + 2 * _GAP if any(labels) else 0)
    top = _GAP + (30 if title else 0) + (24 if any(columns) else 0)
    canvas = Image.new("RGB", (left + count * (width + _GAP), top + len(rows) * (height + _GAP)), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((_GAP + 2, _GAP), title, font=large, fill=TEXT_COLOR)
    for i, name in enumerate(columns):
        draw.text((left + i * (width + _GAP) + width / 2, top - 15), name, font=small, fill=QUIET_COLOR, anchor="mm")
    for j, row in enumerate(rows):
        y = top + j * (height + _GAP)
        if j < len(labels):
            draw.text((_GAP + 4, y + height / 2), labels[j], font=small, fill=TEXT_COLOR, anchor="lm")
        for i, picture in enumerate(row):
            if picture is not None:
                canvas.paste(Image.fromarray(np.ascontiguousarray(picture)), (left + i * (width + _GAP), y))
    table = np.asarray(canvas)
    return np.concatenate((table, legend(table.shape[1]))) if with_legend else table


def legend(width: int) -> NDArray[Any]:
    """The class colours with their names in as many lines as ``width`` pixels need; (H, width, 3) uint8."""
    return key(width, [name.replace("_", " ") for name in CLASS_NAMES[:FREE]], CLASS_COLORS)


def key(width: int, names: Sequence[str], colors: Sequence[Sequence[int]] | NDArray[Any]) -> NDArray[Any]:
    """Colours with their names in as many lines as ``width`` pixels need; (H, width, 3) uint8."""
    font = ImageFont.load_default(13)
    places, x, y = [], _GAP, 8
    for name in names:
        need = 18 + round(font.getlength(name)) + 14
        if x + need > width and x > _GAP:
            x, y = _GAP, y + 20
        places.append((x, y))
        x += need
    canvas = Image.new("RGB", (width, y + 22), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for (x, y), name, color in zip(places, names, colors, strict=False):
        fill = tuple(int(c) for c in color)
        draw.rounded_rectangle((x, y, x + 12, y + 12), radius=3, fill=fill, outline=QUIET_COLOR)
        draw.text((x + 18, y + 6), name, font=font, fill=TEXT_COLOR, anchor="lm")
    return np.asarray(canvas)


def beside(*images: NDArray[Any]) -> NDArray[Any]:
    """Pictures next to each other on one line, centred vertically, with a small gap."""
    height = max(image.shape[0] for image in images)
    parts: list[NDArray[Any]] = []
    for image in images:
        spare = height - image.shape[0]
        frame = ((spare // 2, spare - spare // 2), (0, 0), (0, 0))
        padded = np.stack([np.pad(image[..., c], frame[:2], constant_values=BACKGROUND[c]) for c in range(3)], -1)
        parts += [padded, np.full((height, _GAP, 3), BACKGROUND, np.uint8)]
    return np.concatenate(parts[:-1], axis=1)


def below(*images: NDArray[Any]) -> NDArray[Any]:
    """Pictures of one width under each other with a small gap."""
    gap = np.broadcast_to(np.array(BACKGROUND, np.uint8), (_GAP, images[0].shape[1], 3))
    return np.concatenate([part for image in images for part in (gap, image)][1:])
