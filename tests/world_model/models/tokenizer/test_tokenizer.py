"""The tokenizer: batches equal singles, state is explicit, fast paths agree with slow twins."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from world_model.core.errors import ConfigError, DataError
from world_model.core.geometry import se2_matrix
from world_model.core.grid import FREE, VoxelGrid
from world_model.models.tokenizer import TINY_GRID, Tokenizer, TokenizerConfig, base, nano, tiny
from world_model.models.tokenizer.codec import classify
from world_model.models.tokenizer.embedding import patch_index, stem
from world_model.models.tokenizer.memory import Memory, align, remember
from world_model.models.tokenizer.quantizer import Quantizer


def scene(batch: int, grid: VoxelGrid = TINY_GRID, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.full((batch, *grid.shape), FREE, dtype=torch.uint8)
    labels[:, :, :, 2] = 11
    labels[torch.rand(labels.shape, generator=generator) < 0.03] = 4
    return labels


@pytest.fixture(scope="module")
def model() -> Tokenizer:
    torch.manual_seed(0)
    return Tokenizer(tiny()).eval()


def run(model: Tokenizer, labels: torch.Tensor, frames: int = 3) -> list[torch.Tensor]:
    """Tokens of the same labels seen again and again from a moving ego vehicle."""
    batch = len(labels)
    memory, motion = (
        model.empty_memory(batch),
        se2_matrix(torch.full((batch,), 1.0), torch.zeros(batch), torch.zeros(batch)),
    )
    tokens = []
    with torch.no_grad():
        for i in range(frames):
            out = model.encode(labels, memory, motion, torch.full((batch,), i == 0))
            memory = out.memory
            tokens.append(out.token)
    return tokens


def test_published_size() -> None:
    assert sum(p.numel() for p in Tokenizer(base()).parameters()) == 20_211_040


def test_bundled_size_fits() -> None:
    assert sum(p.numel() for p in Tokenizer(nano()).parameters()) < 1_500_000
    assert nano().latent_shape == base().latent_shape == (50, 50)


def test_batch_equals_singles(model: Tokenizer) -> None:
    labels = torch.cat((scene(1, seed=1), scene(1, seed=2)))
    together = run(model, labels)
    for i in range(2):
        for a, b in zip(run(model, labels[i : i + 1]), together, strict=True):
            torch.testing.assert_close(a[0], b[i], atol=1e-5, rtol=1e-4)


def test_memory_matters_and_start_forgets_it(model: Tokenizer) -> None:
    labels = scene(1)
    first, second, _ = run(model, labels)
    assert not torch.allclose(first, second)
    other = Memory(latents=torch.randn(1, 4, 16, *model.config.latent_shape))
    with torch.no_grad():
        restarted = model.encode(labels, other, torch.eye(4)[None], torch.tensor([True]))
    torch.testing.assert_close(restarted.token, first)


def test_encoding_changes_no_input(model: Tokenizer) -> None:
    labels, memory = scene(1), model.empty_memory(1)
    before = memory.latents.clone()
    with torch.no_grad():
        model.encode(labels, memory, torch.eye(4)[None], torch.tensor([False]))
    assert torch.equal(memory.latents, before) and torch.equal(labels, scene(1))


def test_memory_carries_no_gradient() -> None:
    model = Tokenizer(tiny())
    out = model.encode(scene(1), model.empty_memory(1), torch.eye(4)[None], torch.tensor([True]))
    assert out.token.requires_grad and not out.memory.latents.requires_grad


def test_alignment_follows_the_ego_motion() -> None:
    config = tiny()
    latents = torch.randn(1, 4, 16, *config.latent_shape)
    one_cell = se2_matrix(torch.tensor([config.cell_m]), torch.zeros(1), torch.zeros(1))
    moved = align(Memory(latents=latents), latents[:, 0], one_cell, torch.tensor([False]), config)
    torch.testing.assert_close(moved[:, :, :, :-1], latents[:, :, :, 1:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_sparse_stem_is_the_dense_convolution(patch: int, kernel: int) -> None:
    torch.manual_seed(0)
    labels = scene(2, VoxelGrid(shape=(8, 12, 4), lower_m=(0, 0, 0)))
    table = torch.randn(18, 3, dtype=torch.float64, requires_grad=True)
    conv = nn.Conv2d(patch * patch * 4 * 3, 5, kernel, padding=kernel // 2).double()
    dense = table[labels.long()].view(2, 8 // patch, patch, 12 // patch, patch, 12).transpose(2, 3)
    expected = conv(dense.reshape(2, 8 // patch, 12 // patch, -1).permute(0, 3, 1, 2))
    found = stem(labels, table, conv, patch)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), (table, conv.weight))
    torch.testing.assert_close(torch.autograd.grad((found * weight).sum(), (table, conv.weight)), wanted)


def test_patch_layout_round_trip(model: Tokenizer) -> None:
    voxels = torch.arange(2 * 40 * 40 * 16)
    rows = torch.empty_like(voxels)
    rows[patch_index(voxels, (40, 40, 16), 2)] = voxels
    assert torch.equal(model.unpatch(rows).flatten(), voxels)


def test_decoded_labels_have_the_highest_logit(model: Tokenizer) -> None:
    token = torch.randn(2, 16, *model.config.latent_shape)
    with torch.no_grad():
        logits = model.decode_logits(token)
        chosen = logits.gather(-1, model.decode(token).long()[..., None])[..., 0]
    assert ((logits.max(-1).values - chosen) <= 1e-5 * logits.abs().max(-1).values).all()


def test_classify_equals_argmax() -> None:
    rows, table = torch.randn(50_000, 8), torch.randn(18, 8)
    assert (classify(rows, table) == (rows @ table.t()).argmax(1)).float().mean() > 0.9999


def test_first_predictions_are_free_space(model: Tokenizer) -> None:
    (token, *_) = run(model, scene(1))
    with torch.no_grad():
        # One class in 18 would be 6 %.
        assert (model.decode(token) == FREE).float().mean() > 0.6


def test_quantizer_takes_the_nearest_code() -> None:
    torch.manual_seed(0)
    quantizer = Quantizer(tiny())
    cells = torch.randn(3, 4, 16)
    distance = (cells[..., None, :] - quantizer.embedding.weight).square().sum(-1)
    assert torch.equal(quantizer.nearest(cells), distance.argmin(-1))


def test_rectangular_grid() -> None:
    grid = VoxelGrid(shape=(40, 56, 16), lower_m=(-8.0, -11.2, -1.0))
    model = Tokenizer(tiny(grid))
    (token,) = run(model, scene(1, grid), 1)
    assert token.shape == (1, 16, 10, 14) and model.decode(token).shape == (1, 40, 56, 16)


def test_wrong_grid_is_named(model: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"Expected: .*40, 40, 16"):
        model.encode(
            torch.zeros(1, 20, 20, 16, dtype=torch.uint8),
            model.empty_memory(1),
            torch.eye(4)[None],
            torch.ones(1).bool(),
        )


@pytest.mark.parametrize("flips", [(True, False), (False, True), (True, True)])
def test_flips_as_augmentation_are_flipped_motion(flips: tuple[bool, bool]) -> None:
    """The memory of flipped labels, with true motion and the flip given, is that of labels flipped beforehand."""
    config = tiny()
    mirror = torch.diag(torch.tensor([-1.0 if flips[0] else 1.0, -1.0 if flips[1] else 1.0, 1.0, 1.0]))[None]
    motion = se2_matrix(torch.tensor([1.3]), torch.tensor([0.4]), torch.tensor([0.2]))
    latents = torch.randn(1, 4, 16, *config.latent_shape, generator=torch.Generator().manual_seed(0))
    latent, start = latents[:, 0], torch.zeros(1, dtype=torch.bool)
    given = align(Memory(latents=latents, augmentation=mirror), latent, motion, start, config, mirror)
    beforehand = align(Memory(latents=latents), latent, mirror @ motion @ mirror, start, config)
    torch.testing.assert_close(given, beforehand, atol=1e-5, rtol=1e-5)


def test_the_newest_augmentation_is_remembered_unless_faithful() -> None:
    """Deviation 9: as published, it is that of the stream's first frame."""
    mirror, still = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))[None], torch.eye(4)[None]
    latents = torch.zeros(1, 4, 16, 5, 5)
    for faithful, expected in ((False, still), (True, mirror)):
        memory = Memory(latents=latents)
        for frame, augmentation in enumerate((mirror, still)):
            start = torch.tensor([frame == 0])
            memory = remember(memory, latents, latents[:, 0], start, augmentation, faithful)
        assert memory.augmentation is not None
        assert torch.equal(memory.augmentation.float(), expected)
        assert torch.equal(memory.index([0]).augmentation, memory.augmentation)


def test_given_codes_are_taken(model: Tokenizer) -> None:
    latent = torch.randn(1, 16, *model.config.latent_shape, generator=torch.Generator().manual_seed(1))
    history = latent[:, None].expand(-1, 4, -1, -1, -1)
    free = model.vq(latent, history)
    again = model.vq(latent, history, codes=free.codes)
    assert torch.equal(free.token, again.token)
    other = model.vq(latent, history, codes=[torch.zeros_like(code) for code in free.codes])
    assert all((code == 0).all() for code in other.codes) and not torch.equal(free.token, other.token)


def test_contradicting_config_is_named() -> None:
    with pytest.raises(ConfigError, match="divisible"):
        TokenizerConfig(grid=VoxelGrid(shape=(30, 30, 16)))
    with pytest.raises(ConfigError, match="differ in length"):
        replace(nano(), res_blocks=(1,))
