"""The published ego state: explicit, independent per sample, and kept across calls."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.core.errors import ConfigError, DataError
from world_model.core.geometry import invert_pose, pose_matrix, quat_from_yaw, quat_multiply, quat_to_matrix, se2_matrix
from world_model.models.forecaster import Forecaster, ForecasterConfig, ForecastState
from world_model.models.forecaster.ego import (
    EgoState,
    misread_yaw,
    observed_ego,
    prepared_features,
    quat_from_matrix,
    rotations_of,
)
from world_model.models.forecaster.motion import chosen_motion, commands_from_one_hot
from world_model.models.forecaster.objective import future_of, observe_first, published_rollout

SIZE = (6, 9)


def config(**changes: bool) -> ForecasterConfig:
    return ForecasterConfig(
        width=16, latent_shape=SIZE, heads=4, points=2, strides=(1, 2), decoder_layers=1, ffn=32, pose_width=8,
        **{"faithful": True, **changes},
    )  # fmt: skip


@pytest.fixture
def model() -> Forecaster:
    torch.manual_seed(0)
    return Forecaster(config()).double().eval()


def drive(batch: int = 1, count: int = 5, x: float = 1000.0) -> Tensor:
    """(B, count, 4, 4) float64 poses of vehicles that turn, each from another heading."""
    heading = torch.linspace(0.3, 2.0, batch).double()
    pose = se2_matrix(torch.full_like(heading, x), torch.full_like(heading, -500.0), heading)
    step = se2_matrix(*torch.tensor([2.0, 0.1, 0.05]).double())
    poses = [pose]
    for _ in range(count - 1):
        poses.append(poses[-1] @ step)
    return torch.stack(poses, 1)


def tokens(batch: int, count: int) -> Tensor:
    return torch.randn(batch, count, 16, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def roll(model: Forecaster, state: ForecastState, steps: int = 3) -> ForecastState:
    with torch.no_grad():
        for k in range(steps):
            state, _ = model.step(state, torch.full((len(state.tokens),), k % 3))
    return state


def test_start_is_what_calls_frame_by_frame_leave_behind(model: Forecaster) -> None:
    poses, seen = drive(2), tokens(2, 5)
    position, rotation = poses[..., :3, 3], rotations_of(poses)
    features, ego = prepared_features(position, rotation), EgoState.initial(2, 5)
    for k in range(5):
        start = torch.full((2,), k == 0)
        state = model.resume(seen[:, k], ego, position[:, k], rotation[:, k], start)
        if k < 4:
            ego = state.ego
            assert ego is not None
            ego = ego.observe(position[:, k : k + 2], rotation[:, k : k + 2], features[:, k])
    torch.testing.assert_close(model.start(seen, poses).motions, state.motions)
    assert torch.equal(model.start(seen, poses).tokens, state.tokens)
    assert (state.motions[:, 0, 2:6] == 1).all()  # deviation 1: one slot is still unobserved


def test_batch_equals_singles(model: Forecaster) -> None:
    state = model.start(tokens(3, 5), drive(3))
    together = roll(model, state)
    for i in range(3):
        alone = roll(model, state.index([i]))
        torch.testing.assert_close(alone.token[0], together.token[i])
        torch.testing.assert_close(alone.motions[0], together.motions[i])


def test_a_saved_state_goes_on_to_the_bit_and_expands(model: Forecaster) -> None:
    state = roll(model, model.start(tokens(2, 5), drive(2)), 1)
    saved = state.clone()
    assert torch.equal(roll(model, state).motions, roll(model, saved).motions)
    wide = state.expand(2)
    assert wide.ego is not None and state.ego is not None
    assert torch.equal(wide.ego.position[1], state.ego.position[0]) and len(wide.tokens) == 4


def test_far_from_the_origin_nothing_is_lost(model: Forecaster) -> None:
    """Coordinates of a thousand kilometres: displacements stay what they are."""
    near, far = (roll(model, model.start(tokens(1, 5), drive(x=x))) for x in (0.0, 1e6))
    torch.testing.assert_close(far.motions, near.motions, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(far.token, near.token, atol=1e-7, rtol=1e-7)


def test_the_history_is_the_current_token_over_and_over(model: Forecaster) -> None:
    """Deviation 11; without ``faithful`` it is what was seen."""
    seen = tokens(1, 5)
    assert torch.equal(model.start(seen, drive()).tokens, seen[:, -1:].expand(-1, 5, -1, -1, -1))
    right = Forecaster(config(faithful=False)).double()
    assert torch.equal(right.start(seen, drive()).tokens, seen) and right.start(seen, drive()).ego is None


def test_a_given_motion_conditions_the_token_alone(model: Forecaster) -> None:
    state, still = model.start(tokens(1, 5), drive()), torch.eye(4, dtype=torch.float64)[None]
    with torch.no_grad():
        free, own = model.step(state, torch.tensor([2]))
        given, conditioned = model.step(state, torch.tensor([2]), still)
    assert not torch.allclose(own.token, conditioned.token)
    assert torch.equal(free.motions, given.motions)
    assert own.predicted_ego is not None
    torch.testing.assert_close(
        invert_pose(own.predicted_ego[0].pose) @ drive()[:, -1], own.curr_to_next, atol=1e-9, rtol=1e-9
    )


def test_commands_lag_behind(model: Forecaster) -> None:
    """Deviation 6."""
    ego = observed_ego(drive(), 5)
    obeyed = []
    for command in (0, 1, 2):
        now, ego = ego.obey(torch.tensor([command]))
        obeyed.append(int(now))
    assert obeyed == [0, 0, 1]


def test_velocities_survive_a_call_unless_a_sequence_starts() -> None:
    """Deviation 4."""
    motion = torch.tensor([[3.0, 4.0, 1.0, 0.0, 0.0, 0.0]]).repeat(2, 1)
    here, level = torch.zeros(2, 3), quat_from_yaw(torch.zeros(2))
    first, _ = EgoState.initial(2, 5).begin(here, level, torch.tensor([True, True])).follow(motion)
    again = first.begin(here, level, torch.tensor([True, False]))
    _, slot = again.follow(motion)
    speed = slot[:, 7:].norm(dim=-1)
    assert speed.tolist() == pytest.approx(
        [10.0, 0.0]
    )  # measured from (0, 0), and from (3, 4), where the last call ended
    _, coupled = again.follow(motion, couple_batch=True)
    assert coupled[:, 7:].norm(dim=-1).tolist() == pytest.approx([10.0, 10.0])


def test_planar_headings_read_as_zero() -> None:
    """Deviation 3."""
    yaw = torch.linspace(-3, 3, 13)
    assert misread_yaw(quat_from_yaw(yaw)).abs().max() == 0
    poses = drive()
    features = prepared_features(poses[..., :3, 3], rotations_of(poses))
    speed = (poses[:, 1:, :3, 3] - poses[:, :-1, :3, 3]).norm(dim=-1) / 0.5
    torch.testing.assert_close(features[:, 1:, 1], speed)
    assert features[..., 0].abs().max() < 1e-9 and features[..., 2].abs().max() == 0
    alone = prepared_features(poses[:, :1, :3, 3], rotations_of(poses[:, :1]))
    assert alone.shape == (1, 1, 3) and alone.abs().max() == 0


def test_quaternions_of_matrices() -> None:
    given = F.normalize(torch.randn(200, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=-1)
    given[:4] = torch.eye(4, dtype=torch.float64)  # half turns about each axis, and none
    found = quat_from_matrix(quat_to_matrix(given))
    assert (found[:, 0] >= 0).all()
    torch.testing.assert_close((found * given).sum(-1).abs(), torch.ones(200, dtype=torch.float64))


def test_quaternions_do_not_jump() -> None:
    """Through the half turn, where the quaternion with w >= 0 changes its sign."""
    yaw = torch.linspace(3.0, 3.4, 9, dtype=torch.float64)
    poses = pose_matrix(torch.zeros(1, 9, 3, dtype=torch.float64), quat_from_yaw(yaw)[None])
    found = rotations_of(poses)
    assert ((found[:, 1:] * found[:, :-1]).sum(-1) > 0.9).all()


def test_one_hot_commands() -> None:
    rows = F.one_hot(torch.tensor([[0, 2], [1, 1]]), 3).float()
    assert commands_from_one_hot(rows).tolist() == [[0, 2], [1, 1]]
    for bad in (torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([[0.5, 0.5, 0]]), torch.eye(2)):
        with pytest.raises(DataError, match="one-hot"):
            commands_from_one_hot(bad)


@pytest.mark.parametrize("faithful", [True, False])
@pytest.mark.parametrize("command", [-1, 3])
def test_no_such_command(faithful: bool, command: int) -> None:
    model = Forecaster(config(faithful=faithful)).double()
    with pytest.raises(RuntimeError, match="out of bounds"):
        model.step(model.start(tokens(1, 5), drive()), torch.tensor([command]))
    assert chosen_motion(torch.arange(18.0).view(1, 3, 6), torch.tensor([1])).tolist() == [[6, 7, 8, 9, 10, 11]]


def test_published_weights_start_xavier_uniform() -> None:
    """Deviation 15: the deformable offsets too; vectors keep their own initialisation."""
    torch.manual_seed(0)
    published, right = Forecaster(config()), Forecaster(config(faithful=False))
    name = "transformer.intra_encoder.layers.0.attentions.0.sampling_offsets"
    offsets = published.state_dict()[f"{name}.weight"]
    bound = math.sqrt(6 / sum(offsets.shape))
    assert 0.8 * bound < offsets.abs().max() <= bound
    assert right.state_dict()[f"{name}.weight"].abs().max() == 0
    assert torch.equal(published.state_dict()[f"{name}.bias"], right.state_dict()[f"{name}.bias"])


def test_published_and_transport_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="transport"):
        config(transport=True)


def test_a_future_out_of_recorded_frames() -> None:
    poses, seen = drive(2, 6), tokens(2, 6)
    future = future_of(seen[:, 1:], poses, torch.zeros(2, 5, dtype=torch.long))
    assert future.tokens.shape[1] == future.command.shape[1] == future.features.shape[1] == 4
    assert torch.equal(future.position[:, 0], poses[:, 1, :3, 3])
    torch.testing.assert_close(
        future.curr_to_next[0, 0].double(), invert_pose(poses[0, 2]) @ poses[0, 1], atol=1e-4, rtol=0
    )
    speed = (poses[:, 1, :3, 3] - poses[:, 0, :3, 3]).norm(dim=-1) / 0.5
    torch.testing.assert_close(future.features[:, 0, 1], speed)  # measured over the step into the current frame


def test_teacher_forced_rollouts_stay_on_the_recorded_path(model: Forecaster) -> None:
    poses, seen = drive(2, 6), tokens(2, 6)
    future = future_of(seen[:, 1:], poses, torch.zeros(2, 5, dtype=torch.long))
    start = model.start(seen[:, :2], poses[:, :2])
    forced = torch.tensor([[True, False]]).expand(4, -1)
    state, losses = published_rollout(model, start, future, forced, (1.0, 0.5, 0.5, 0.25))
    assert state.ego is not None
    torch.testing.assert_close(state.ego.pose[0], poses[0, -1], atol=1e-9, rtol=1e-9)
    assert (state.ego.pose[1] - poses[1, -1]).norm() > 0.1
    torch.testing.assert_close(state.token[0], seen[0, -1])
    losses.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    after = observe_first(state, future)
    torch.testing.assert_close(after.observed[:, -1, :2], (poses[:, 2] - poses[:, 1])[:, :2, 3])
    torch.testing.assert_close(after.observed[:, :-1], start.motions[:, 1:])


def test_rotations_are_composed_the_wrong_way_round() -> None:
    """Deviation 7: only pure yaw does not care."""
    tilted = F.normalize(torch.tensor([[1.0, 0.2, 0.1, 0.3]], dtype=torch.float64), dim=-1)
    turn = F.normalize(torch.tensor([[1.0, 0.0, 0.2, 0.4]], dtype=torch.float64), dim=-1)
    ego = EgoState.initial(1, 5).begin(torch.zeros(1, 3), tilted, torch.tensor([True]))
    following, _ = ego.follow(torch.cat((torch.zeros(1, 2), turn), -1))
    torch.testing.assert_close(following.rotation, quat_multiply(turn, tilted))
    assert not torch.allclose(following.rotation, quat_multiply(tilted, turn))
