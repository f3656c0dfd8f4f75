"""Trust: figures mean what they say, the map from them is calibrated, and only its own weights may use it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_worlds import TINY, Learned
from street import SMALL, street_clips, write_street
from tiny_checkpoints import write_geometric, write_tokens

from world_model.calibrate_trust import CalibrateTrust, calibrate_trust
from world_model.checkpoints.checkpoint import bundled_path
from world_model.core.errors import CheckpointError, ConfigError, DataError, OptionError
from world_model.core.geometry import invert_pose, se2_matrix
from world_model.data.index import SceneIndex
from world_model.evaluation.statistics import spearman
from world_model.evaluation.trust import Trust, calibrated_trust, figures_for, kind_of, members_of, trust_path
from world_model.evaluation.trust.calibration import Calibration
from world_model.evaluation.trust.figures import TokenFigures
from world_model.evaluation.trust.fitting import fit, monotone, quality_of, ridge
from world_model.evaluation.trust.report import calibration_error, markdown, plot_trust, score
from world_model.evaluation.trust.samples import Samples, collect
from world_model.worlds import ReplayWorld, TransportWorld, World, build_world
from world_model.worlds.ensemble import EnsembleWorld


@pytest.fixture(scope="module")
def world() -> Learned:
    """A tiny model of untrained weights on a grid of 16 m."""
    return Learned(None, torch.device("cpu"), TINY)


def move(dx: float, dyaw: float = 0.0) -> torch.Tensor:
    return invert_pose(se2_matrix(torch.tensor([dx]), torch.tensor([0.0]), torch.tensor([dyaw])))


def made_up(count: int = 600, seed: int = 0) -> Samples:
    """Forecasts of 10 scenes whose quality follows from two of three figures, one of them the wrong way round."""
    rng = np.random.default_rng(seed)
    step = rng.integers(0, 7, count)
    figures = rng.normal(size=(count, 3))
    figures[step == 0, 0] -= 3
    quality = 1 / (1 + np.exp(figures[:, 0] - 2 * figures[:, 1] / 4))
    iou = (0.8 * quality + 0.02 * rng.normal(size=count)).clip(0, 1)
    return Samples(
        names=("bad", "good", "noise"),
        figures=figures * (1, 10, 100) + (0, 5, -7),
        iou=iou,
        miou=iou * 0.7,
        scene=rng.integers(0, 10, count),
        frame=np.arange(count),
        step=step,
        edited=rng.random(count) < 0.5,
    )


def test_ridge_and_monotone_map() -> None:
    rng = np.random.default_rng(0)
    figures = rng.normal(size=(400, 3))
    assert np.allclose(ridge(figures, figures @ (1.0, -2.0, 0.0) + 5, 1e-6), (1, -2, 0), atol=0.05)
    score = rng.uniform(size=400)
    x, y = monotone(score, np.round(score * 4) / 4 + 0.3 * rng.normal(size=400))
    assert (np.diff(x) > 0).all() and (np.diff(y) > 0).all() and len(x) > 2
    flat, one = monotone(score, -score)
    assert len(flat) == len(one) == 1 and one[0] == pytest.approx(-score.mean())


def test_a_fitted_trust_is_calibrated_and_ranks() -> None:
    train, test = made_up(seed=0), made_up(seed=1)
    calibration = fit(train)
    later = test.pick(test.step > 0)
    trust = calibration.of_samples(later)
    assert trust.min() >= 0 and trust.max() <= 1
    assert spearman(trust, later.iou) > 0.9
    assert calibration_error(trust, quality_of(later, 0.8 * 0.95)) < 0.08
    columns = {name: torch.tensor(later.figures[:, k]) for k, name in enumerate(later.names)}
    assert np.allclose(calibration.of(columns).numpy(), trust, atol=1e-4)
    report = score(calibration, test, 0.76)
    assert report["1 - IoU"]["spearman"] == pytest.approx(spearman(1 - trust, 1 - later.iou), abs=1e-3)
    assert report["forecasts"] == len(later) and len(report["by_horizon"]) == 6
    assert "bad" in markdown(report) and json.dumps(report)
    axes = plot_trust(calibration, test, 0.76, "test").axes
    assert len(axes) == 4 and len(axes[1].collections[0].get_offsets()) == len(later)


def test_a_calibration_comes_back_as_it_was_and_damage_is_named(tmp_path: Path) -> None:
    calibration = dataclasses.replace(fit(made_up()), models=("a", "b"), card={"x": 1})
    path = tmp_path / "trust.json"
    calibration.save(path)
    assert Calibration.load(path) == calibration
    good = json.loads(path.read_text())
    spoilt: list[object] = [
        {**good, "version": 9},
        {**good, "weight": good["weight"][:1]},
        {**good, "knots": good["knots"][::-1]},
        {**good, "trust": [2.0] * len(good["trust"])},
        {**good, "scale": [0.0] * len(good["scale"])},
        {**good, "center": ["x"] * len(good["center"])},
        {key: value for key, value in good.items() if key != "names"},
        [],
    ]
    for content in spoilt:
        path.write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=r"trust\.json"):
            Calibration.load(path)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="calibrate_trust"):
        Calibration.load(path)


@torch.no_grad()
def test_figures_follow_what_they_are_about(world: Learned) -> None:
    figures = figures_for(world)
    assert isinstance(figures, TokenFigures)
    start = world.reset(street_clips(TINY, speed_mps=2.0))
    command = torch.tensor([2])
    near, far = world.step(start, move(4.0), command), world.step(start, move(8.0), command)
    assert figures(start)["unseen"] == 0
    # 4 and 8 of 16 m, counted in five rows of cells.
    assert figures(near)["unseen"] == pytest.approx(0.25, abs=0.11)
    assert figures(far)["unseen"] == pytest.approx(0.5, abs=0.11)
    standing = world.step(start, move(0.0), command)
    # A token map that stays the same has not changed; the same map moved has not changed either.
    same = dataclasses.replace(
        standing,
        token=start.token,
        forecast=dataclasses.replace(
            standing.forecast, tokens=torch.stack((start.token, start.token), 1).repeat(1, 3, 1, 1, 1)[:, -5:]
        ),
    )
    assert figures(same)["change"] == pytest.approx(0, abs=1e-4)
    louder = dataclasses.replace(same, token=3 * start.token)
    assert figures(louder)["change"] > 0.1 and figures(louder)["strength"] > 1.5 * figures(same)["strength"]
    flat = dataclasses.replace(same, token=start.token.mean((2, 3), keepdim=True).expand_as(start.token))
    assert figures(flat)["sharpness"] == pytest.approx(0, abs=1e-4) and figures(same)["sharpness"] > 1e-3


@torch.no_grad()
def test_a_token_made_of_one_code_has_no_distance_from_it(world: Learned) -> None:
    figures = TokenFigures(world)
    start = world.reset(street_clips(TINY))
    code = (figures.constant + figures.book[7])[None, :, None, None].expand_as(start.token)
    exact = figures(dataclasses.replace(start, token=code))
    beside = figures(dataclasses.replace(start, token=code + 0.3))
    assert float(exact["code_distance"]) < 0.02 < float(beside["code_distance"])


@torch.no_grad()
def test_rows_of_a_batch_do_not_mix(world: Learned) -> None:
    figures = figures_for(world)
    assert figures is not None
    clips = street_clips(TINY, batch=2)
    both = world.step(world.reset(clips), torch.cat((move(0.5), move(3.0, 0.2))), torch.tensor([2, 2]))
    for name, value in figures(both).items():
        assert value.shape == (2,)
        for row in (0, 1):
            assert torch.allclose(figures(both.index(row))[name], value[row], atol=1e-5), name


def test_an_ensemble_adds_its_disagreement(world: Learned) -> None:
    assert figures_for(TransportWorld()) is None
    assert figures_for(EnsembleWorld([TransportWorld(SMALL), ReplayWorld(SMALL)])) is None
    both = EnsembleWorld([world, world])
    figures = figures_for(both)
    assert figures is not None
    state = both.reset(street_clips(TINY))
    assert figures(state)["disagreement"] == 0 and set(figures(state)) > {"unseen", "disagreement"}


def test_errors_are_measured_where_the_recording_reaches(tmp_path: Path) -> None:
    """The recorded world forecasts itself: no error along the log, and none beside it either."""

    class Sure(ReplayWorld):
        def trust_figures(self, state: object) -> dict[str, torch.Tensor]:
            return {"nothing": torch.zeros(len(self.occupancy(state)))}  # type: ignore[arg-type]

    index = SceneIndex.load(write_street(tmp_path, scenes=1, frames=14, grid=SMALL))

    class Recorded(Sure):
        needs_future_labels = True

    samples = collect(Recorded(SMALL), index, [4, 5], 4)
    assert samples.step.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4] * 2
    assert (samples.iou[~samples.edited] == 1).all()
    assert samples.iou[samples.edited].min() > 0.97 and samples.edited.sum() == 8
    with pytest.raises(ConfigError, match="trust_figures"):
        collect(ReplayWorld(SMALL), index, [4], 2)


@pytest.mark.parametrize("kind", ["geometric", "ii-world"])
def test_the_bundled_calibrations_belong_to_the_bundled_weights(kind: str) -> None:
    trust = calibrated_trust(build_world(kind, device="cpu"))
    assert isinstance(trust, Trust) and trust_path(None, kind) == bundled_path() / f"trust_{kind}.json"
    held_out = trust.calibration.card["held_out"]
    assert held_out["1 - IoU"]["spearman"] > 0.7 and held_out["1 - IoU"]["within_horizon"] > 0.5
    assert trust.calibration.card["data_source"] == "synthetic"


@pytest.mark.parametrize("kind", ["geometric", "ii-world"])
def test_a_calibration_of_other_weights_is_refused(kind: str, tmp_path: Path) -> None:
    """Both kinds lie in one folder, and each has a calibration of its own."""
    write_geometric(write_tokens(tmp_path))
    world = build_world(kind, checkpoint=tmp_path, device="cpu")
    assert calibrated_trust(world, tmp_path) is None
    calibration = dataclasses.replace(fit(of_world(world)), models=members_of(world, tmp_path))
    calibration.save(trust_path(tmp_path, kind))
    trust = calibrated_trust(world, tmp_path)
    assert trust is not None and trust(world.reset(street_clips(TINY, batch=2))).shape == (2,)
    other = build_world({"geometric": "ii-world", "ii-world": "geometric"}[kind], checkpoint=tmp_path, device="cpu")
    assert calibrated_trust(other, tmp_path) is None
    dataclasses.replace(calibration, models=("other", "weights")).save(trust_path(tmp_path, kind))
    with pytest.raises(CheckpointError, match="calibrated for weights other"):
        calibrated_trust(world, tmp_path)
    assert calibrated_trust(TransportWorld()) is None


def of_world(world: World) -> Samples:
    """Made up forecasts with the names of a world's figures."""
    figures_of = figures_for(world)
    assert figures_of is not None
    names = tuple(figures_of(world.reset(street_clips(TINY))))
    samples = made_up()
    return dataclasses.replace(samples, names=names, figures=np.repeat(samples.figures[:, :1], len(names), 1))


