"""Where the network is worse than its evidence on a known frame the evidence wins; where it is right, the network."""

from __future__ import annotations

import torch
from torch import Tensor

from world_model.core.grid import FREE
from world_model.core.ground import BANDS, band_of
from world_model.models.geometric.belief import LEVELS, Belief, find_belief

ROAD, WALL, TREE = 11, 15, 16
SLOTS, HEIGHTS = 64, 16


def cells(name: int, share: float, seed: int) -> Tensor:
    """(1, 10, 10, SLOTS) labels of one class at random voxels."""
    chance = torch.rand(1, 10, 10, SLOTS, generator=torch.Generator().manual_seed(seed))
    return torch.where(chance < share, name, FREE).to(torch.uint8)


def merged(*parts: Tensor) -> Tensor:
    out = torch.full_like(parts[0], FREE)
    for part in parts:
        out = torch.where(part != FREE, part, out)
    return out


def belief(logits: Tensor, names: Tensor, labels: Tensor, truth: Tensor) -> Belief:
    return find_belief(logits, names, labels, truth, HEIGHTS)


def test_a_network_that_is_right_is_not_corrected() -> None:
    truth = merged(cells(ROAD, 0.2, 0), cells(WALL, 0.1, 1))
    logits = torch.where(truth != FREE, 5.0, -5.0)
    found = belief(logits, truth, truth, truth)
    assert not found.kept.any() and not found.drawn.any() and not found.named.any()


def test_what_stays_is_kept_though_the_network_erases_it() -> None:
    labels = merged(cells(ROAD, 0.2, 0), cells(WALL, 0.1, 1))
    logits = torch.where(labels == ROAD, 5.0, -3.0)  # no walls, for this network
    found = belief(logits, labels, labels, labels)
    bands = found.kept.view(1, -1, BANDS)
    assert (bands[0, WALL] > 3.0).all()


def test_what_goes_may_be_erased() -> None:
    labels, truth = cells(WALL, 0.2, 1), cells(WALL, 0.0, 1)
    found = belief(torch.full(labels.shape, -3.0), labels, labels, truth)
    assert not found.kept.any()


def test_what_is_invented_has_to_be_surer() -> None:
    labels, trees = cells(ROAD, 0.2, 0), cells(TREE, 0.1, 3)
    logits = torch.where(merged(labels, trees) != FREE, 1.5, -5.0)
    names = merged(labels, trees)
    found = belief(logits, names, labels, labels)
    assert found.drawn[0, TREE] >= 1.5
    assert not found.kept.any()
    # The same trees, where they truly come into view, are left alone.
    assert not belief(logits, names, labels, names).drawn.any()


def test_renaming_ends_where_the_evidence_was_right() -> None:
    labels = cells(WALL, 0.2, 0)
    wrong = torch.where(labels == WALL, TREE, FREE).to(torch.uint8)
    logits = torch.where(labels != FREE, 5.0, -5.0)
    assert belief(logits, wrong, labels, labels).named[0, WALL] == LEVELS[-1]
    assert not belief(logits, wrong, labels, wrong).named.any()


def test_samples_of_a_batch_do_not_mix() -> None:
    good = cells(ROAD, 0.2, 0)
    logits = torch.where(good != FREE, 5.0, -5.0)
    both = find_belief(*(torch.cat(pair) for pair in ((logits, -logits), (good, good), (good, good), (good, good))), 16)
    alone = belief(-logits, good, good, good)
    assert not both.kept[0].any()
    torch.testing.assert_close(both.kept[1], alone.kept[0])


def test_bands() -> None:
    assert band_of(torch.arange(16)).tolist() == [0, 0, 1, 1, 2, 2, 2, 2] + [3] * 8
