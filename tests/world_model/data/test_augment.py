"""A mirrored world is a world: its geometry commutes with the mirror, and two mirrors undo each other exactly."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_scenes import write_scenes

from world_model.core.errors import ConfigError
from world_model.core.geometry import pose_matrix, warp_voxels
from world_model.core.grid import VoxelGrid
from world_model.data.augment import Flip, check_symmetric
from world_model.data.ego_motion import commands_from_poses, motion_from_poses
from world_model.data.index import SceneIndex
from world_model.data.streams import StreamPlan
from world_model.models.tokenizer import TINY_GRID, Memory, tiny
from world_model.models.tokenizer.memory import align
from world_model.prepare import Prepare, prepare

FLIPS = [Flip(x, y) for x, y in itertools.product((False, True), repeat=2)]


def poses(count: int, seed: int) -> torch.Tensor:
    """Poses (count, 4, 4) float64 of a drive with turns, slopes and global coordinates of kilometres."""
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randn(count, 3, generator=generator).cumsum(0).double() * 3 + 1500
    turn = torch.tensor((1.0, 0, 0, 0)) + 0.3 * torch.randn(count, 4, generator=generator)
    return pose_matrix(shift, turn.double())


def mirror(flip: Flip, transform: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(flip.transform(transform.numpy()))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SceneIndex:
    root = write_scenes(tmp_path_factory.mktemp("data"), frames=(14, 12))
    prepare(Prepare(data_root=root))
    return SceneIndex.load(root)


@pytest.mark.parametrize("flip", FLIPS)
def test_two_flips_are_none(flip: Flip, index: SceneIndex) -> None:
    labels, transform = index.read_labels(5, TINY_GRID.shape), index.ego_to_global
    assert np.array_equal(flip.labels(flip.labels(labels)), labels)
    assert np.array_equal(flip.transform(flip.transform(transform)), transform)
    assert np.array_equal(flip.transform(transform), transform) == (flip == Flip())
    assert np.array_equal(flip.labels(labels), labels) == (flip == Flip())


@pytest.mark.parametrize("flip", FLIPS)
def test_a_mirrored_transform_is_rigid_and_composes(flip: Flip) -> None:
    a, b = poses(6, 0), poses(6, 1)
    mirrored = mirror(flip, a)
    rotation = mirrored[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.transpose(1, 2), torch.eye(3).double().expand(6, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(6).double())
    torch.testing.assert_close(mirror(flip, a @ b), mirrored @ mirror(flip, b))


@pytest.mark.parametrize("flip", FLIPS)
def test_points_move_with_the_mirror(flip: Flip) -> None:
    """Mirror a point, move it by the mirrored transform, mirror it back: the same as moving it."""
    transform, point = poses(5, 2), torch.tensor((3.0, -7.0, 0.5, 1.0)).double()
    signs = torch.from_numpy(flip.signs)
    there = mirror(flip, transform) @ (signs * point)
    torch.testing.assert_close(signs * there, transform @ point, rtol=0, atol=1e-12)


@pytest.mark.parametrize("flip", FLIPS)
def test_the_temporal_memory_is_aligned_alike(flip: Flip) -> None:
    """Flip, align the memory, flip back: what the tokenizer's alignment makes of the world as it is."""
    config, generator = tiny(TINY_GRID), torch.Generator().manual_seed(4)
    size = config.latent_shape
    memory = torch.randn(2, config.memory, config.latent, *size, generator=generator, dtype=torch.float64)
    latent = torch.randn(2, config.latent, *size, generator=generator, dtype=torch.float64)
    motion = torch.eye(4).double().repeat(2, 1, 1)
    motion[:, :3, 3] = torch.tensor([[1.3, -0.4, 0.02], [0.7, 0.9, 0.0]])
    motion[0, :2, :2] = torch.tensor([[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]])
    start = torch.tensor([False, False])

    def reverse(maps: torch.Tensor) -> torch.Tensor:
        return maps.flip([axis for axis, on in ((-2, flip.x), (-1, flip.y)) if on])

    plain = align(Memory(latents=memory), latent, motion, start, config)
    mirrored = align(Memory(latents=reverse(memory)), reverse(latent), mirror(flip, motion), start, config)
    torch.testing.assert_close(reverse(mirrored), plain, rtol=0, atol=2e-6)  # sampling itself is in float32


