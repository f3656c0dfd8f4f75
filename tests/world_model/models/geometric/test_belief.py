"""Where the network is worse than its evidence on a known frame the evidence wins; where it is right, the network."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from world_model.core.grid import FREE
from world_model.core.ground import BANDS, band_of
from world_model.models.geometric.belief import LEVELS, Belief, find_belief
from world_model.models.geometric.config import tiny
from world_model.models.geometric.evidence import OBSERVED, UNKNOWN, Evidence
from world_model.models.geometric.fusion import FusionNet

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


def test_a_few_lost_voxels_are_left_to_the_network() -> None:
    labels = cells(WALL, 0.2, 1)
    few, many = (torch.rand(labels.shape, generator=torch.Generator().manual_seed(2)) < share for share in (0.005, 0.1))
    for erased, corrected in ((few, False), (many, True)):
        logits = torch.where((labels != FREE) & ~erased, 5.0, -3.0)
        assert bool(belief(logits, labels, labels, labels).kept.any()) == corrected


def test_half_wrong_drawings_are_left_to_the_network() -> None:
    labels, trees = cells(ROAD, 0.2, 0), cells(TREE, 0.1, 3)
    half = torch.where(torch.rand(trees.shape, generator=torch.Generator().manual_seed(5)) < 0.5, trees, FREE)
    logits = torch.where(merged(labels, trees) != FREE, 1.5, -5.0)
    found = belief(logits, merged(labels, trees), labels, merged(labels, half.to(torch.uint8)))
    assert not found.drawn.any()


def drawn(belief_of: Belief, visible: int) -> Tensor:
    """Labels of a network that draws everywhere, in columns of a visibility."""
    torch.manual_seed(0)
    config = tiny()
    net = FusionNet(config).eval()
    with torch.no_grad():
        assert net.scores.bias is not None
        net.scores.bias[: net.slots] = 1.0
        empty = torch.full((1, *config.grid.shape), FREE, dtype=torch.uint8)
        columns = torch.full((1, *config.grid.shape[:2]), visible, dtype=torch.uint8)
        evidence = Evidence(
            labels=empty,
            memory=empty,
            visibility=columns,
            displacement_m=torch.zeros(*columns.shape, 2),
            elapsed_s=torch.ones(1),
        )
        return net.forecast(evidence, belief_of)[0]


def test_classes_that_the_data_do_not_have_are_called_by_the_next_name() -> None:
    blank = Belief.blank(1, torch.device("cpu"))
    plain = drawn(blank, OBSERVED)
    name = int(plain[plain != FREE].mode().values)
    absent = torch.zeros(1, 18, dtype=torch.bool)
    absent[0, name] = True
    other = drawn(blank.without(absent), OBSERVED)
    assert torch.equal(other != FREE, plain != FREE) and not (other == name).any()
    assert torch.equal(other[plain != name], plain[plain != name])


def test_columns_that_were_not_seen_are_drawn_whatever_the_self_check_found() -> None:
    blank = Belief.blank(1, torch.device("cpu"))
    wary = replace(blank, drawn=torch.full_like(blank.drawn, LEVELS[-1]))
    assert (drawn(wary, OBSERVED) == FREE).all()
    assert torch.equal(drawn(wary, UNKNOWN), drawn(blank, UNKNOWN)) and (drawn(wary, UNKNOWN) != FREE).any()