def test_members_say_whose_weights_they_are(tmp_path: Path) -> None:
    one, two = write_geometric(tmp_path / "a", 0), write_geometric(write_tokens(tmp_path / "b"), 1)
    for checkpoint, name, kind, count in (
        (one, "geometric", "geometric", 1),
        (two, "ii-world", "ii-world", 2),
        ([str(one), str(two)], "learned", "geometric", 2),
        ([str(two), str(one)], "geometric", "geometric", 2),
    ):
        world = build_world(name, checkpoint=checkpoint, device="cpu")
        found = members_of(world, checkpoint)
        assert kind_of(world) == kind and len(set(found)) == count
    assert kind_of(TransportWorld()) == "" and members_of(TransportWorld()) == ()
    assert found == members_of(build_world("learned", checkpoint=[str(one), str(two)]), [str(one), str(two)])[::-1]


def test_names_of_calibrations() -> None:
    assert trust_path("runs/a", "geometric") == Path("runs/a/trust_geometric.json")
    assert trust_path("runs/a/geometric.safetensors", "geometric") == Path("runs/a/trust_geometric.json")
    assert trust_path(["runs/a", "runs/b"], "ii-world") == Path("runs/a/trust_ii-world_ensemble2.json")


def test_too_few_scenes_and_bad_options_are_refused(tmp_path: Path) -> None:
    for bad in ({"steps": 0}, {"stride": 0}):
        with pytest.raises(OptionError):
            CalibrateTrust(**bad)  # type: ignore[arg-type]
    data = write_street(tmp_path / "data", scenes=1, frames=6)
    with pytest.raises(DataError, match="longer scenes"):
        calibrate_trust(CalibrateTrust(index=data, steps=12, work=tmp_path / "work", out=tmp_path / "trust.json"))
    assert not (tmp_path / "trust.json").exists()
