"""Live curves of the drive: forecast trust, and the terms of the reward."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

COLORS = ("#60a5fa", "#4ade80", "#f87171", "#facc15", "#c084fc", "#fb923c", "#2dd4bf", "#f472b6", "#a3e635", "#e5e7eb")
HEIGHT_PX = 170


class Curves:
    """Two charts in a panel of their own.

    Args:
        server: a `viser.ViserServer`.
    """

    def __init__(self, server: Any) -> None:
        self._gui = server.gui
        self._folder = self._gui.add_folder("Curves")
        self._charts: dict[str, tuple[tuple[str, ...], Any]] = {}

    def show(self, facts: dict[str, NDArray[Any]]) -> None:
        """Draw the curves of `Drive.facts`."""
        terms = [name for name in facts if name not in ("time_s", "trust")]
        quiet = [name for name in terms if name != "reward" and not np.nan_to_num(facts[name]).any()]
        self._chart("trust", facts, ["trust"] if "trust" in facts else [], (0.0, 1.0))
        self._chart("reward", facts, [name for name in terms if name not in quiet], None)

    def _chart(
        self, title: str, facts: dict[str, NDArray[Any]], names: list[str], limits: tuple[float, float] | None
    ) -> None:
        kept = self._charts.get(title)
        if kept is not None and kept[0] != tuple(names):
            kept[1].remove()
            del self._charts[title]
            kept = None
        if not names:
            return
        # The start has no step behind it, so the curves begin with the first step.
        data = tuple(facts[name][1:].astype(float) for name in ("time_s", *names))
        data = data if len(data[0]) else tuple(np.zeros(1) for _ in data)
        if kept is not None:
            kept[1].data = data
            return
        axis = {"stroke": "#9ca3af", "grid": {"stroke": "#374151", "width": 1}}
        series = ({"label": "s"}, *({"label": n, "stroke": c, "width": 2} for n, c in zip(names, COLORS, strict=False)))
        scales: dict[str, Any] = {"x": {"time": False}}
        if limits is not None:
            scales["y"] = {"range": limits}
        with self._folder:
            chart = self._gui.add_uplot(
                data, series, title=title, scales=scales, axes=(axis, axis), legend={"show": True}, height=HEIGHT_PX
            )
        self._charts[title] = tuple(names), chart
