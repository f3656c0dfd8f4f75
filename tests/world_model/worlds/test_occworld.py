"""OccWorld as a world: modes, the cache, long drives, batches of singles, errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import CARD
from torch import Tensor

from world_model.checkpoints.checkpoint import OCCWORLD_FILE, OCCWORLD_TOKENIZER_FILE, save_model
from world_model.core.errors import CheckpointError, OptionError
from world_model.core.geometry import invert_pose, se2_matrix
from world_model.data.clips import Clips
from world_model.models.occworld import MODES, OccWorld, tiny
from world_model.rollouts import roll
from world_model.trust.stored import calibrated_trust
from world_model.worlds import Latent, MotionPredicting, World, build_world, resolve_world
from world_model.worlds.occworld import OccWorldState, OccWorldWorld


def model(seed: int = 0) -> OccWorld:
    torch.manual_seed(seed)
    made = OccWorld(replace(tiny(window=4), adapter=8)).eval()
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made.requires_grad_(False)


def clips(batch: int = 2, past: int = 2) -> Clips:
    generator = torch.Generator().manual_seed(1)
    blocks = torch.tensor([11, 4, 15, 17, 17])[torch.randint(0, 5, (batch, past + 1, 10, 10, 4), generator=generator)]
    labels = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3).repeat_interleave(4, 4).to(torch.uint8)
    time = torch.arange(past + 1, dtype=torch.float64).expand(batch, -1)
    return Clips(
        occupancy=labels,
        ego_to_global=se2_matrix(700 + time, 1500 + 0.1 * time, 0.05 * time),
        command=torch.full((batch, past + 1), 2),
        motion=torch.tensor([2.0, 0.0, 0.0]).expand(batch, past + 1, 3),
        dt_s=torch.full((batch, past), 0.5),
        valid=torch.ones(batch, past + 1, dtype=torch.bool),
        scene=[0] * batch,
        frame=[past] * batch,
    )


def motions(steps: int, batch: int = 2, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return invert_pose(se2_matrix(torch.rand(batch, steps), 0.2 * torch.randn(batch, steps), torch.zeros(batch, steps)))


def drive(world: OccWorldWorld, steps: int = 4, batch: int = 2, seed: int = 0) -> list[OccWorldState]:
    commands = torch.arange(batch)[:, None].expand(-1, steps) % 3
    return roll(world, world.reset(clips(batch)), commands, motions(steps, batch, seed), keep_states=True).states


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_a_world(mode: str) -> None:
    world = OccWorldWorld(model(), mode)
    assert isinstance(world, World) and isinstance(world, MotionPredicting) and isinstance(world, Latent)
    state = world.reset(clips())
    assert torch.equal(world.occupancy(state), clips().occupancy[:, -1])
    kept = state.clone()
    after, motion = world.drive(state, torch.tensor([0, 2]))
    assert world.occupancy(after).shape == (2, 40, 40, 16) and world.occupancy(after).dtype == torch.uint8
    assert world.tokens(after).shape == (2, *world.token_shape) and motion.shape == (2, 4, 4)
    for name in ("codes", "poses", "count", "proposal", "labels", "kept"):
        assert torch.equal(getattr(state, name), getattr(kept, name))  # the old state stays as it was


@pytest.mark.parametrize("mode", MODES)
def test_the_cache_changes_nothing_beyond_full_windows(mode: str) -> None:
    """Four steps through windows of four: twice the older half is forgotten."""
    double = model().double()
    fast, slow = (drive(OccWorldWorld(double, mode, cached=cached)) for cached in (True, False))
    for a, b in zip(fast, slow, strict=True):
        assert torch.equal(a.labels, b.labels) and torch.equal(a.count, b.count)
        assert (a.proposal - b.proposal).abs().max() < 1e-9
    assert int(fast[-1].count[0]) <= 4


def test_faithful_occupancy_ignores_the_action_and_the_others_answer_it() -> None:
    for mode in MODES:
        world = OccWorldWorld(model(), mode)
        one, other = (drive(world, steps=3, seed=seed) for seed in (0, 1))
        same = [torch.equal(a.labels, b.labels) for a, b in zip(one, other, strict=True)]
        assert all(same) if mode == "faithful" else not any(same[1:])
        assert not torch.equal(one[-1].proposal, other[-1].proposal)


def test_rewarp_follows_an_action_that_is_not_the_proposal() -> None:
    """Along its own proposal the world shows what the faithful one shows."""
    plain, moved = OccWorldWorld(model(), "faithful"), OccWorldWorld(model(), "rewarp")
    command = torch.tensor([2, 2])
    start = plain.reset(clips())
    expected, motion = plain.drive(start, command)
    assert torch.equal(moved.step(start, motion, command).labels, expected.labels)
    ahead = se2_matrix(torch.tensor([0.8, 0.8]), torch.zeros(2), torch.zeros(2))
    shifted = moved.step(start, invert_pose(ahead) @ motion, command).labels
    assert torch.equal(shifted[:, :36], expected.labels[:, 2:38])


def test_a_batch_equals_singles_in_any_phase() -> None:
    world = OccWorldWorld(model().double(), "conditioned")
    states = drive(world)
    mixed = OccWorldState.cat([states[1].index(0), states[4].index(1)])
    step, command = motions(1)[:, 0], torch.tensor([1, 0])
    together = world.step(mixed, step, command)
    for row in range(2):
        alone = world.step(mixed.index(row), step[row : row + 1], command[row : row + 1])
        assert torch.equal(together.labels[row], alone.labels[0])
        assert (together.proposal[row] - alone.proposal[0]).abs().max() < 1e-5


def test_one_observed_frame_proposes_the_last_motion() -> None:
    state = OccWorldWorld(model()).reset(clips(past=0))
    assert torch.equal(state.proposal, torch.tensor([0.0, 1.0]).expand(2, 3, 2))
    assert state.count.tolist() == [1, 1]


def test_longer_clips_give_their_newest_frames() -> None:
    world, long = OccWorldWorld(model()), clips(past=6)
    assert world.reset(long).count.tolist() == [4, 4]


def write(folder: Path, adapter: int = 8) -> Path:
    made = model() if adapter else OccWorld(tiny(window=4))
    save_model(folder / OCCWORLD_FILE, made, made.state_dict(), {**CARD, "mode": "faithful"})
    return folder


def test_it_is_built_by_name(tmp_path: Path) -> None:
    folder = write(tmp_path)
    for name, mode in {"occworld": "faithful", **{f"occworld-{mode}": mode for mode in MODES}}.items():
        world = build_world(name, checkpoint=folder, device="cpu")
        assert isinstance(world, OccWorldWorld) and world.mode == mode
        assert calibrated_trust(world, folder) is None
    assert resolve_world("occworld", folder) == resolve_world("learned", folder) == "occworld-faithful"
    assert isinstance(build_world("learned", checkpoint=folder / OCCWORLD_FILE), OccWorldWorld)


def test_what_does_not_fit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="needs an adapter"):
        build_world("occworld-conditioned", checkpoint=write(tmp_path / "plain", adapter=0))
    with pytest.raises(OptionError, match="faithful=True"):
        build_world("occworld", checkpoint=write(tmp_path / "whole"), faithful=True)
    vae = model().vae
    save_model(tmp_path / "half" / OCCWORLD_TOKENIZER_FILE, vae, vae.state_dict(), CARD)
    with pytest.raises(CheckpointError, match="tokenizer without a forecaster"):
        build_world("occworld", checkpoint=tmp_path / "half")