@pytest.mark.parametrize("flip", FLIPS)
def test_commands_and_motions_follow_the_mirrored_drive(flip: Flip, index: SceneIndex) -> None:
    """Commands derived from mirrored poses are the mirrored commands; front and back do not change sides."""
    straight_ahead = np.tile(np.eye(4), (9, 1, 1))
    step = np.arange(9)
    for side, command in ((0.12, 1), (-0.12, 0), (0.0, 2)):
        drive = straight_ahead.copy()
        drive[:, 0, 3], drive[:, 1, 3] = 3.0 * step, side * step**2
        assert commands_from_poses(drive)[0] == command
        opposite = {0: 1, 1: 0, 2: 2}[command] if flip.y else command
        assert commands_from_poses(flip.transform(drive))[0] == opposite
    frames = slice(index.frames(0).start, index.frames(0).stop)
    pose, time_us = index.ego_to_global[frames], index.timestamp_us[frames]
    motion = motion_from_poses(pose, time_us)
    signs = flip.signs[:2].tolist()
    signs = np.array([*signs, signs[0] * signs[1]])
    assert (np.abs(motion) > 1e-3).all()  # every component moves, so every sign matters
    np.testing.assert_array_equal(motion_from_poses(flip.transform(pose), time_us), motion * signs.astype(np.float32))


def test_streams_keep_labels_and_poses_together(index: SceneIndex) -> None:
    """With flips drawn per stream, every frame warps onto its predecessor as well as without flips."""
    plan = StreamPlan(index, "all", 4, seed=5, grid=TINY_GRID)
    plain = StreamPlan(index, "all", 4, seed=5, grid=TINY_GRID, flips="none")
    seen = set()
    for iteration in range(24):
        for slot in plan.slots(iteration):
            seen.add(slot.flip)
            assert slot.memory_flip == slot.flip
            batch = plan.read([slot])
            original = plain.read([type(slot)(frame=slot.frame, start=slot.start, flip=Flip(), memory_flip=Flip())])
            warped = warp_voxels(batch.labels, batch.curr_to_prev, TINY_GRID)
            expected = slot.flip.labels(warp_voxels(original.labels, original.curr_to_prev, TINY_GRID).numpy())
            assert (warped.numpy() == expected).mean() > 0.99  # voxels on an edge may round to either side
    assert seen == set(FLIPS)


def test_published_flips_remember_the_first_frame(index: SceneIndex) -> None:
    """Deviation 9: flips change from frame to frame, the memory is taken to be mirrored as the stream began."""
    plan = StreamPlan(index, "all", 3, seed=1, grid=TINY_GRID, flips="published")
    first = [slot.flip for slot in plan.slots(0)]
    changed = 0
    for iteration in range(6):
        for i, slot in enumerate(plan.slots(iteration)):
            assert slot.memory_flip == first[i]
            changed += slot.flip != first[i]
            if not slot.start:
                moved = plan.read([slot]).curr_to_prev[0].numpy()
                motion = index.curr_to_prev(slot.frame)
                signs = np.diag(first[i].signs), np.diag(slot.flip.signs)
                np.testing.assert_allclose(moved, signs[0] @ motion @ signs[1], atol=1e-5)
    assert changed > 3


def test_an_ego_vehicle_off_the_middle_cannot_be_mirrored(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="flips none"):
        check_symmetric(VoxelGrid(shape=(40, 40, 16), lower_m=(0.0, -8.0, -1.0)))
