"""Optimizer, learning-rate schedule and exponential moving average of the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from world_model.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights move.

    Args:
        learning_rate: peak learning rate of AdamW.
        weight_decay: of AdamW.
        clip_norm: gradients are scaled down to this norm.
        warmup: iterations of linear warm-up from a thousandth of the peak.
        schedule: "step" drops to a tenth at ``decay_at`` (as published); "cosine" falls smoothly to 1 % of the peak,
            "long-cosine" to a thousandth.
        decay_at: fraction of all iterations where "step" drops.
        ema: decay of the weight average that is evaluated and shipped.
    """

    learning_rate: float = 5e-4
    weight_decay: float = 1e-2
    clip_norm: float = 5.0
    warmup: int = 200
    schedule: Literal["step", "cosine", "long-cosine"] = "step"
    decay_at: float = 20 / 24
    ema: float = 0.999

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or not 0 <= self.ema < 1 or self.clip_norm <= 0:
            raise ConfigError(
                f"learning_rate {self.learning_rate}, ema {self.ema}, clip_norm {self.clip_norm}",
                "a positive learning rate and clip norm, 0 <= ema < 1",
                "change these fields",
            )

    def rate(self, iteration: int, iterations: int) -> float:
        """Learning rate at an iteration (0-based)."""
        if iteration < self.warmup:
            return self.learning_rate * (0.001 + 0.999 * iteration / self.warmup)
        if self.schedule == "step":
            return self.learning_rate * (0.1 if iteration >= self.decay_at * iterations else 1.0)
        progress = (iteration - self.warmup) / max(1, iterations - self.warmup)
        floor = 0.01 if self.schedule == "cosine" else 0.001
        return self.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def iterations_of(epochs: float, samples: int, batch: int, otherwise: int) -> int:
    """Optimizer steps in which every sample is seen ``epochs`` times; ``otherwise`` where no epochs are given.

    Args:
        epochs: 0 for none.
        samples: of one epoch.
        batch: samples of a step, over all processes.
        otherwise: iterations of a recipe that does not count in epochs.
    """
    return max(1, round(epochs * samples / batch)) if epochs else otherwise


class WeightAverage:
    """Exponential moving average of a model's parameters; buffers are copied.

    The decay is ramped as d * (1 - exp(-n / 2000)) so that early averages forget the initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, iteration: int) -> None:
        """Move towards the model's weights after optimizer step number ``iteration`` (0-based)."""
        decay = self.decay * (1 - math.exp(-(iteration + 1) / 2000))
        for name, value in model.state_dict().items():
            mean = self.weights[name]
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)
