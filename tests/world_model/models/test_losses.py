"""Losses: fast paths agree with slow readable twins, samples stand for the whole."""

import pytest
import torch

from world_model.core.grid import FREE, IGNORE
from world_model.models.forecaster.losses import rotation_loss, token_loss, trajectory_loss
from world_model.models.losses import (
    focal_loss,
    lovasz_softmax,
    lovasz_softmax_binned,
    radial_focal,
    radial_weight,
    rare_class_loss,
    reconstruction_loss,
    sampled_reconstruction_loss,
)
from world_model.models.voxel_sample import sample_voxels


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _scene(generator: torch.Generator, size: int = 20) -> torch.Tensor:
    labels = torch.full((2, size, size, 8), FREE, dtype=torch.uint8)
    labels[:, :, :, 2] = 11
    labels[:, 3:7, 5:9, 3:6] = 4
    labels[:, 12:, 12:, 2:] = 15
    labels[torch.rand(labels.shape, generator=generator) < 0.01] = 7
    return labels


def test_focal_is_the_textbook_formula(generator: torch.Generator) -> None:
    logits = torch.randn(50, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, (50,), generator=generator)
    labels[:5] = IGNORE
    total = 0.0
    for i in range(5, 50):
        for k in range(5):
            p = torch.sigmoid(logits[i, k])
            total += -0.25 * (1 - p) ** 2 * p.log() if k == labels[i] else -0.75 * p**2 * (1 - p).log()
    torch.testing.assert_close(focal_loss(logits, labels), total / 45)


def test_lovasz_of_hard_predictions_is_one_minus_iou() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    guesses = torch.tensor([0, 0, 1, 1, 2, 2])
    probabilities = torch.nn.functional.one_hot(guesses, 4).double()
    expected = 1 - torch.tensor([2 / 3, 1 / 3, 1 / 2], dtype=torch.float64).mean()
    torch.testing.assert_close(lovasz_softmax(probabilities, labels), expected)
    binned = lovasz_softmax_binned(probabilities, labels, torch.ones(6).double())
    assert abs(binned - expected) < 0.35  # six voxels fall into two bins: coarse, but ordered


def test_binned_lovasz_converges_to_the_exact_one_with_its_gradient(generator: torch.Generator) -> None:
    logits = torch.randn(20_000, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 6, (20_000,), generator=generator)
    logits[torch.arange(20_000), labels] += 1.5
    logits.requires_grad_(True)
    exact = lovasz_softmax(logits.softmax(1), labels)
    (exact_gradient,) = torch.autograd.grad(exact, logits)
    binned = lovasz_softmax_binned(logits.softmax(1), labels, torch.ones(20_000).double())
    (binned_gradient,) = torch.autograd.grad(binned, logits)
    torch.testing.assert_close(binned, exact, atol=2e-3, rtol=2e-3)
    cosine = torch.nn.functional.cosine_similarity(exact_gradient.flatten(), binned_gradient.flatten(), dim=0)
    assert cosine > 0.999


def test_weights_stand_for_copies(generator: torch.Generator) -> None:
    probabilities = torch.randn(300, 4, generator=generator, dtype=torch.float64).softmax(1)
    labels = torch.randint(0, 4, (300,), generator=generator)
    weight = torch.randint(1, 4, (300,), generator=generator).double()
    copies = weight.long()
    repeated = lovasz_softmax_binned(
        probabilities.repeat_interleave(copies, 0),
        labels.repeat_interleave(copies),
        torch.ones(int(copies.sum())).double(),
    )
    torch.testing.assert_close(lovasz_softmax_binned(probabilities, labels, weight), repeated)


def test_sample_weights_sum_to_all_voxels(generator: torch.Generator) -> None:
    labels = _scene(generator)
    sample = sample_voxels(labels, 600, generator)
    assert sample.weight.sum().item() == pytest.approx(labels.numel(), rel=1e-4)
    taken = labels.flatten()[sample.index]
    assert (taken == 4).sum() == (labels == 4).sum() and (taken == 7).sum() == (labels == 7).sum()
    assert ((taken == 11) | (taken == 15)).sum() == 600
    everything = sample_voxels(labels, 10**6, generator)
    assert (everything.weight == 1).all() and len(everything.index.unique()) == labels.numel()


def test_sampled_loss_is_the_full_loss_when_everything_is_sampled(generator: torch.Generator) -> None:
    labels = _scene(generator)
    table = torch.randn(18, 6, generator=generator)
    features = torch.randn(*labels.shape, 6, generator=generator)
    full, _ = reconstruction_loss(features @ table.t(), labels)
    sample = sample_voxels(labels, 10**6, generator)
    sampled, _ = sampled_reconstruction_loss(features.view(-1, 6), table, labels, sample, sample.index)
    torch.testing.assert_close(sampled, full, rtol=2e-3, atol=2e-3)


