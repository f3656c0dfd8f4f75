"""One table that says of a world whether it answers truthfully: what was wanted, what was found, whether it holds.

The wanted numbers were set before any figure was known. Each judges one world on held-out scenes, from the two results
that it needs: the forecasting table (`world_model.evaluate`) and counterfactual fidelity (`world_model.fidelity`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from world_model.core.errors import DataError
from world_model.core.files import write_json, write_text
from world_model.evaluation.report import WARP, table
from world_model.evaluation.statistics import LEAST_SCENES

PUBLISHED = "ii-world"
"""The published architecture, which the others are held against."""
MOVING_LEAD, PUBLISHED_LEAD = 0.05, 1.2
"""Wanted lead over the ego warp on moving voxels (mIoU), and factor over the published architecture (mIoU)."""
LEAST_OTHERS, MOST_ARM, LEAST_KEPT = 0.9, 0.5, 0.95
"""Wanted: score on perturbed over logged actions at least; score of a control arm over the truth's at most; share of an
obstacle that stays at least."""
WITHIN_M, WITHIN_DEG = 0.2, 1.0
FAR_S = (4.0, 6.0, 8.0)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the table.

    Attributes:
        world: who is judged.
        what: the criterion.
        wanted, found: as shown.
        holds: whether it does.
    """

    world: str
    what: str
    wanted: str
    found: str
    holds: bool


def judge(world: str, evaluation: dict[str, Any], fidelity: dict[str, Any]) -> list[Finding]:
    """Judge one world.

    Args:
        world: its name in both results.
        evaluation: `results.json` of `world_model.evaluate`.
        fidelity: `fidelity.json` of `world_model.fidelity`.

    Raises:
        DataError: a result does not hold what is judged, or there were too few scenes to judge by.
    """
    if "intervals" not in evaluation:
        raise too_few_scenes("a forecasting table without intervals")
    try:
        return list(_findings(world, evaluation, fidelity))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise DataError(
            f"results without {error} for the world {world!r}",
            "a forecasting table with its row gt-ego, and fidelity with all action sets and arms",
            "run `python -m world_model.verdict` into an empty folder",
        ) from error


def too_few_scenes(found: str) -> DataError:
    """What to say where no interval could be given."""
    return DataError(
        found,
        f"{LEAST_SCENES} held-out scenes with windows at least, better 30: with fewer nothing is 95 % sure",
        "`python -m world_model.make_synthetic --scenes 150` holds out 30; the bundled demo scenes are 5",
    )


def _findings(world: str, evaluation: dict[str, Any], fidelity: dict[str, Any]) -> Iterator[Finding]:
    yield from _against_warp(world, evaluation)
    if world != PUBLISHED and f"{PUBLISHED} gt-ego" in evaluation["forecasting"]["rows"]:
        yield _against_published(world, evaluation)
    yield from _under_actions(world, fidelity)
    yield _ego_response(world, fidelity)
    yield _persistence(world, fidelity)
    yield from _far(world, fidelity)


def _against_warp(world: str, evaluation: dict[str, Any]) -> Iterator[Finding]:
    row, intervals = f"{world} gt-ego", evaluation["intervals"]["rows"][f"{world} gt-ego"]["minus ego warp"]
    for score, metric in (("mIoU", "miou"), ("IoU", "iou")):
        yield _lead(world, score, _scores(evaluation, row, metric), _scores(evaluation, WARP, metric), intervals, 0.0)
    moving = [_scores(evaluation, name, "miou", "moving") for name in (row, WARP)]
    late = {s: v for s, v in moving[0].items() if s >= 2}
    yield _lead(world, "mIoU moving", late, moving[1], intervals, MOVING_LEAD)


def _lead(
    world: str,
    score: str,
    own: dict[float, float],
    warp: dict[float, float],
    intervals: dict[str, Any],
    wanted: float,
) -> Finding:
    """The lead over the ego warp at each horizon: as large as wanted, and surely above zero."""
    between = {s: intervals[f"{s:g}s"][score] for s in own}
    cells = [
        f"{100 * (own[s] - warp[s]):+.1f} [{100 * low:.1f}, {100 * high:.1f}]" for s, (low, high) in between.items()
    ]
    seconds = ", ".join(f"{s:g}" for s in own)
    least = f"{100 * wanted:+.0f} points" if wanted else "above"
    enough = all(own[s] - warp[s] >= wanted and low > 0 for s, (low, _) in between.items())
    return Finding(
        world=world, what=f"{score} over the ego warp at {seconds} s", wanted=f"{least}; above at 95 %",
        found="; ".join(cells), holds=enough,
    )  # fmt: skip


def _against_published(world: str, evaluation: dict[str, Any]) -> Finding:
    names = (f"{name} gt-ego" for name in (world, PUBLISHED))
    own, other = (float(np.mean(list(_scores(evaluation, name, "miou").values()))) for name in names)
    return Finding(
        world=world, what="mIoU over the published architecture, mean 1-3 s", wanted=f"x {PUBLISHED_LEAD} at least",
        found=f"x {_ratio(own, other):.2f} ({100 * own:.1f} against {100 * other:.1f})",
        holds=own >= PUBLISHED_LEAD * other,
    )  # fmt: skip


