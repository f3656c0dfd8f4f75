"""The noise process: its constants, its loss, and drawing latents by undoing it.

Sources: Ho et al., NeurIPS 2020 (process, ancestral steps); Nichol and Dhariwal, ICML 2021 (learned variance, fewer
steps); Song et al., ICLR 2021 (DDIM). Legend: B samples, C t x y a latent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.errors import OptionError
from world_model.models.occsora.config import SoraTransformerConfig
from world_model.models.occsora.transformer import SoraTransformer


@dataclass(frozen=True, kw_only=True)
class Process:
    """Constants of some steps of a noise process, (K,) float64 each, the first step first.

    Attributes:
        time: number of each step in the whole process: what the transformer is told.
        kept: share of the variance that is still the latent's (alpha bar).
        beta: variance that a step adds.
        low: variance of a step backwards if the latent were known (beta tilde).
    """

    time: NDArray[np.int64]
    kept: NDArray[np.float64]
    beta: NDArray[np.float64]
    low: NDArray[np.float64]

    @classmethod
    def of(cls, config: SoraTransformerConfig, steps: int | None = None) -> Process:
        """The whole process, or some evenly spaced steps of it.

        Raises:
            OptionError: fewer than two steps, or more than the process has.
        """
        count = config.steps if steps is None else steps
        if not 2 <= count <= config.steps:
            raise OptionError(f"{count} sampling steps", f"2..{config.steps}", "choose another number of steps")
        kept = np.cumprod(1 - np.linspace(*config.beta, config.steps, dtype=np.float64))
        time = np.linspace(0, config.steps - 1, count).round().astype(np.int64)
        kept = kept[time]
        before = np.append(1.0, kept[:-1])
        beta = 1 - kept / before
        low = beta * (1 - before) / (1 - kept)
        return cls(time=time, kept=kept, beta=beta, low=np.append(low[1], low[1:]))

    @property
    def before(self) -> NDArray[np.float64]:
        """`kept` one step earlier."""
        return np.append(1.0, self.kept[:-1])


def _at(values: NDArray[Any], step: Tensor, like: Tensor) -> Tensor:
    """Constants of steps (B,), to be multiplied with (B, C, t, x, y)."""
    return torch.from_numpy(values).to(like.device)[step].to(like.dtype).view(-1, 1, 1, 1, 1)


def noised(process: Process, latent: Tensor, noise: Tensor, step: Tensor) -> Tensor:
    """Scaled latents after some steps (B,) of the process."""
    kept = _at(process.kept, step, latent)
    return kept.sqrt() * latent + (1 - kept).sqrt() * noise


def posterior_mean(process: Process, latent: Tensor, noisy: Tensor, step: Tensor) -> Tensor:
    """Where the process was one step before ``noisy``, on average, if ``latent`` is what it began with."""
    kept, before, beta = (_at(v, step, noisy) for v in (process.kept, process.before, process.beta))
    return (before.sqrt() * beta * latent + (1 - beta).sqrt() * (1 - before) * noisy) / (1 - kept)


def log_variance(process: Process, place: Tensor, step: Tensor) -> Tensor:
    """Log-variance of a step backwards, between the bounds as the transformer places it."""
    share = (place + 1) / 2
    return share * _at(np.log(process.beta), step, place) + (1 - share) * _at(np.log(process.low), step, place)


def denoised(process: Process, noisy: Tensor, noise: Tensor, step: Tensor) -> Tensor:
    """The latent that noise was added to."""
    kept = _at(process.kept, step, noisy)
    return (noisy - (1 - kept).sqrt() * noise) / kept.sqrt()


def diffusion_loss(
    model: SoraTransformer, latent: Tensor, trajectory: Tensor, step: Tensor, noise: Tensor, history: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared error of the noise, plus the variational bound, which trains the variance alone.

    Args:
        model: the transformer.
        latent: (B, C, t, x, y), divided by the configuration's scale.
        trajectory: (B, 2 F).
        step: (B,) of the whole process.
        noise: as the latent.
        history: as for `SoraTransformer.forward`.
    """
    process = Process.of(model.config)
    noisy = noised(process, latent, noise, step)
    predicted, place = model(noisy, step, trajectory, history)
    error = (predicted - noise).square().mean()
    found = denoised(process, noisy, predicted.detach(), step)
    missed = posterior_mean(process, latent, noisy, step) - posterior_mean(process, found, noisy, step)
    own, true = log_variance(process, place, step), _at(np.log(process.low), step, place)
    divergence = own - true + (true - own).exp() - 1 + missed.square() * (-own).exp()
    # The last step back has no variance of its own: there the bound is the likelihood of the latent.
    likelihood = math.log(2 * math.pi) + own + (latent - found).square() * (-own).exp()
    bound = torch.where(_at(process.time, step, place) == 0, likelihood, divergence).mean() / 2 / math.log(2)
    return error + bound, {"noise": error.detach(), "bound": bound.detach()}


class Noise:
    """Standard normal latents, each sample's from a seed of its own: the same alone and in any batch.

    Args:
        seeds: (B,).
        shape: (C, t, x, y).
        device: where they are needed; they are drawn on the CPU.
    """

    def __init__(self, seeds: Sequence[int], shape: tuple[int, ...], device: torch.device | str) -> None:
        self.generators = [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]
        self.shape, self.device = shape, device

    def draw(self, dtype: torch.dtype) -> Tensor:
        """(B, C, t, x, y), new numbers at every call."""
        each = [torch.randn(self.shape, generator=g, dtype=torch.float32, device="cpu") for g in self.generators]
        return torch.stack(each).to(self.device, dtype)


@torch.no_grad()
def sample_latents(
    model: SoraTransformer,
    trajectory: Tensor,
    seeds: Sequence[int],
    *,
    steps: int = 50,
    ancestral: bool = False,
    history: Tensor | None = None,
) -> Tensor:
    """Draw latents for trajectories.

    Args:
        model: the transformer, in evaluation mode.
        trajectory: (B, 2 F).
        seeds: (B,), of the noise of each.
        steps: evenly spaced steps of the process; as many as it has is what was published.
        ancestral: add noise at every step, with the learned variance, as published; otherwise follow the deterministic
            path of DDIM, which needs far fewer steps.
        history: unscaled latent of the observation, for models that take one.

    Returns:
        (B, C, t, x, y), unscaled: `SoraTokenizer.decode` reads it.
    """
    process, config = Process.of(model.config, steps), model.config
    noise = Noise(seeds, config.latent_shape, trajectory.device)
    known = None if history is None else history / config.latent_scale
    x = noise.draw(trajectory.dtype)
    for i in reversed(range(steps)):
        step = torch.full((len(x),), i, dtype=torch.long, device=x.device)
        time = torch.full_like(step, int(process.time[i]))
        predicted, place = model(x, time, trajectory, known)
        found = denoised(process, x, predicted, step)
        if ancestral:
            x = posterior_mean(process, found, x, step)
            if i:
                x = x + (log_variance(process, place, step) / 2).exp() * noise.draw(x.dtype)
        else:
            before = _at(process.before, step, x)
            x = before.sqrt() * found + (1 - before).sqrt() * predicted
    return x * config.latent_scale
