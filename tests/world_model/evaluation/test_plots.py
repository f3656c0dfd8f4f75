from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from world_model.core.errors import OutputError
from world_model.core.grid import CLASS_NAMES
from world_model.evaluation.plots import plot_classes, plot_horizons, write_plot
from world_model.evaluation.result import ForecastResult

ROWS = (
    "copy-paste",
    "ego warp",
    "ego warp + CV boxes",
    "tokenizer",
    "ii-world gt-ego",
    "ii-world pred-ego",
    "Mine gt-ego",
)


def result(horizons_s: tuple[float, ...] = (1.0, 2.0, 3.0)) -> ForecastResult:
    """Scores that fall with the horizon and rise with the row; no trailer in the data."""
    empty = ForecastResult.zero(ROWS, horizons_s)
    for r in range(len(ROWS)):
        for h in range(len(horizons_s)):
            table = np.eye(19, 18, dtype=np.int64) * (10 + r)
            table[:18, 17] += 3 * (h + 1)
            table[9] = 0
            empty.counts[r, h, 0] = table
    return ForecastResult(**{**vars(empty), "windows": 5})


def test_horizon_plot_shows_every_row_in_its_own_way() -> None:
    figure = plot_horizons("synthetic, held-out", result())
    for axis, metric in zip(figure.axes, ("miou", "iou"), strict=True):
        lines = axis.get_lines()
        assert len(lines) == len(ROWS)
        styles = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}
        assert len(styles) == len(ROWS)
        for row, line in zip(ROWS, lines, strict=True):
            expected = [100 * result().score(row, h, metric) for h in range(3)]
            np.testing.assert_allclose(line.get_ydata(), expected)
    assert "synthetic" in figure.get_suptitle() and "5 windows" in figure.get_suptitle()


def test_class_plot_has_a_panel_per_horizon_and_a_bar_per_row_and_class() -> None:
    figure = plot_classes("synthetic, held-out", result())
    assert [axis.get_ylabel() for axis in figure.axes] == [f"IoU (%) at {s} s" for s in (1, 2, 3)]
    shown = [row for row in ROWS if row not in ("tokenizer", "ii-world pred-ego")]
    for h, axis in enumerate(figure.axes):
        heights = [[bar.get_height() for bar in bars] for bars in axis.containers]
        expected = [np.nan_to_num(100 * result().confusion(row, h).per_class()[:17]) for row in shown]
        np.testing.assert_allclose(heights, expected)
        assert [text.get_text() for text in axis.texts] == ["absent"]
    assert [label.get_text() for label in figure.axes[-1].get_xticklabels()] == list(CLASS_NAMES[:17])
    assert "synthetic" in figure.get_suptitle()


def test_long_tables_show_three_panels() -> None:
    figure = plot_classes("synthetic", result((1.0, 2.0, 3.0, 4.0, 5.0, 6.0)))
    assert [axis.get_ylabel()[-3:] for axis in figure.axes] == ["1 s", "4 s", "6 s"]


def test_plots_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    figure = plot_horizons("synthetic", result())
    write_plot(tmp_path / "plot.png", figure)
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width > 1000 and np.asarray(picture.convert("RGB")).std() > 10
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        write_plot(tmp_path / "file" / "plot.png", figure)
