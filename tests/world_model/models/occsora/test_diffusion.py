"""The diffusion transformer and its sampler: published sizes and constants, slow twins, seeds."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from world_model.core.errors import OptionError
from world_model.core.geometry import se2_matrix
from world_model.models.occsora import SoraTransformer, SoraTransformerConfig, base, tiny
from world_model.models.occsora.diffusion import (
    Process,
    denoised,
    diffusion_loss,
    log_variance,
    noised,
    posterior_mean,
    sample_latents,
)
from world_model.models.occsora.trajectory import encode_trajectory, lidar_steps


def trained(config: SoraTransformerConfig | None = None, dtype: torch.dtype = torch.float64) -> SoraTransformer:
    """A tiny transformer whose outputs are not zero."""
    torch.manual_seed(0)
    model = SoraTransformer(config or tiny()[1]).to(dtype).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def test_published_names_and_sizes() -> None:
    with torch.device("meta"):
        model = SoraTransformer(base()[1])
    state = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {"pos_embed": (1, 2500, 256)}
    linear = {
        **{"mlp_trag.fc1": (128, 64), "mlp_trag.fc2": (128, 128), "mlp_trag.fc3": (256, 128)},
        **{"my_net.conv1": (256, 128, 3, 3, 3), "my_net.conv2": (256, 256, 3, 3, 3)},
        **{"t_embedder.mlp.0": (256, 256), "t_embedder.mlp.2": (256, 256)},
        **{"final_layer.linear": (256, 256), "final_layer.adaLN_modulation.1": (512, 256)},
    }
    for n in range(28):
        parts = {"attn.qkv": (768, 256), "attn.proj": (256, 256), "mlp.fc1": (1024, 256), "mlp.fc2": (256, 1024)}
        linear |= {f"blocks.{n}.{k}": v for k, v in {**parts, "adaLN_modulation.1": (1536, 256)}.items()}
    for name, shape in linear.items():
        expected |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    assert state == expected and len(state) == 299
    assert sum(p.numel() for p in model.parameters()) == 36_819_200
    assert sum(p.numel() for p in model.blocks[0].parameters()) == 1_183_488


def test_an_untrained_transformer_predicts_nothing() -> None:
    model = SoraTransformer(tiny()[1])
    shape = model.config.latent_shape
    noise, place = model(torch.randn(2, *shape), torch.tensor([3, 40]), torch.randn(2, 16))
    assert noise.shape == place.shape == (2, *shape) and not noise.any() and not place.any()


def test_published_noise() -> None:
    process = Process.of(base()[1])
    assert process.kept[0] == pytest.approx(0.9999, abs=1e-7)
    assert process.kept[249] == pytest.approx(0.524085, abs=5e-7)
    assert process.kept[499] == pytest.approx(0.0785872, abs=5e-8)
    assert process.kept[999] == pytest.approx(4.0358e-5, abs=5e-10)
    assert process.beta[0] == pytest.approx(1e-4) and process.beta[999] == pytest.approx(0.02)


def test_fewer_steps_end_at_the_same_noise() -> None:
    whole, few = Process.of(base()[1]), Process.of(base()[1], 50)
    assert few.time[0] == 0 and few.time[-1] == 999 and len(few.time) == 50
    np.testing.assert_array_equal(few.kept, whole.kept[few.time])
    np.testing.assert_allclose(np.cumprod(1 - few.beta), few.kept)
    for steps in (1, 1001):
        with pytest.raises(OptionError, match=r"2\.\.1000"):
            Process.of(base()[1], steps)


def test_the_posterior_is_bayes_rule() -> None:
    """Mean and variance of x[t-1] given x[t] and the latent, from the product of two Gaussians."""
    process = Process.of(tiny()[1])
    for t in (1, 20, 49):
        latent, noisy, step = torch.tensor(0.7), torch.tensor(-0.4), torch.tensor([t])
        beta, before = process.beta[t], process.kept[t - 1]
        # Prior of x[t-1] given the latent, and the likelihood of x[t].
        precision = 1 / (1 - before) + (1 - beta) / beta
        mean = (math.sqrt(before) * 0.7 / (1 - before) + math.sqrt(1 - beta) * -0.4 / beta) / precision
        one = (1, 1, 1, 1, 1)
        assert posterior_mean(process, latent.double().view(one), noisy.double().view(one), step).item() == (
            pytest.approx(mean)
        )
        assert process.low[t] == pytest.approx(1 / precision)
        bound = torch.ones(one, dtype=torch.float64)
        assert log_variance(process, bound, step).item() == pytest.approx(math.log(beta))
        assert log_variance(process, -bound, step).item() == pytest.approx(math.log(1 / precision))


def test_noise_comes_off_again() -> None:
    process = Process.of(tiny()[1])
    latent, noise = torch.randn(2, 3, 1, 4, 2, 2, dtype=torch.float64)
    step = torch.tensor([0, 20, 49])
    torch.testing.assert_close(denoised(process, noised(process, latent, noise, step), noise, step), latent)


class Knowing(SoraTransformer):
    """Knows the latent, so its noise is exact."""

    truth: Tensor

    def forward(
        self, noisy: Tensor, time: Tensor, trajectory: Tensor, history: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        kept = torch.from_numpy(Process.of(self.config).kept)[time].view(-1, 1, 1, 1, 1)
        return (noisy - kept.sqrt() * self.truth) / (1 - kept).sqrt(), torch.zeros_like(noisy)


@pytest.mark.parametrize("ancestral", [False, True])
@pytest.mark.parametrize("steps", [2, 7, 50])
def test_a_perfect_model_draws_the_latent(steps: int, ancestral: bool) -> None:
    model = Knowing(tiny()[1])
    model.truth = torch.randn(1, *model.config.latent_shape, dtype=torch.float64)
    drawn = sample_latents(model, torch.zeros(2, 16).double(), [0, 1], steps=steps, ancestral=ancestral)
    torch.testing.assert_close(drawn, (model.truth * 10).expand(2, -1, -1, -1, -1))


@pytest.mark.parametrize("ancestral", [False, True])
def test_a_batch_is_its_samples_and_seeds_decide(ancestral: bool) -> None:
    model = trained()
    trajectory = torch.randn(3, 16, dtype=torch.float64)

    def draw(rows: list[int], seeds: list[int]) -> Tensor:
        return sample_latents(model, trajectory[rows], seeds, steps=5, ancestral=ancestral)

    every = draw([0, 1, 2], [5, 6, 5])
    for row, seed in ((0, 5), (1, 6), (2, 5)):
        torch.testing.assert_close(draw([row], [seed])[0], every[row])
    assert not torch.allclose(draw([0], [7])[0], every[0])
    assert not torch.allclose(draw([1], [5])[0], every[0])  # the trajectory counts


def test_ancestral_steps_follow_their_definition() -> None:
    """The whole process of a tiny model, written out."""
    config = replace(tiny()[1], steps=4)
    model = trained(config)
    trajectory = torch.randn(1, 16, dtype=torch.float64)
    found = sample_latents(model, trajectory, [3], steps=4, ancestral=True)
    beta = np.linspace(1e-4, 0.02, 4)
    kept = np.cumprod(1 - beta)
    generator = torch.Generator().manual_seed(3)
    noise = [torch.randn(config.latent_shape, generator=generator).double()[None] for _ in range(4)]
    x = noise[0]
    for t in (3, 2, 1, 0):
        predicted, place = model(x, torch.tensor([t]), trajectory)
        before = kept[t - 1] if t else 1.0
        clean = (x - math.sqrt(1 - kept[t]) * predicted) / math.sqrt(kept[t])
        mean = math.sqrt(before) * beta[t] / (1 - kept[t]) * clean
        mean = mean + math.sqrt(1 - beta[t]) * (1 - before) / (1 - kept[t]) * x
        low = beta[max(t, 1)] * (1 - kept[max(t, 1) - 1]) / (1 - kept[max(t, 1)])
        share = (place + 1) / 2
        deviation = (0.5 * (share * math.log(beta[t]) + (1 - share) * math.log(low))).exp()
        x = mean + deviation * noise[4 - t] if t else mean
    torch.testing.assert_close(found, 10 * x)


def test_the_bound_trains_the_variance_alone() -> None:
    """The noise outputs have the gradient of the squared error and no other; the variance outputs one of their own."""
    model = trained()
    latent, noise = torch.randn(2, 4, *model.config.latent_shape, dtype=torch.float64)
    step, trajectory = torch.tensor([0, 1, 20, 49]), torch.randn(4, 16, dtype=torch.float64)
    loss, logs = diffusion_loss(model, latent, trajectory, step, noise, None)
    torch.testing.assert_close(loss.detach(), logs["noise"] + logs["bound"])
    last = model.final_layer.linear.weight
    (found,) = torch.autograd.grad(loss, last)
    predicted, _ = model(noised(Process.of(model.config), latent, noise, step), step, trajectory)
    (expected,) = torch.autograd.grad((predicted - noise).square().mean(), last)
    torch.testing.assert_close(found[:4], expected[:4])
    assert not expected[4:].any() and bool((found[4:] != 0).any())


def test_history_begins_without_effect() -> None:
    torch.manual_seed(0)
    plain = SoraTransformer(tiny()[1])
    torch.manual_seed(0)
    with_history = SoraTransformer(replace(tiny()[1], history=True))
    with_history.load_state_dict(plain.state_dict(), strict=False)
    for model in (plain, with_history):
        nn.init.ones_(model.final_layer.linear.weight)
    noisy, history = torch.randn(2, 2, *plain.config.latent_shape)
    time, trajectory = torch.tensor([1, 2]), torch.randn(2, 16)
    given = with_history(noisy, time, trajectory, history)
    assert torch.equal(plain(noisy, time, trajectory)[0], given[0]) and bool(given[0].any())
    nn.init.ones_(with_history.history_net.weight)
    assert not torch.equal(with_history(noisy, time, trajectory, history)[0], given[0])


def test_a_turn_moves_the_lidar_on_its_lever() -> None:
    """Two metres ahead, half a metre to the left, a quarter turn to the left: by hand."""
    step = se2_matrix(*(torch.tensor(v, dtype=torch.float64) for v in (2.0, 0.5, math.pi / 2)))
    poses = torch.stack((torch.eye(4, dtype=torch.float64), step))[None]
    # The LiDAR goes from (0.94, 0) to (2, 0.5 + 0.94): 1.44 m to the left, that is -1.44 to the right.
    torch.testing.assert_close(lidar_steps(poses), torch.tensor([[[-1.44, 1.06], [0.0, 0.0]]]))


def test_four_ways_to_tell_a_trajectory() -> None:
    motions = [torch.tensor(v, dtype=torch.float64) for v in (2.0, 0.0, 0.1)]
    poses = [torch.eye(4, dtype=torch.float64)]
    for _ in range(7):
        poses.append(poses[-1] @ se2_matrix(*motions))
    drive, command = torch.stack(poses)[None], torch.tensor([[0, 1, 2, 2, 1, 0, 2, 2]])

    def encoded(way: str, scale: float = 1.0) -> Tensor:
        config = replace(tiny()[1], trajectory=way, trajectory_scale=scale)  # type: ignore[arg-type]
        return encode_trajectory(config, drive, command).view(8, 2)

    assert encoded("command_flags").tolist()[:3] == [[1, 0], [0, 1], [0, 0]]
    torch.testing.assert_close(encoded("step_metres", 2.0) * 2, lidar_steps(drive)[0])
    path = encoded("path_metres")
    torch.testing.assert_close(path, drive[0, :, :2, 3].float())
    unit = encoded("path_unit")
    assert unit.min() == 0 and unit.max() == 1
    torch.testing.assert_close(unit, path / path.amax(0))
    # The same drive from elsewhere is the same trajectory.
    moved = se2_matrix(*(torch.tensor(v, dtype=torch.float64) for v in (50.0, -20.0, 1.0))) @ drive
    for way in ("step_metres", "path_metres", "path_unit"):
        config = replace(tiny()[1], trajectory=way)
        torch.testing.assert_close(encode_trajectory(config, moved, command).view(8, 2), encoded(way))
