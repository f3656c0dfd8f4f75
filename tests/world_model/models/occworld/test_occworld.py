"""Counts of the published model, causality, pose blindness, the exact cache, axes of norms, displacements."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from world_model.core.errors import ConfigError, DataError
from world_model.core.geometry import invert_pose, se2_matrix
from world_model.core.grid import VoxelGrid
from world_model.models.occworld import OccWorld, base, tiny
from world_model.models.occworld.blocks import MapBlock
from world_model.models.occworld.model import plan_loss
from world_model.models.occworld.motion import displacement_of, inside_cells, motion_of, pose_inputs
from world_model.training.optim import OptimConfig


def model(adapter: int = 0, window: int = 5, seed: int = 0) -> OccWorld:
    """Random weights, biases and norms included, in double precision."""
    torch.manual_seed(seed)
    made = OccWorld(replace(tiny(window=window), adapter=adapter, temporal_layers=2)).double().eval()
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made.requires_grad_(False)


def window(made: OccWorld, batch: int = 2, frames: int = 5) -> tuple[Tensor, Tensor]:
    config = made.config
    codes = torch.randint(0, config.codes, (batch, frames, *config.latent_shape))
    moved, command = torch.randn(batch, frames, 2).double(), torch.randint(0, 3, (batch, frames))
    return codes, pose_inputs(moved, command)


def test_the_published_model_has_its_counts() -> None:
    with torch.device("meta"):
        made = OccWorld(base())
    for part, tensors, numbers in (
        (made, 768, 72_385_578),
        (made.vae, 222, 14_168_272),
        (made.transformer, 538, 58_182_740),
    ):
        state = part.state_dict()
        assert (len(state), sum(value.numel() for value in state.values())) == (tensors, numbers)
    names = made.state_dict()
    for name, shape in {
        "vae.vqvae.embedding.weight": (512, 128),
        "vae.decoder.up.2.attn.1.proj_out.weight": (256, 256, 1, 1),
        "transformer.temporal_attentions_de.0.5.0.in_proj_weight": (1536, 512),
        "transformer.pose_attn_en.1.1.4.fc1.weight": (512, 128),
        "transformer.encoders.1.0.ln.weight": (25, 25),
        "transformer.decoders.1.0.ln.weight": (256, 50, 50),
        "transformer.upsamples.0.weight": (512, 256, 2, 2),
        "pose_decoder.pose_decoder.2.bias": (6,),
    }.items():
        assert tuple(names[name].shape) == shape


def test_a_query_sees_the_past_only() -> None:
    made = model()
    codes, poses = window(made)
    logits, plan = made(codes, poses)
    other_codes, other_poses = window(made)
    later = (torch.cat((a[:, :3], b[:, 3:]), 1) for a, b in ((codes, other_codes), (poses, other_poses)))
    found, found_plan = made(*later)
    assert torch.equal(found[:, :3], logits[:, :3]) and torch.equal(found_plan[:, :3], plan[:, :3])
    assert not torch.equal(found[:, 3:], logits[:, 3:])
    short, _ = made(codes[:, :3], poses[:, :3])
    assert (short - logits[:, :3]).abs().max() < 1e-12


def test_what_is_kept_of_a_frame_depends_on_that_frame_only() -> None:
    made = model()
    codes, poses = window(made)
    first, second = (torch.zeros(2, *made.transformer.cache_shape).double() for _ in range(2))
    made.features(codes, poses, cache=first)
    other = codes.clone()
    other[:, 1] = (other[:, 1] + 1) % made.config.codes
    made.features(other, poses, cache=second)
    same = (first == second).all(-1)
    assert same[:, [0, 2, 3, 4]].all() and not same[:, 1].any()


def test_maps_are_blind_to_poses_to_the_bit() -> None:
    made = model()
    codes, poses = window(made)
    logits, plan = made(codes, poses)
    other, other_plan = made(codes, -3 * poses)
    assert torch.equal(logits, other) and not torch.allclose(plan, other_plan)


def test_one_frame_a_step_equals_the_whole_window() -> None:
    made = model()
    codes, poses = window(made, batch=3)
    features, plan = made.features(codes, poses)
    cache = torch.zeros(3, *made.transformer.cache_shape).double()
    for f in range(5):
        at = torch.full((3, 1), f)
        part, part_plan = made.features(codes[:, f : f + 1], poses[:, f : f + 1], at, cache)
        assert (part[:, 0] - features[:, f]).abs().max() < 1e-9
        assert (part_plan[:, 0] - plan[:, f]).abs().max() < 1e-9


def test_windows_of_different_length_share_a_call() -> None:
    made = model()
    codes, poses = window(made)
    features, _ = made.features(codes, poses)
    cache = torch.zeros(2, *made.transformer.cache_shape).double()
    made.features(codes[:, :4], poses[:, :4], cache=cache)
    at, rows = torch.tensor([[1], [4]]), torch.tensor([0, 1])
    part, _ = made.features(codes[rows, at[:, 0]][:, None], poses[rows, at[:, 0]][:, None], at, cache)
    assert (part[:, 0] - features[rows, at[:, 0]]).abs().max() < 1e-9


def test_norms_of_the_down_stages_leave_other_channels_alone() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 4, 5, 5)
    louder = x * torch.tensor([9.0, 1, 1, 1])[:, None, None]
    apart, together = MapBlock(4, 4, (5, 5), over_channels=False), MapBlock(4, 4, (5, 5), over_channels=True)
    assert torch.equal(apart.ln(x)[:, 1:], apart.ln(louder)[:, 1:])
    assert not torch.allclose(together.ln(x)[:, 1:], together.ln(louder)[:, 1:])


def test_an_adapter_starts_without_effect() -> None:
    torch.manual_seed(0)
    made = OccWorld(replace(tiny(), adapter=8)).eval()
    codes, poses = window(made)
    features, _ = made.features(codes[:, :4], poses[:, :4].float())
    moved = torch.randint(0, made.config.codes, codes[:, 0].shape)
    inside = torch.ones_like(moved, dtype=torch.bool)
    assert torch.equal(made.logits(features[:, -1], moved, inside), made.logits(features[:, -1]))


@pytest.mark.parametrize("shape", [(36, 52, 16), (40, 44, 16), (52, 40, 16)])
def test_maps_with_odd_levels(shape: tuple[int, int, int]) -> None:
    made = OccWorld(tiny(VoxelGrid(shape=shape, lower_m=(-7.2, -8.0, -1.0)))).eval()
    codes, poses = window(made, frames=3)
    assert made(codes, poses.float())[0].shape == (2, 3, 32, *made.config.latent_shape)


def test_windows_that_do_not_fit_are_errors() -> None:
    made = model()
    codes, poses = window(made, frames=6)
    with pytest.raises(ConfigError, match=r"window of 6 frames.*\n.*1 to 5 frames"):
        made(codes, poses)
    with pytest.raises(ConfigError, match="window of 0 frames"):
        made(codes[:, :0], poses[:, :0])
    with pytest.raises(ConfigError, match=r"of \(9, 10\) codes"):
        made(codes[:, :2, :-1], poses[:, :2])
    with pytest.raises(DataError, match="labels of shape"):
        made.vae.encode(torch.zeros(1, 40, 48, 16, dtype=torch.uint8))


def test_displacements_follow_the_point_ahead_through_a_turn() -> None:
    """A quarter turn to the left on the spot moves a point ahead to the left and back by the lever arm."""
    quarter = torch.tensor(torch.pi / 2)
    step = se2_matrix(torch.tensor(4.0), torch.tensor(1.0), quarter)[None]
    found = displacement_of(invert_pose(step), 0.94)
    assert torch.allclose(found, torch.tensor([[-1.0 - 0.94, 4.0 - 0.94]]), atol=1e-6)


def test_a_motion_along_an_arc_survives_its_displacement() -> None:
    yaw = torch.tensor([-0.2, 0.0, 0.05, 0.3])
    length = torch.tensor([2.0, 5.0, 0.8, 6.0])
    x, y = length * (yaw / 2).cos(), length * (yaw / 2).sin()
    motion = invert_pose(se2_matrix(x, y, yaw))
    assert torch.allclose(motion_of(displacement_of(motion, 0.94), 0.94), motion, atol=1e-4)
    standing = motion_of(torch.tensor([[0.0, 0.0]]), 0.94)
    assert torch.allclose(standing, torch.eye(4)[None], atol=1e-6)


def test_cells_that_come_into_view_are_outside() -> None:
    config = tiny()
    ahead = invert_pose(se2_matrix(torch.tensor([3.2]), torch.tensor([0.0]), torch.tensor([0.0])))
    inside = inside_cells(ahead, config)[0]
    gone = round(3.2 / config.codec.cell_m)
    assert inside[:-gone].all() and not inside[-gone:].any()


def test_the_plan_loss_sums_along_the_window() -> None:
    planned = torch.zeros(1, 3, 3, 2)
    planned[0, :, 1] = torch.tensor([1.0, 0.0])
    true = torch.zeros(1, 3, 2)
    assert plan_loss(planned, true, torch.full((1, 3), 1)) == pytest.approx((1 + 2 + 3) / 3)
    assert plan_loss(planned, true, torch.full((1, 3), 2)) == 0


def test_the_published_schedule() -> None:
    optim = OptimConfig(learning_rate=1e-3, schedule="long-cosine", warmup=50)
    assert optim.rate(0, 1000) == pytest.approx(1e-6) and optim.rate(50, 1000) == pytest.approx(1e-3)
    assert optim.rate(999, 1000) == pytest.approx(1e-6, rel=0.01)
