"""The benchmark separates right answers from wrong ones, and goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from world_model.core.errors import OptionError
from world_model.core.grid import FREE, MOVABLE, VoxelGrid
from world_model.data.clips import Clips
from world_model.data.demo import demo_root
from world_model.data.index import INDEX_NAME, SceneIndex
from world_model.evaluation.fidelity import benchmark
from world_model.evaluation.fidelity.report import FidelityReport
from world_model.evaluation.fidelity.result import TRUTH, EgoResponse, WorldResult
from world_model.fidelity import Fidelity, fidelity
from world_model.worlds import TransportWorld
from world_model.worlds.transport import TransportState


class Identity(TransportWorld):
    """Ignores all motion: the past goes on for ever."""

    def __init__(self, checkpoint: Path | None, device: torch.device, grid: VoxelGrid) -> None:
        super().__init__(grid, device)

    def step(self, state: TransportState, curr_to_next: Tensor, command: Tensor) -> TransportState:
        return state


class Vanishing(TransportWorld):
    """Moves with the ego, but knows no vehicles."""

    def __init__(self, checkpoint: Path | None, device: torch.device, grid: VoxelGrid) -> None:
        super().__init__(grid, device)

    def reset(self, clips: Clips) -> TransportState:
        state = super().reset(clips)
        return replace(state, labels=torch.where(torch.isin(state.labels, torch.tensor(MOVABLE)), FREE, state.labels))


WORLDS = ("simulated", "transport", f"{__name__}:Identity", f"{__name__}:Vanishing")
OPTIONS = Fidelity(
    worlds=WORLDS,
    actions=("logged", "random", "chase"),
    horizons_s=(1.0, 2.0),
    stride=12,
    limit=1,
    chases=1,
    batch=2,
    pictures=0,
    device="cpu",
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fidelity")


@pytest.fixture(scope="module")
def report(out: Path) -> FidelityReport:
    return fidelity(replace(OPTIONS, out=out))


def of(report: FidelityReport, name: str) -> WorldResult:
    return next(world for world in report.worlds if world.name == name)


def test_the_simulator_against_itself_is_perfect(report: FidelityReport) -> None:
    world = of(report, "simulated")
    for task in ("logged", "random"):
        assert (world.scores(task, "miou") == 1).all() and (world.scores(task, "iou") == 1).all()
    assert world.kept.sum() > 0 and world.kept_overall == 1
    assert world.responses() == of(report, TRUTH).responses()


def test_the_floor_of_the_registration_is_low(report: FidelityReport) -> None:
    floor = of(report, TRUTH).responses()["all"]
    assert (
        floor.p90_m < 0.15 and floor.p90_deg < 0.5 and floor.within > 0.9 and floor.gain == pytest.approx(1, abs=0.05)
    )


def test_transport_answers_the_ego_motion(report: FidelityReport) -> None:
    answer = of(report, "transport").responses()["all"]
    assert answer.p90_m < 0.15 and answer.p90_deg < 0.5 and answer.within > 0.9
    assert of(report, "transport").kept_overall > 0.9


def test_a_world_that_ignores_motion_fails_the_ego_response(report: FidelityReport) -> None:
    answer = of(report, "Identity").responses()["all"]
    assert answer.median_m > 0.5 and answer.within < 0.2 and abs(answer.gain) < 0.05
    arms = of(report, "Identity").arm_ratios((1.0, 2.0))
    assert arms["random"]["frozen"]["miou"] == pytest.approx(1) == arms["random"]["shuffled"]["miou"]


def test_control_arms_score_worse_where_actions_matter(report: FidelityReport) -> None:
    arms = of(report, "transport").arm_ratios((1.0, 2.0))
    for drive in ("logged", "random"):
        assert set(arms[drive]) == {"frozen", "shuffled"}
        assert arms[drive]["frozen"]["iou"] < 0.7
    assert arms["random"]["shuffled"]["iou"] < 0.7
    assert of(report, "transport").scores("random", "iou").min() > of(report, "Identity").scores("random", "iou").max()


def test_a_vehicle_that_vanishes_is_missed(report: FidelityReport) -> None:
    assert of(report, "Vanishing").kept_overall < 0.3
    assert of(report, "Vanishing").responses()["all"].within > 0.9


def test_results_are_written(report: FidelityReport, out: Path) -> None:
    found = json.loads((out / "fidelity.json").read_text())
    assert found["counterfactual"] and set(found["scores"]) == {"simulated", "transport", "Identity", "Vanishing"}
    assert found["persistence"]["simulated"]["overall"] == 1
    text = (out / "fidelity.md").read_text()
    assert "synthetic" in text and "Obstacle persistence" in text and "| simulated | logged | 100.0 | 100.0 |" in text
    for name in ("scores", "response", "persistence"):
        assert (out / f"{name}.png").stat().st_size > 10_000


def test_a_finished_run_computes_nothing_again(
    report: FidelityReport, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(benchmark, "measure", refuse)
    assert fidelity(replace(OPTIONS, out=out)).to_dict() == report.to_dict()
    with pytest.raises(AssertionError, match="computed again"):
        fidelity(replace(OPTIONS, out=out, seed=1))


def recordings(folder: Path) -> Path:
    """The demo scenes as if they had been recorded: nothing says how they were made."""
    index = SceneIndex.load(demo_root())
    replace(index, source="nuscenes").save(folder / INDEX_NAME)
    (folder / "gts").symlink_to(demo_root() / "gts")
    return folder


def test_recordings_answer_only_what_was_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = replace(OPTIONS, index=recordings(tmp_path), worlds=("transport",), out=tmp_path / "out", pictures=1)
    found = fidelity(options)
    assert not found.counterfactual and list(found.candidates[0].tables) == [
        "logged",
        "logged, frozen",
        "logged, shuffled",
    ]
    assert not found.candidates[0].kept.size and "only logged" in capsys.readouterr().out
    assert "need synthetic scenes" in (tmp_path / "out" / "fidelity.md").read_text()
    assert [path.name for path in (tmp_path / "out" / "pictures").iterdir()] == ["scene-0132-logged.png"]
    with pytest.raises(OptionError, match="recordings"):
        fidelity(replace(options, actions=("random",)))


def test_options_are_checked() -> None:
    for wrong in ({"stride": 0}, {"worlds": ()}, {"worlds": ("transport", "transport")}, {"horizons_s": (0.3,)}):
        with pytest.raises(OptionError):
            Fidelity(**wrong)
    with pytest.raises(OptionError, match="no world takes"):
        fidelity(replace(OPTIONS, worlds=("transport",), checkpoint=(Path("nowhere"),)))


def test_a_step_without_an_answer_is_infinitely_wrong() -> None:
    pairs = np.zeros((4, 2, 3))
    pairs[:, :, 0], pairs[3, 0] = 2.0, np.nan
    found = EgoResponse.of(pairs)
    assert found.median_m == 0 and found.p90_m == np.inf and found.within == 0.75 and found.gain == 1
