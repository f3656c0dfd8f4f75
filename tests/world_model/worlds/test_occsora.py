"""OccSora as a world: what it draws depends on plan and seed alone, and is shown from where the ego really is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ii_world_env.engine import Engine, EngineConfig
from world_model.core.errors import ConfigError, OptionError
from world_model.core.geometry import invert_pose, se2_matrix, warp_voxels
from world_model.core.grid import VoxelGrid
from world_model.data.clips import Clips
from world_model.generation.drive import drive, planned
from world_model.models.occsora import SoraTokenizer, SoraTransformer, tiny
from world_model.rollouts import roll
from world_model.worlds import Limited, ManyFutures, TransportWorld, limits_of
from world_model.worlds.occsora import SoraWorld, plan

GRID = VoxelGrid(shape=(40, 40, 16), lower_m=(-8.0, -8.0, -1.0))
STRAIGHT = torch.tensor([2, 2])


def world(**options: bool | int) -> SoraWorld:
    """Random weights that draw all sorts of labels."""
    torch.manual_seed(0)
    tokenizer, transformer = tiny(GRID)
    history = bool(options.pop("history", False))
    model = SoraTokenizer(tokenizer), SoraTransformer(replace(transformer, history=history))
    for part in model:
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=0.3)
    return SoraWorld(*model, steps=3, **options)  # type: ignore[arg-type]


def clips(future: int = 9, seed: int = 0) -> Clips:
    """A gentle turn; the second clip's recording ends after two future frames."""
    time = torch.arange(5 + future, dtype=torch.float64).repeat(2, 1)
    valid = torch.ones(2, 5 + future, dtype=torch.bool)
    valid[1, 7:] = False
    generator = torch.Generator().manual_seed(seed)
    motion = torch.zeros(2, 5 + future, 3)
    motion[..., 0] = 4.0
    return Clips(
        occupancy=torch.randint(0, 18, (2, 5, *GRID.shape), dtype=torch.uint8, generator=generator),
        ego_to_global=se2_matrix(2 * time, 0.1 * time, 0.05 * time),
        command=torch.full((2, 5 + future), 2),
        motion=motion,
        dt_s=torch.full((2, 4 + future), 0.5),
        valid=valid,
        scene=[0, 1],
        frame=[4, 54],
    )


def test_the_plan_is_the_recording_and_then_the_last_motion() -> None:
    poses, command = plan(clips(), 8, recorded=True)
    given = clips().ego_to_global[:, 4:]
    torch.testing.assert_close(poses[0], given[0, :8])
    torch.testing.assert_close(poses[1, :3], given[1, :3])
    held = se2_matrix(*(torch.tensor(v, dtype=torch.float64) for v in (2.0, 0.0, 0.0)))
    torch.testing.assert_close(poses[1, 7], given[1, 2] @ held @ held @ held @ held @ held)
    assert poses.shape == (2, 8, 4, 4) and command.shape == (2, 8)
    without, _ = plan(clips(), 8, recorded=False)
    torch.testing.assert_close(without[0, 7, :3, 3], (given[0, 0] @ torch.linalg.matrix_power(held, 7))[:3, 3])
    short, _ = plan(clips(future=1), 8, recorded=True)
    torch.testing.assert_close(short[0, :2], given[0, :2])


def test_what_is_drawn_depends_on_plan_and_seed_alone() -> None:
    own = world()
    state = own.reset(clips())
    assert torch.equal(state.labels, own.reset(clips(seed=1)).labels)  # the observation is not looked at
    again = own.draw_traffic(state, torch.tensor([4, 54]))
    assert torch.equal(again.labels, state.labels) and again.seed.tolist() == [4, 54]
    other = own.draw_traffic(state, torch.tensor([4, 55]))
    assert torch.equal(other.labels[0], state.labels[0]) and not torch.equal(other.labels[1], state.labels[1])
    assert not torch.equal(world(planned=False).reset(clips()).labels[0], state.labels[0])
    ancestral = world(ancestral=True).reset(clips()).labels
    assert not torch.equal(ancestral, state.labels) and torch.equal(
        ancestral, world(ancestral=True).reset(clips()).labels
    )


