"""The verdict says yes to what holds and no to what does not, each criterion on its own."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from world_model import verdict as command
from world_model.core.errors import DataError
from world_model.core.files import write_json
from world_model.data.formats.nuscenes import read_nuscenes
from world_model.evaluation.verdict import grade, write_verdict
from world_model.verdict import Verdict, verdict

HORIZONS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)


def row(score: float, moving: float) -> dict[str, Any]:
    found = {"all": {"miou": score, "iou": score}, "moving": {"miou": moving}}
    return {"horizons": {f"{s}s": found for s in (1, 2, 3)}}


def results() -> tuple[dict[str, Any], dict[str, Any]]:
    """A world that passes everything."""
    surely = {"mIoU": [0.05, 0.07], "IoU": [0.04, 0.06], "mIoU moving": [0.09, 0.2]}
    rows = {"ego warp": row(0.38, 0.05), "ii-world gt-ego": row(0.31, 0.03), "good gt-ego": row(0.44, 0.2)}
    lead = {"minus ego warp": {f"{s}s": surely for s in (1, 2, 3)}}
    evaluation = {"forecasting": {"rows": rows}, "intervals": {"rows": {"good gt-ego": lead}}}
    drives = {n: {"miou": [0.4] * 6, "iou": [0.5] * 6} for n in ("logged", "perturbed")}
    warp = {n: {"miou": [0.3] * 6, "iou": [0.4] * 6} for n in ("logged", "perturbed")}
    fidelity = {
        "horizons_s": list(HORIZONS),
        "scores": {"good": drives, "transport": warp},
        "arms": {"good": {"logged": {"frozen": {"miou": 0.3}, "shuffled": {"miou": 0.2}}}},
        "response": {"good": {"all": {"p90_m": 0.05, "p90_deg": 0.1}}},
        "persistence": {"good": {"overall": 0.97}},
    }
    return evaluation, fidelity


def failed(change: Any) -> list[str]:
    evaluation, fidelity = copy.deepcopy(results())
    change(evaluation, fidelity)
    return [f.what for f in grade("good", evaluation, fidelity) if not f.holds]


def test_a_good_world_passes_everything() -> None:
    assert failed(lambda e, f: None) == [] and len(grade("good", *results())) == 10


def test_each_criterion_can_fail_alone() -> None:
    def doubt(score: str) -> Any:
        def change(e: dict[str, Any], f: dict[str, Any]) -> None:
            e["intervals"]["rows"]["good gt-ego"]["minus ego warp"]["3s"][score][0] = -0.01

        return change

    def put(*path: str, value: Any) -> Any:
        def change(e: dict[str, Any], f: dict[str, Any]) -> None:
            place = f
            for name in path[:-1]:
                place = place[name]
            place[path[-1]] = value

        return change

    cases = (
        (doubt("mIoU"), "mIoU over the ego warp"),
        (doubt("IoU"), "IoU over the ego warp"),
        (doubt("mIoU moving"), "mIoU moving"),
        (lambda e, f: e["forecasting"]["rows"].update({"ii-world gt-ego": row(0.42, 0.1)}), "published"),
        (put("scores", "good", "perturbed", "miou", value=[0.35] * 6), "perturbed"),
        (put("arms", "good", "logged", "frozen", "miou", value=0.9), "control arms"),
        (put("response", "good", "all", "p90_m", value=0.3), "ego response"),
        (put("response", "good", "all", "p90_deg", value=None), "ego response"),
        (put("persistence", "good", "overall", value=0.82), "stays"),
        (put("scores", "good", "logged", "miou", value=[0.4] * 5 + [0.2]), "no collapse: mIoU"),
    )
    for change, name in cases:
        found = failed(change)
        assert len(found) >= 1 and name in found[-1 if name == "stays" else 0], (name, found)


@pytest.mark.parametrize(
    ("own", "found", "holds"),
    [(0.29999, "29.999 against 30.000", False), (0.3, "30.0, equal", True), (0.31, "31.0 against 30.0", True)],
)
def test_scores_have_digits_enough(own: float, found: str, holds: bool) -> None:
    """Two equal numbers beside a "no" would puzzle."""
    evaluation, fidelity = results()
    fidelity["scores"]["good"]["logged"]["miou"][3] = own
    finding = next(f for f in grade("good", evaluation, fidelity) if f.what.startswith("no collapse: mIoU"))
    assert finding.found.split("; ")[0] == found and finding.holds is holds


def test_one_command_measures_and_grades(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured comes from the two commands, asked for the same worlds and data; the rest is reading."""
    evaluation, fidelity = results()
    asked: dict[str, Any] = {}

    def measured(name: str, file: str, found: dict[str, Any]) -> Any:
        def run(options: Any) -> None:
            asked[name] = options
            write_json(
                options.out / file,
                {
                    **found,
                    "title": "synthetic",
                    "settings": {"data": "some", "provenance": "weights trained on a, data b"},
                },
            )

        return run

    monkeypatch.setattr(command, "evaluate", measured("evaluate", "results.json", evaluation))
    monkeypatch.setattr(command, "fidelity", measured("fidelity", "fidelity.json", fidelity))
    monkeypatch.setattr(command, "check_scenes", lambda path: None)
    verdict(Verdict(index=tmp_path / "data", worlds=("good",), out=tmp_path / "out", scenes=7))
    assert asked["evaluate"].index == asked["fidelity"].index == tmp_path / "data"
    assert asked["evaluate"].world == ("good",) and asked["fidelity"].worlds == ("good", "transport")
    assert asked["fidelity"].limit == 7
    assert (tmp_path / "out" / "verdict.md").read_text().count("| yes") == 10