def test_rare_classes_weigh_with_the_root_of_their_voxels(generator: torch.Generator) -> None:
    logits = torch.randn(70, 5, generator=generator)
    target = torch.tensor([0] * 64 + [3] * 4 + [4, 4])
    weight = torch.ones(70)
    each = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    slow = 8 * each[:64].mean() + 2 * each[64:68].mean() + 2**0.5 * each[68:].mean()
    torch.testing.assert_close(rare_class_loss(logits, target, weight), slow / (8 + 2 + 2**0.5))
    # A sample that stands for more voxels is the same as those voxels.
    half = torch.cat((torch.arange(0, 64, 2), torch.arange(64, 70)))
    twins = logits.clone()
    twins[1:64:2] = logits[0:64:2]
    stand = torch.where(half < 64, 2.0, 1.0)
    torch.testing.assert_close(
        rare_class_loss(logits[half], target[half], stand), rare_class_loss(twins, target, weight)
    )


def test_a_class_that_is_never_predicted_gets_a_gradient_from_the_rare_term(generator: torch.Generator) -> None:
    labels = torch.full((1, 20, 20, 4), 17)
    labels[0, 3:5, 3:5, 0] = 2
    sample = sample_voxels(labels, 10**6, generator)
    table = torch.eye(18)

    def pull(rare_weight: float) -> float:
        rows = torch.full((1600, 18), -4.0)
        rows[:, 17] = 4.0
        rows.requires_grad_()
        loss, _ = sampled_reconstruction_loss(rows, table, labels, sample, sample.index, rare_weight)
        loss.backward()
        assert rows.grad is not None
        return -float(rows.grad[labels.flatten() == 2, 2].sum())

    assert pull(2.0) > 2 * pull(0.0) > 0


def test_radial_weight_runs_from_one_to_two() -> None:
    weight = radial_weight(200, 200)
    assert weight[100, 100] == 1 and weight[0, 0] == 2 and weight.max() == 2


def test_token_loss_leaves_invalid_samples_out(generator: torch.Generator) -> None:
    a, b = torch.randn(2, 3, 4, 5, 5, generator=generator).unbind(0)
    some = token_loss(a, b, torch.tensor([True, False, True]))
    torch.testing.assert_close(some, (a - b)[[0, 2]].square().mean())
    assert token_loss(a, b, torch.zeros(3, dtype=torch.bool)) == 0


def test_trajectory_and_rotation_loss_vanish_for_perfect_motion(generator: torch.Generator) -> None:
    shifts = torch.randn(2, 6, 2, generator=generator)
    valid = torch.ones(2, 6, dtype=torch.bool)
    assert trajectory_loss(shifts, shifts, valid, torch.ones(6)).abs().max() == 0
    one_metre = shifts.clone()
    one_metre[:, 0, 0] += 1  # every later position is off by one metre
    expected = torch.full((2,), 0.01 * 6 / 6)
    torch.testing.assert_close(trajectory_loss(one_metre, shifts, valid, torch.ones(6)), expected)
    published = trajectory_loss(one_metre, shifts, valid, torch.ones(6), faithful=True)
    torch.testing.assert_close(published, expected / 2)  # divided by the batch again
    turns = torch.nn.functional.normalize(torch.randn(2, 6, 4, generator=generator), dim=-1)
    assert rotation_loss(turns, -turns).abs() < 1e-5


def test_rotation_loss_leaves_invalid_steps_out_and_weighs_the_others(generator: torch.Generator) -> None:
    turns, others = torch.nn.functional.normalize(torch.randn(2, 2, 3, 4, generator=generator), dim=-1).unbind(0)
    valid = torch.tensor([[True, True, False], [True, False, False]])
    weight = torch.tensor([1.0, 0.5, 0.25])
    error = 1 - (turns * others).sum(-1).abs()
    torch.testing.assert_close(
        rotation_loss(turns, others, valid, weight), (error[0, 0] + 0.5 * error[0, 1] + error[1, 0]) / 2
    )
    torch.testing.assert_close(rotation_loss(turns, others), error.sum() / 2)


def test_radial_focal_is_the_focal_part(generator: torch.Generator) -> None:
    labels = _scene(generator)
    logits = torch.randn(*labels.shape, 18, generator=generator)
    loss, parts = reconstruction_loss(logits, labels)
    torch.testing.assert_close(radial_focal(logits, labels), parts["focal"])
    torch.testing.assert_close(loss, parts["focal"] + parts["lovasz"])
    torch.testing.assert_close(radial_focal(logits, labels, torch.full((18,), 0.5)), parts["focal"] / 2)