def test_a_batch_is_its_clips() -> None:
    own = world()
    own.tokenizer.double(), own.transformer.double()
    both = own.reset(clips())
    for n in range(2):
        alone = own.draw_traffic(both.index(n), both.seed[n : n + 1])
        assert torch.equal(alone.labels[0], both.labels[n])


def test_frames_are_shown_from_the_executed_pose() -> None:
    own = world()
    state = own.reset(clips())
    torch.testing.assert_close(own.occupancy(state), state.labels[:, 0])
    pose = plan(clips(), 8, recorded=True)[0]
    planned = invert_pose(pose[:, 1]) @ pose[:, 0]
    follows = own.step(state, planned.float(), STRAIGHT)
    assert (own.occupancy(follows) != state.labels[:, 1]).float().mean() < 0.02
    # Half a voxel row beside the plan: the drawn frame, moved back.
    beside = se2_matrix(*(torch.tensor([v, v], dtype=torch.float64) for v in (0.0, 0.8, 0.0)))
    executed = invert_pose(beside) @ planned
    shown = own.occupancy(own.step(state, executed.float(), STRAIGHT))
    expected = warp_voxels(state.labels[:, 1], beside.float(), GRID)
    assert (shown != expected).float().mean() < 0.02
    # Another action changes the place alone.
    assert torch.equal(own.step(state, executed.float(), STRAIGHT).labels, follows.labels)


def test_limits_are_told_and_kept() -> None:
    own = world()
    assert isinstance(own, Limited) and isinstance(own, ManyFutures)
    assert limits_of(own) == {"starts_from_observation": False, "answers_actions": False, "horizon_steps": 7}
    assert limits_of(TransportWorld(GRID)) == {}
    still = torch.eye(4).expand(2, 8, 4, 4)
    with pytest.raises(OptionError, match="at most 7"):
        roll(own, clips(), torch.full((2, 8), 2), still)
    assert len(roll(own, clips(), torch.full((2, 7), 2), still[:, :7]).occupancy) == 7
    Engine(own, EngineConfig(horizon=7))
    with pytest.raises(OptionError, match=r"8 steps in a SoraWorld"):
        Engine(own, EngineConfig(horizon=8))


def test_history_starts_from_the_observation() -> None:
    own = world(history=True)
    state = own.reset(clips())
    assert own.starts_from_observation and state.history is not None
    seen: Tensor = own.reset(clips(seed=1)).labels
    assert not torch.equal(state.labels, seen)
    assert torch.equal(own.draw_traffic(state, state.seed).labels, state.labels)


def test_parts_that_do_not_fit_are_refused() -> None:
    tokenizer, transformer = tiny(GRID)
    with pytest.raises(ConfigError, match="trained together"):
        SoraWorld(SoraTokenizer(replace(tokenizer, latent=8)), SoraTransformer(transformer))


def test_a_given_drive_is_what_generate_draws_for() -> None:
    """Along a trajectory of its own, the episode is drawn for that trajectory, not for the recording."""
    own = world()
    one = clips()
    first = Clips(**{k: v[:1] if isinstance(v, Tensor | list) else v for k, v in vars(one).items()})
    motions = np.array([[1.0, 0.2, 0.1]] * 4)
    rollout = drive(own, first, 4, motions=motions)
    step = se2_matrix(*(torch.tensor(v, dtype=torch.float64) for v in motions[0]))
    poses, _ = plan(planned(first, step.expand(4, 4, 4)), 8, recorded=True)
    expected = first.ego_to_global[0, 4]
    for n in range(8):  # the last motion is held
        torch.testing.assert_close(poses[0, n], expected, atol=1e-5, rtol=1e-5)
        expected = expected @ step
    state = own.reset(planned(first, step.expand(4, 4, 4)))
    shown = own.occupancy(own.step(state, invert_pose(step)[None].float(), STRAIGHT[:1]))
    assert torch.equal(rollout.occupancy[1], shown)
    assert not torch.equal(state.labels, own.reset(first).labels)
