"""Worlds: functional, batched, and exact where geometry leaves no room."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from world_model.core.errors import ConfigError, DataError, OptionError
from world_model.core.geometry import invert_pose, se2_matrix
from world_model.core.grid import FREE, VoxelGrid
from world_model.data.clips import Clips
from world_model.models.forecaster import Forecaster
from world_model.models.forecaster import tiny as tiny_forecaster
from world_model.models.geometric import GeometricForecaster, fusion
from world_model.models.geometric import tiny as tiny_geometric
from world_model.models.occsora import SoraTokenizer, SoraTransformer
from world_model.models.occsora import tiny as tiny_occsora
from world_model.models.tokenizer import Tokenizer
from world_model.models.tokenizer import tiny as tiny_tokenizer
from world_model.worlds import ReplayWorld, TransportWorld, World, build_world
from world_model.worlds.geometric import GeometricWorld
from world_model.worlds.occsora import SoraWorld
from world_model.worlds.token import TokenWorld

GRID = VoxelGrid(shape=(40, 40, 16), lower_m=(-8.0, -8.0, -1.0))


def random_clips(batch: int = 2, past: int = 4, future: int = 3, seed: int = 0) -> Clips:
    """Blocky random labels along a gentle left turn."""
    rng = np.random.default_rng(seed)
    total = past + future + 1
    blocks = rng.choice([11, 4, 15, FREE], size=(batch, total, 10, 10, 4), p=[0.2, 0.1, 0.1, 0.6]).astype(np.uint8)
    labels = torch.from_numpy(blocks.repeat(4, 2).repeat(4, 3).repeat(4, 4))
    time = torch.arange(total, dtype=torch.float64).repeat(batch, 1) * torch.tensor([[1.0], [1.2]]).double()[:batch]
    return Clips(
        occupancy=labels[:, : past + 1],
        ego_to_global=se2_matrix(700 + time, 1500 + 0.1 * time, 0.05 * time),
        command=torch.full((batch, total), 2),
        motion=torch.zeros(batch, total, 3),
        dt_s=torch.full((batch, total - 1), 0.5),
        valid=torch.ones(batch, total, dtype=torch.bool),
        scene=[0] * batch,
        frame=[past] * batch,
        future_occupancy=labels[:, past + 1 :],
    )


def motion(dx: float, dy: float = 0.0, yaw: float = 0.0, batch: int = 2) -> Tensor:
    values = (torch.full((batch,), v) for v in (dx, dy, yaw))
    return invert_pose(se2_matrix(*values))


def tiny_world() -> TokenWorld:
    torch.manual_seed(0)
    return TokenWorld(Tokenizer(tiny_tokenizer()), Forecaster(tiny_forecaster()))


def geometric_world() -> GeometricWorld:
    torch.manual_seed(0)
    return GeometricWorld(GeometricForecaster(tiny_geometric(GRID)))


OCCSORA = (SoraTokenizer, SoraTransformer)


def sora_world() -> SoraWorld:
    torch.manual_seed(0)
    tokenizer, transformer = (kind(config) for kind, config in zip(OCCSORA, tiny_occsora(GRID), strict=True))
    for parameter in (*tokenizer.parameters(), *transformer.parameters()):
        torch.nn.init.normal_(parameter, std=0.3)  # untrained it would draw free space
    return SoraWorld(tokenizer, transformer, steps=3)


def worlds() -> list[World]:
    return [TransportWorld(GRID), ReplayWorld(GRID), tiny_world(), geometric_world(), sora_world()]


STRAIGHT = torch.tensor([2, 2])


@pytest.mark.parametrize("world", worlds(), ids=lambda world: type(world).__name__)
class TestEveryWorld:
    def test_satisfies_the_protocol(self, world: World) -> None:
        assert isinstance(world, World)
        labels = world.occupancy(world.reset(random_clips()))
        assert labels.shape == (2, *GRID.shape) and labels.dtype == torch.uint8 and int(labels.max()) <= FREE

    @torch.no_grad()
    def test_a_kept_state_steps_again_to_the_bit(self, world: World) -> None:
        kept = world.reset(random_clips())
        saved = kept.clone()
        first = world.step(kept, motion(0.7, 0.1, 0.05), STRAIGHT)
        world.step(first, motion(0.9), STRAIGHT)
        again = world.step(saved, motion(0.7, 0.1, 0.05), STRAIGHT)
        assert torch.equal(world.occupancy(first), world.occupancy(again))
        assert torch.equal(world.occupancy(kept), world.occupancy(saved))

    @torch.no_grad()
    def test_a_batch_equals_its_singles(self, world: World) -> None:
        state = world.reset(random_clips())
        both = world.occupancy(world.step(state, motion(0.8, 0.0, 0.1), STRAIGHT))
        for i in range(2):
            one = world.occupancy(world.step(state.index(i), motion(0.8, 0.0, 0.1, batch=1), STRAIGHT[:1]))
            # A near tie between two classes may fall differently when convolutions are summed in another order.
            assert (one[0] == both[i]).float().mean() > 0.999

    @torch.no_grad()
    def test_expanded_states_are_copies(self, world: World) -> None:
        state = world.reset(random_clips()).expand(2)
        labels = world.occupancy(state)
        assert len(labels) == 4
        assert torch.equal(labels[0], labels[1]) and torch.equal(labels[2], labels[3])
        assert not torch.equal(labels[0], labels[2])


def test_transport_shows_the_observation_and_standing_keeps_it() -> None:
    world, clips = TransportWorld(GRID), random_clips()
    state = world.step(world.reset(clips), motion(0.0), STRAIGHT)
    assert torch.equal(world.occupancy(state), clips.occupancy[:, -1])


def test_transport_moves_whole_voxels_exactly() -> None:
    world, clips = TransportWorld(GRID), random_clips()
    moved = world.occupancy(world.step(world.reset(clips), motion(1.2), STRAIGHT))
    assert torch.equal(moved[:, :-3], clips.occupancy[:, -1, 3:])
    assert bool((moved[:, -3:] == FREE).all())


def test_transport_does_not_blur_step_after_step() -> None:
    """There and back again through many odd angles is the start, which repeated warping would not give."""
    world, clips = TransportWorld(GRID), random_clips()
    state = world.reset(clips)
    for _ in range(7):
        state = world.step(state, motion(0.13, 0.05, 0.1), STRAIGHT)
    back = invert_pose(motion(0.13, 0.05, 0.1))
    for _ in range(7):
        state = world.step(state, back, STRAIGHT)
    assert (world.occupancy(state) == clips.occupancy[:, -1]).float().mean() > 0.995


def test_replay_along_the_log_is_the_log() -> None:
    world, clips = ReplayWorld(GRID), random_clips()
    state = world.reset(clips)
    pose = clips.ego_to_global[:, clips.past :]
    for step in range(3):
        state = world.step(state, (invert_pose(pose[:, step + 1]) @ pose[:, step]).float(), STRAIGHT)
        assert (world.occupancy(state) == clips.future_occupancy[:, step]).float().mean() > 0.99


def test_replay_stays_at_the_last_frame_after_the_recording() -> None:
    world, clips = ReplayWorld(GRID), random_clips()
    state = world.reset(clips)
    for _ in range(4):
        state = world.step(state, motion(0.0), STRAIGHT)
    before = world.occupancy(state)
    assert torch.equal(before, world.occupancy(world.step(state, motion(0.0), STRAIGHT)))


def test_replay_needs_future_labels() -> None:
    clips = random_clips()
    with pytest.raises(DataError, match="future_occupancy"):
        ReplayWorld(GRID).reset(Clips(**{**vars(clips), "future_occupancy": None}))


@torch.no_grad()
def test_learned_world_reads_all_observed_frames() -> None:
    world, clips = tiny_world(), random_clips()
    other = clips.occupancy.clone()
    other[:, 0] = FREE
    changed = Clips(**{**vars(clips), "occupancy": other})
    assert not torch.equal(world.reset(clips).token, world.reset(changed).token)


@torch.no_grad()
def test_learned_world_does_not_depend_on_where_in_the_world_it_is() -> None:
    world, clips = tiny_world(), random_clips()
    shift = se2_matrix(*(torch.tensor(v, dtype=torch.float64) for v in (300.0, -200.0, 0.0)))
    moved = Clips(**{**vars(clips), "ego_to_global": shift @ clips.ego_to_global})
    step = [world.step(world.reset(c), motion(0.8), STRAIGHT).token for c in (clips, moved)]
    assert torch.allclose(*step, atol=1e-4)


def test_learned_world_refuses_models_that_do_not_fit() -> None:
    other = tiny_tokenizer(VoxelGrid(shape=(48, 48, 16), lower_m=(-9.6, -9.6, -1.0)))
    with pytest.raises(ConfigError, match="trained together"):
        TokenWorld(Tokenizer(other), Forecaster(tiny_forecaster()))


def test_build_world_by_name_and_import_path() -> None:
    assert isinstance(build_world("transport", device="cpu"), TransportWorld)
    assert isinstance(build_world("replay", device="cpu"), ReplayWorld)
    mine = build_world(f"{__name__}:OwnWorld", device="cpu", grid=GRID)
    assert isinstance(mine, OwnWorld)


@pytest.mark.parametrize("name", ["dream", "world_model.worlds:NoSuchWorld", "no_such_module:World"])
def test_unknown_worlds_are_named(name: str) -> None:
    with pytest.raises(OptionError, match="Expected"):
        build_world(name, device="cpu")


def test_a_class_that_is_no_world_is_refused() -> None:
    with pytest.raises(ConfigError, match="reset, step, occupancy"):
        build_world(f"{__name__}:NoWorld", device="cpu")


class OwnWorld(TransportWorld):
    """A world of a user: takes what `build_world` hands over."""

    def __init__(self, checkpoint: str | None, device: torch.device, grid: VoxelGrid) -> None:
        super().__init__(grid, device)


class NoWorld:
    def __init__(self, **kwargs: object) -> None:
        self.kwargs = kwargs


@torch.no_grad()
def test_a_large_batch_passes_through_the_fusion_network_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    world, sizes = geometric_world(), []
    whole = world.step(world.reset(random_clips()), motion(1.0), torch.full((2,), 2))
    world.model.fusion.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0].labels)))
    monkeypatch.setitem(fusion.GRIDS_AT_ONCE, "cpu", 1)
    parts = world.step(world.reset(random_clips()), motion(1.0), torch.full((2,), 2))
    assert sizes == [1, 1, 1, 1]  # of the self-check, and of the step
    assert (parts.labels != whole.labels).float().mean() < 1e-4
    torch.testing.assert_close(parts.certainty.expected_iou, whole.certainty.expected_iou, rtol=1e-4, atol=1e-5)
