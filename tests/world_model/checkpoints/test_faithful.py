"""The list of deviations: complete, and pointing at code that exists."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import world_model
from world_model.checkpoints.deviations import DEVIATIONS, Deviation


def test_numbered_without_gaps() -> None:
    assert [d.number for d in DEVIATIONS] == list(range(1, 17))
    assert {d.number for d in DEVIATIONS if d.training_only} == {14, 15}


@pytest.mark.parametrize("deviation", DEVIATIONS, ids=lambda d: str(d.number))
def test_every_place_exists(deviation: Deviation) -> None:
    assert deviation.published and deviation.right and deviation.where
    for place in deviation.where:
        module, _, path = place.partition(":")
        found: object = importlib.import_module(f"world_model.{module}")
        for name in path.split("."):
            found = getattr(found, name)


def test_the_documentation_lists_them_all() -> None:
    text = (Path(world_model.__file__).parents[1] / "docs" / "results" / "parity.md").read_text()
    for deviation in DEVIATIONS:
        assert f"| {deviation.number} | {deviation.published} | {deviation.right} |" in text
