"""Tables of the planner benchmark: means, differences to IDM start by start, and gaps between worlds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from agents.episodes import COLUMNS, PERCENT, Episode, markdown, summary
from world_model.core.table import Table
from world_model.evaluation.statistics import mean_interval

DIFFERENCES = ("success", "collision", "progress", "comfort", "pdms")
BASE, TRUTH = "idm", "simulated"
Key = tuple[str, str, str]
ByStart = Mapping[tuple[str, int], Episode]
Figures = tuple[float, float, float]


def paired(first: ByStart, second: ByStart) -> dict[str, Figures]:
    """Mean and 95 % interval of ``first`` minus ``second`` over the starts that both have, resampling whole scenes.

    Returns:
        By column: (mean, low, high); empty without a common start.
    """
    common = sorted(set(first) & set(second))
    if not common:
        return {}
    away = {at: [getattr(first[at], c) - getattr(second[at], c) for c in COLUMNS] for at in common}
    scenes = sorted({scene for scene, _ in common})
    groups = [np.array([away[at] for at in common if at[0] == scene]) for scene in scenes]
    return dict(zip(COLUMNS, mean_interval(groups), strict=True))


def kendall(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank agreement in [-1, 1] of two lists (Kendall's tau-a); NaN below three entries."""
    if len(first) < 3:
        return float("nan")
    signs = [
        np.sign(first[i] - first[j]) * np.sign(second[i] - second[j]) for i, j in combinations(range(len(first)), 2)
    ]
    return float(np.mean(signs))


def report(rows: Mapping[Key, ByStart], failed: Mapping[str, str], worlds: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The page in Markdown, and the same figures as JSON values."""
    values: dict[str, Any] = {}
    parts = [f"Worlds: {', '.join(worlds)}. Mean [95 % interval over scenes]; differences are paired."]
    for kind in dict.fromkeys(key[0] for key in rows):
        for world in dict.fromkeys(key[1] for key in rows if key[0] == kind):
            part = {key[2]: value for key, value in rows.items() if key[:2] == (kind, world)}
            count = max(map(len, part.values()))
            parts.append(
                f"## {kind}, {world}: {count} starts in {len({s for v in part.values() for s, _ in v})} scenes"
            )
            parts.append(markdown({name: list(episodes.values()) for name, episodes in part.items()}))
            against = {n: paired(e, part[BASE]) for n, e in part.items() if n != BASE} if BASE in part else {}
            parts.append(_table(f"minus {BASE}", DIFFERENCES, against))
            means = {name: summary(list(episodes.values())) for name, episodes in part.items()}
            values[f"{kind}/{world}"] = {"summary": means, f"minus_{BASE}": against}
        gaps = {
            f"{key[2]}, {key[1]}": paired(value, rows[kind, TRUTH, key[2]])
            for key, value in rows.items()
            if key[0] == kind and key[1] != TRUTH and (kind, TRUTH, key[2]) in rows
        }
        if gaps:
            parts += [f"## {kind}: gap, world minus {TRUTH}", _table("planner, world", (*DIFFERENCES, "reward"), gaps)]
            taus = _agreement(rows, kind)
            parts.append(
                "Agreement of the ranking by PDMS (Kendall's tau): "
                + ", ".join(f"{w} {t:.2f}" for w, t in taus.items())
            )
            values[f"{kind}/gap"] = {"paired": gaps, "kendall_tau": taus}
    if failed:
        parts.append("Failed: " + "; ".join(f"{name}: {why}" for name, why in failed.items()))
        values["failed"] = dict(failed)
    return "\n\n".join(part for part in parts if part) + "\n", values


def _agreement(rows: Mapping[Key, ByStart], kind: str) -> dict[str, float]:
    """Kendall's tau of the planners' PDMS between each world and the simulator."""

    def means(world: str) -> dict[str, float]:
        found = {key[2]: value for key, value in rows.items() if key[:2] == (kind, world)}
        return {name: float(np.mean([e.pdms for e in episodes.values()])) for name, episodes in found.items()}

    truth, taus = means(TRUTH), {}
    for world in dict.fromkeys(key[1] for key in rows if key[0] == kind and key[1] != TRUTH):
        here = means(world)
        names = [name for name in here if name in truth]
        taus[world] = kendall([here[n] for n in names], [truth[n] for n in names])
    return taus


def _table(title: str, columns: Sequence[str], figures: Mapping[str, Mapping[str, Figures]]) -> str:
    def cell(column: str, three: Figures) -> str:
        scale = 100 if column in PERCENT else 1
        mean, low, high = (f"{figure * scale:+.1f}" for figure in three)
        return f"{mean} [{low}, {high}]"

    lines = [[name, *(cell(c, found[c]) for c in columns)] for name, found in figures.items() if found]
    return Table([title, *columns], lines).markdown() if lines else ""