def _under_actions(world: str, fidelity: dict[str, Any]) -> Iterator[Finding]:
    scores = {name: _until(fidelity, found["miou"]) for name, found in fidelity["scores"][world].items()}
    part = _ratio(scores["perturbed"], scores["logged"])
    yield Finding(
        world=world, what="mIoU on perturbed over logged actions", wanted=f">= {LEAST_OTHERS}", found=f"{part:.2f}",
        holds=part >= LEAST_OTHERS,
    )  # fmt: skip
    # A world that scores nothing when told the truth has no ratio: it answers to no arm.
    arms = {
        f"{d}, {a}": math.inf if v["miou"] is None else v["miou"]
        for d, found in fidelity["arms"][world].items()
        for a, v in found.items()
    }
    yield Finding(
        world=world, what="control arms: mIoU over that when told the truth", wanted=f"<= {MOST_ARM}",
        found="; ".join(f"{name} {value:.2f}" for name, value in arms.items()),
        holds=max(arms.values()) <= MOST_ARM,
    )  # fmt: skip


def _ego_response(world: str, fidelity: dict[str, Any]) -> Finding:
    found = fidelity["response"][world]["all"]
    away, turned = (math.inf if found[n] is None else found[n] for n in ("p90_m", "p90_deg"))
    return Finding(
        world=world, what="ego response per step, nine steps in ten",
        wanted=f"within {WITHIN_M} m and {WITHIN_DEG:g}°", found=f"{away:.3f} m, {turned:.3f}°",
        holds=away <= WITHIN_M and turned <= WITHIN_DEG,
    )  # fmt: skip


def _persistence(world: str, fidelity: dict[str, Any]) -> Finding:
    """Whether obstacles stay; where no vehicle stood ahead nobody knows, which is no yes."""
    kept = fidelity["persistence"].get(world, {}).get("overall")
    return Finding(
        world=world, what="an obstacle that is driven at stays, 3 s", wanted=f">= {LEAST_KEPT:.0%} of the simulator's",
        found="not measured: no vehicle stands ahead in these scenes" if kept is None else f"{kept:.1%}",
        holds=kept is not None and kept >= LEAST_KEPT,
    )  # fmt: skip


def _far(world: str, fidelity: dict[str, Any]) -> Iterator[Finding]:
    if world == "transport":
        return
    horizons = fidelity["horizons_s"]
    places, seconds = [horizons.index(s) for s in FAR_S], ", ".join(f"{s:g}" for s in FAR_S)
    for score, metric in (("mIoU", "miou"), ("IoU", "iou")):
        own, warp = (fidelity["scores"][name]["logged"][metric] for name in (world, "transport"))
        yield Finding(
            world=world, what=f"no collapse: {score} at {seconds} s", wanted="not below the warp",
            found="; ".join(_against(own[p], warp[p]) for p in places),
            holds=all(own[p] >= warp[p] for p in places),
        )  # fmt: skip


def _against(own: float, other: float) -> str:
    """Two scores in percent, with as many digits as it takes to see which is higher."""
    pairs = (f"{100 * own:.{digits}f} against {100 * other:.{digits}f}" for digits in (1, 2, 3))
    return next((pair for pair in pairs if len(set(pair.split(" against "))) == 2), f"{100 * own:.1f}, equal")


def _ratio(part: float, whole: float) -> float:
    """Something over nothing is infinite; nothing over nothing is NaN, which reaches no threshold."""
    return part / whole if whole else math.inf if part else math.nan


def _scores(evaluation: dict[str, Any], row: str, metric: str, subset: str = "all") -> dict[float, float]:
    """Horizon in seconds -> score."""
    horizons: dict[str, Any] = evaluation["forecasting"]["rows"][row]["horizons"]
    return {float(name.removesuffix("s")): found[subset][metric] for name, found in horizons.items()}


def _until(fidelity: dict[str, Any], scores: Sequence[float], seconds: float = 3.0) -> float:
    return float(np.mean([v for v, s in zip(scores, fidelity["horizons_s"], strict=True) if s <= seconds]))


def write_verdict(folder: Path, title: str, findings: Sequence[Finding], sources: dict[str, str]) -> list[Path]:
    """Write verdict.md and verdict.json, each atomically; returns their paths."""
    header = ["world", "what", "wanted", "found", "holds"]
    rows = [[f.world, f.what, f.wanted, f.found, "yes" if f.holds else "**no**"] for f in findings]
    told = "\n".join(f"- {name}: {value}" for name, value in sources.items())
    text = f"# How true is the world? {title}\n\n{told}\n\n{table(header, rows)}\n"
    write_text(folder / "verdict.md", text)
    write_json(folder / "verdict.json", {"title": title, "sources": sources, "findings": [asdict(f) for f in findings]})
    return [folder / "verdict.md", folder / "verdict.json"]
