"""A calibration comes back as it was written, and damage is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from trust_samples import made_up

from world_model.core.errors import CheckpointError
from world_model.evaluation.trust.fitting import fit
from world_model.trust.calibration import Calibration


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