def test_too_few_scenes_are_named() -> None:
    evaluation, fidelity = results()
    del evaluation["intervals"]
    with pytest.raises(DataError, match=r"without intervals[\s\S]*held-out scenes[\s\S]*make_synthetic"):
        grade("good", evaluation, fidelity)


def test_a_world_that_knows_nothing_is_graded_too() -> None:
    def change(e: dict[str, Any], f: dict[str, Any]) -> None:
        f["scores"]["good"] = {n: {"miou": [0.0] * 6, "iou": [0.0] * 6} for n in ("logged", "perturbed")}
        f["arms"]["good"]["logged"] = {n: {"miou": None} for n in ("frozen", "shuffled")}

    assert [name.split(":")[0] for name in failed(change)] == [
        "mIoU on perturbed over logged actions", "control arms", "no collapse", "no collapse",
    ]  # fmt: skip


def test_what_was_not_measured_does_not_hold() -> None:
    evaluation, fidelity = results()
    fidelity["persistence"] = {}
    (lacking,) = [f for f in grade("good", evaluation, fidelity) if not f.holds]
    assert "stays" in lacking.what and "not measured" in lacking.found


@pytest.mark.parametrize(("source", "found"), [("synthetic", "1 held-out"), ("nuscenes", "nuscenes scenes")])
def test_scenes_that_no_verdict_can_come_from_are_refused_at_once(
    scenes_root: Path, tmp_path: Path, source: str, found: str
) -> None:
    index = replace(read_nuscenes(scenes_root).to_index()[0], source=source)
    index.save(tmp_path / "index.npz")
    with pytest.raises(DataError, match=rf"{found}[\s\S]*make_synthetic"):
        verdict(Verdict(index=tmp_path / "index.npz", out=tmp_path / "verdict"))
    assert not (tmp_path / "verdict").exists()


def test_results_that_lack_something_are_named(tmp_path: Path) -> None:
    evaluation, fidelity = results()
    del fidelity["response"]["good"]
    with pytest.raises(DataError, match="good"):
        grade("good", evaluation, fidelity)
    written = write_verdict(tmp_path, "synthetic", grade("good", *results()), {"evaluation": "x"})
    assert [p.name for p in written] == ["verdict.md", "verdict.json"]
    assert all(f["holds"] for f in json.loads(written[1].read_text())["findings"])
    assert written[0].read_text().count("| yes") == 10
