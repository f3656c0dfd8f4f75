"""The forecaster: explicit state, batches equal singles, geometry comes first."""

import pytest
import torch

from world_model.core.errors import DataError
from world_model.core.geometry import invert_pose, se2_matrix, warp_bev
from world_model.models.forecaster import Forecaster, ForecasterConfig, ForecastState, base, nano, tiny
from world_model.models.forecaster.attention import DeformableSelfAttention
from world_model.models.forecaster.motion import observed_slots, slot_of, standing


def poses(count: int, step: torch.Tensor) -> torch.Tensor:
    """(1, count, 4, 4) poses that repeat one step, far away from the origin."""
    pose = se2_matrix(torch.tensor([1000.0]), torch.tensor([-500.0]), torch.tensor([0.3])).double()
    out = [pose]
    for _ in range(count - 1):
        out.append(out[-1] @ step.double())
    return torch.stack(out, 1)


STEP = se2_matrix(torch.tensor([1.6]), torch.tensor([0.1]), torch.tensor([0.05]))


@pytest.fixture(params=[True, False], ids=["transport", "published"])
def model(request: pytest.FixtureRequest) -> Forecaster:
    torch.manual_seed(0)
    config = tiny()
    if not request.param:
        config = ForecasterConfig(**{**vars(config), "transport": False})
    model = Forecaster(config).eval()
    if request.param:
        torch.nn.init.normal_(model.change.weight, std=0.1)
    return model


def start(model: Forecaster, batch: int = 2, seed: int = 0) -> ForecastState:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(batch, 5, model.config.width, *model.config.latent_shape, generator=generator)
    return model.start(tokens, poses(5, STEP).expand(batch, -1, -1, -1))


def roll(model: Forecaster, state: ForecastState, steps: int = 3) -> list[torch.Tensor]:
    batch, tokens = len(state.tokens), []
    with torch.no_grad():
        for _ in range(steps):
            state, forecast = model.step(state, torch.full((batch,), 2), invert_pose(STEP).expand(batch, -1, -1))
            tokens.append(forecast.token)
    return tokens


def test_published_size() -> None:
    assert sum(p.numel() for p in Forecaster(base()).parameters()) == 2_463_634
    assert sum(p.numel() for p in Forecaster(nano()).parameters()) < 700_000


def test_batch_equals_singles(model: Forecaster) -> None:
    state = start(model)
    together = roll(model, state)
    for i in range(2):
        for a, b in zip(roll(model, state.index([i])), together, strict=True):
            torch.testing.assert_close(a[0], b[i], atol=1e-5, rtol=1e-4)


def test_a_saved_state_goes_on_to_the_bit(model: Forecaster) -> None:
    state = start(model)
    saved = state.clone()
    first = roll(model, state)
    for a, b in zip(roll(model, saved), first, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(saved.tokens, state.tokens)


def test_expand_repeats_samples(model: Forecaster) -> None:
    wide = start(model).expand(3)
    assert (
        len(wide.tokens) == 6
        and torch.equal(wide.tokens[0], wide.tokens[2])
        and torch.equal(wide.poses[3], wide.poses[5])
    )


def test_the_global_frame_does_not_matter(model: Forecaster) -> None:
    tokens = torch.randn(1, 5, model.config.width, *model.config.latent_shape)
    elsewhere = se2_matrix(torch.tensor([-3000.0]), torch.tensor([77.0]), torch.tensor([2.0])).double()
    here, there = model.start(tokens, poses(5, STEP)), model.start(tokens, elsewhere[:, None] @ poses(5, STEP))
    torch.testing.assert_close(roll(model, here)[-1], roll(model, there)[-1], atol=1e-4, rtol=1e-4)


def test_untrained_transport_is_the_warp() -> None:
    model = Forecaster(tiny()).eval()
    state = start(model, 1)
    config = model.config
    expected = warp_bev(state.token, STEP, config.lower_m, config.cell_m, 0.0)
    torch.testing.assert_close(roll(model, state, 1)[0], expected, atol=1e-5, rtol=1e-4)


def test_actions_and_commands_matter(model: Forecaster) -> None:
    state = start(model, 1)
    with torch.no_grad():
        still = model.predict(state, torch.tensor([2]), torch.eye(4)[None])
        moved = model.predict(state, torch.tensor([2]), invert_pose(STEP))
        right = model.predict(state, torch.tensor([0]))
        left = model.predict(state, torch.tensor([1]))
    assert not torch.allclose(still.token, moved.token)
    assert not torch.allclose(right.predicted_motion, left.predicted_motion)
    assert not torch.allclose(right.token, left.token)


def test_history_moves_on(model: Forecaster) -> None:
    state = start(model, 1)
    with torch.no_grad():
        following, forecast = model.step(state, torch.tensor([2]), invert_pose(STEP))
    assert torch.equal(following.token, forecast.token)
    assert torch.equal(following.tokens[:, :-1], state.tokens[:, 1:])
    torch.testing.assert_close(following.poses[:, -1], STEP, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(following.motions[:, -1], slot_of(STEP), atol=1e-5, rtol=1e-5)


def test_motion_slots() -> None:
    slots = observed_slots(poses(3, STEP), 5)
    torch.testing.assert_close(slots[:, :3], standing(1, 3, slots.device, slots.dtype))
    dx, dy, w, x, y, z, vx, vy, rate = slots[0, -1].tolist()
    assert (dx, dy) == pytest.approx((1.6, 0.1), abs=1e-4) and (x, y) == (0, 0)
    assert (vx, vy, rate) == pytest.approx((3.2, 0.2, 0.1), abs=1e-3) and w > z > 0


def test_few_observed_frames_will_do(model: Forecaster) -> None:
    tokens = torch.randn(1, 1, model.config.width, *model.config.latent_shape)
    state = model.start(tokens, poses(1, STEP))
    assert state.tokens.shape[1] == model.config.history
    assert torch.equal(state.tokens[:, 0], tokens[:, 0])


def test_wrong_tokens_are_named(model: Forecaster) -> None:
    with pytest.raises(DataError, match="Expected"):
        model.start(torch.zeros(1, 5, 3, 4, 4), poses(5, STEP))


def test_deformable_attention_reads_where_its_offsets_point() -> None:
    """With one-hot weights and a constant offset, it is a shift of the map."""
    layer = DeformableSelfAttention(4, 1, 1)
    for linear in (layer.value_proj, layer.output_proj):
        torch.nn.init.eye_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    with torch.no_grad():
        layer.sampling_offsets.bias.copy_(torch.tensor([2.0, -1.0]))  # two cells along Y, one back along X
    cells = torch.randn(1, 6 * 9, 4)
    maps = cells.view(6, 9, 4)
    read = (layer(cells, (6, 9)) - cells).view(6, 9, 4)
    torch.testing.assert_close(read[1:, :-2], maps[:-1, 2:], atol=1e-5, rtol=1e-4)
    assert read[0].abs().max() < 1e-5 and read[:, -2:].abs().max() < 1e-5
