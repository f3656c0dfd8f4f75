"""Results as Markdown tables and plain JSON values: the one writer of all reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from world_model.core.files import write_json, write_text


@dataclass(frozen=True)
class Table:
    """Rows of text under a header.

    Attributes:
        header: (C) names of the columns.
        rows: rows of C cells.
        aligned: pad the cells, so that the columns also line up as plain text.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    aligned: bool = False

    def markdown(self) -> str:
        """The table in Markdown, without a line break at its end."""
        lines, rule = [list(self.header), *map(list, self.rows)], "---|" * len(self.header)
        if self.aligned:
            width = [max(map(len, column)) for column in zip(*lines, strict=True)]
            lines = [[cell.ljust(w) for cell, w in zip(line, width, strict=True)] for line in lines]
            rule = "".join(f" {'-' * w} |" for w in width)
        text = ["|" + "".join(f" {cell} |" if cell else " |" for cell in line) for line in lines]
        return "\n".join((text[0], "|" + rule, *text[1:]))


def bullets(values: Mapping[str, Any]) -> str:
    """A Markdown list of names with their values."""
    return "\n".join(f"- {name}: {value}" for name, value in values.items())


def decimal(value: float | None, digits: int = 2) -> str:
    """A number with so many decimals; a dash for NaN and None."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def percent(fraction: float, digits: int = 2) -> str:
    """A fraction in percent with so many decimals; a dash for NaN."""
    return decimal(100 * fraction, digits)


def json_values(value: Any) -> Any:
    """The same dicts and lists with null (None) for NaN and infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {name: json_values(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [json_values(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_report(folder: Path, name: str, values: Any, text: str) -> list[Path]:
    """Write NAME.json and NAME.md, each atomically; returns their paths.

    Raises:
        OutputError: the folder cannot be written.
    """
    paths = [folder / f"{name}.json", folder / f"{name}.md"]
    write_json(paths[0], values)
    write_text(paths[1], text)
    return paths
