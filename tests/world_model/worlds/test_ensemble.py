"""Ensembles: the first member is shown, disagreement is what the members differ by, and states stay states."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from street import SMALL, street_clips
from tiny_checkpoints import TINY, write_geometric, write_tokens

from world_model.core.errors import ConfigError, OptionError
from world_model.core.geometry import invert_pose, se2_matrix
from world_model.core.grid import FREE, VoxelGrid
from world_model.worlds import Latent, ReplayWorld, SelfDriving, TransportWorld, build_world
from world_model.worlds.ensemble import EnsembleWorld, disagreement
from world_model.worlds.kinds import member_paths


def move(batch: int, dx: float = 2.0) -> torch.Tensor:
    step = torch.full((batch,), dx)
    return invert_pose(se2_matrix(step, 0 * step, 0 * step))


def test_disagreement_counts_what_either_holds_for_occupied() -> None:
    a = torch.full((2, 4, 4, 2), FREE, dtype=torch.uint8)
    b = a.clone()
    assert disagreement(a, b).tolist() == [0, 0]
    a[0, 0, 0, 0], b[0, 0, 0, 0] = 4, 4
    a[0, 1, 0, 0], b[0, 1, 0, 0] = 4, 10  # another class
    a[0, 2, 0, 0] = 11  # only one of them
    b[1, 3, 3, 1] = 11
    assert torch.allclose(disagreement(a, b), torch.tensor([2 / 3, 1.0]))


def test_the_first_member_is_shown_and_differences_are_measured() -> None:
    transport, replay = TransportWorld(SMALL), ReplayWorld(SMALL)
    both = EnsembleWorld([transport, replay])
    clips = street_clips(SMALL, batch=2, cars_x_m=(12.0,))
    state, alone = both.reset(clips), transport.reset(clips)
    assert state.disagreement.tolist() == [0, 0]
    for _ in range(3):
        state = both.step(state, move(2), torch.full((2,), 2))
        alone = transport.step(alone, move(2), torch.full((2,), 2))
    assert (both.occupancy(state) == transport.occupancy(alone)).all()
    # The recording moves on by 3 m a step, so new ground comes into view that transport cannot know.
    assert 0 < state.disagreement[0] < 1 and state.disagreement[0] == state.disagreement[1]
    same = EnsembleWorld([transport, TransportWorld(SMALL)])
    assert same.step(same.reset(clips), move(2), torch.full((2,), 2)).disagreement.max() == 0


def test_states_are_picked_repeated_and_kept() -> None:
    both = EnsembleWorld([TransportWorld(SMALL), ReplayWorld(SMALL), ReplayWorld(SMALL)])
    kept = both.reset(street_clips(SMALL, batch=3, cars_x_m=(12.0,)))
    command = torch.full((3,), 2)
    after = both.step(kept, move(3), command)
    again = both.step(kept.clone(), move(3), command)
    assert torch.equal(after.labels, again.labels) and torch.equal(after.disagreement, again.disagreement)
    row = both.step(kept.index(1), move(1), command[:1])
    assert torch.equal(row.labels[0], after.labels[1])
    many = both.step(kept.expand(2), move(6), torch.full((6,), 2))
    assert torch.equal(many.labels[3], after.labels[1])


def test_checkpoints_by_name(tmp_path: Path) -> None:
    one, two = write_tokens(tmp_path / "a", 0), write_tokens(tmp_path / "b", 1)
    clips = street_clips(TINY)
    alone = build_world("learned", checkpoint=one, device="cpu")
    for checkpoint in ([str(one), str(two)], f"{one},{two}", f'["{one}", "{two}"]'):
        world = build_world("learned", checkpoint=checkpoint, device="cpu")
        assert isinstance(world, EnsembleWorld)
        state = world.step(world.reset(clips), move(1), torch.tensor([2]))
        own = alone.step(alone.reset(clips), move(1), torch.tensor([2]))
        assert torch.equal(world.occupancy(state), alone.occupancy(own))
        assert float(state.disagreement) > 0
        assert torch.equal(world.tokens(state), own.token.float())
        driven, motion = world.drive(state, torch.tensor([0]))
        assert motion.shape == (1, 4, 4) and driven.labels.shape == state.labels.shape
    assert not isinstance(build_world("learned", checkpoint=[one], device="cpu"), EnsembleWorld)


def test_geometric_checkpoints_make_ensembles_too(tmp_path: Path) -> None:
    one, two = write_geometric(tmp_path / "a", 0), write_geometric(tmp_path / "b", 1)
    clips, command = street_clips(TINY), torch.tensor([2])
    # Untrained networks agree that the evidence is better; here their own words are wanted.
    alone = build_world("geometric", checkpoint=one, device="cpu", self_check=False)
    world = build_world("learned", checkpoint=[str(one), str(two)], device="cpu", self_check=False)
    assert isinstance(world, EnsembleWorld)
    state, own = world.reset(clips), alone.reset(clips)
    assert float(state.disagreement) == 0  # what is seen is certain
    for _ in range(2):
        state, own = world.step(state, move(1), command), alone.step(own, move(1), command)
    assert torch.equal(world.occupancy(state), alone.occupancy(own)) and float(state.disagreement) > 0
    again = world.step(state.clone(), move(1), command)
    assert torch.equal(again.labels, world.step(state, move(1), command).labels)


def test_members_of_both_kinds_go_together(tmp_path: Path) -> None:
    """What the first member can, the ensemble can."""
    moved, tokens = write_geometric(tmp_path / "a"), write_tokens(tmp_path / "b")
    clips, command = street_clips(TINY), torch.tensor([2])
    first = build_world("learned", checkpoint=[str(moved), str(tokens)], device="cpu")
    assert isinstance(first, EnsembleWorld) and not isinstance(first, (Latent, SelfDriving))
    state = first.step(first.reset(clips), move(1), command)
    assert state.labels.shape == (1, *TINY.shape) and 0 < float(state.disagreement) <= 1
    other = build_world("learned", checkpoint=[str(tokens), str(moved)], device="cpu")
    assert isinstance(other, Latent) and isinstance(other, SelfDriving)
    driven, _ = other.drive(other.reset(clips), command)
    assert driven.labels.shape == (1, *TINY.shape)  # type: ignore[attr-defined]
    coarse = write_geometric(tmp_path / "c", grid=VoxelGrid(shape=(48, 48, 16), lower_m=TINY.lower_m))
    with pytest.raises(ConfigError, match="one grid"):
        build_world("learned", checkpoint=[str(moved), str(coarse)], device="cpu")


def test_names_of_members() -> None:
    assert member_paths(None) == [None] and member_paths("runs/a") == ["runs/a"]
    assert member_paths("a, b") == member_paths(["a", "b"]) == member_paths('["a", "b"]') == ["a", "b"]
    assert member_paths(Path("a,b")) == [Path("a,b")]
    for bad in ("", "a,,b", "[1, 2]", "[", "[]", [], [3]):
        with pytest.raises(OptionError, match="checkpoint"):
            member_paths(bad)  # type: ignore[arg-type]


def test_members_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="two or more"):
        EnsembleWorld([TransportWorld(SMALL)])
    with pytest.raises(ConfigError, match="one grid"):
        EnsembleWorld([TransportWorld(SMALL), TransportWorld()])
