"""A calibration belongs to its weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from small_worlds import TINY
from street import street_clips
from tiny_checkpoints import write_geometric, write_tokens
from trust_samples import made_up

from world_model.checkpoints.checkpoint import bundled_path
from world_model.core.errors import CheckpointError
from world_model.evaluation.trust.fitting import fit
from world_model.evaluation.trust.samples import Samples
from world_model.trust import Trust, calibrated_trust, figures_for, kind_of, members_of, trust_path
from world_model.worlds import TransportWorld, World, build_world


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
