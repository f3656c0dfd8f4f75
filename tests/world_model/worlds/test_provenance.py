"""Every learned world says what its weights were trained on, without loading them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_checkpoints import TINY, write_geometric, write_tokens

from world_model.checkpoints.checkpoint import FORECASTER_FILE, GEOMETRIC_FILE, load_geometric, read_card, save_model
from world_model.core.errors import CheckpointError
from world_model.evaluation.fidelity.candidates import load_candidates
from world_model.worlds.provenance import provenance, same_source, weights_source


def test_the_card_names_the_data(tmp_path: Path) -> None:
    both = write_geometric(write_tokens(tmp_path / "both"))
    assert weights_source("learned") == weights_source("ii-world") == "synthetic", "the bundled checkpoint"
    assert weights_source("geometric", both) == weights_source("ii-world", both) == "test"
    for world in ("transport", "replay", "simulated", "my.module:World"):
        assert weights_source(world, both) is None
    model, card = load_geometric(both)
    other = tmp_path / "other"
    other.mkdir()
    save_model(other / GEOMETRIC_FILE, model, model.state_dict(), {})
    assert weights_source("geometric", [both, other]) == "test + unknown data"
    assert weights_source("learned", other / GEOMETRIC_FILE) == "unknown data"
    assert {**read_card(both, GEOMETRIC_FILE), "weights": card["weights"]} == card
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read_card(other, FORECASTER_FILE)


@pytest.mark.parametrize(
    ("weights", "data", "same"),
    [
        ("synthetic", "synthetic", True),
        ("synthetic", "my synthetic town", True),
        ("Occ3D-nuScenes (weights of the original)", "nuscenes", True),
        (None, "nuscenes", True),
        ("synthetic", "nuscenes", False),
        ("nuscenes", "waymo", False),
    ],
)
def test_kinds_of_data(weights: str | None, data: str, same: bool) -> None:
    assert same_source(weights, data) is same


def test_one_line_for_reports(tmp_path: Path) -> None:
    assert provenance(["synthetic", None, "synthetic"], "nuscenes") == "weights trained on synthetic, data nuscenes"
    assert provenance(["a", "b"], "c") == "weights trained on a + b, data c"
    assert provenance([None], "nuscenes") == "no weights, data nuscenes"
    folder = write_geometric(tmp_path)
    found = load_candidates(["geometric"], [folder], "cpu")
    assert [c.weights_source for c in found] == ["test"] and found[0].world.grid == TINY
