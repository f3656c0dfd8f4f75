"""One step of OccWorld with its cache against one without, at the end of a full window.

    python benchmarks/occworld.py
    python benchmarks/occworld.py --preset nano --repeats 5

Weights are random: the time does not depend on them. Both steps end in the same occupancy. Times are of the processor,
which other work on the machine disturbs little.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import tyro

from world_model.core.runtime import keep_memory
from world_model.models.occworld import PRESETS, OccWorld
from world_model.worlds.occworld import OccWorldState, OccWorldWorld


def full_window(world: OccWorldWorld, seed: int = 0) -> OccWorldState:
    """A state whose window is full, of random codes and poses."""
    config, generator = world.model.config, torch.Generator().manual_seed(seed)
    window, size = config.window, config.latent_shape
    codes = torch.randint(0, config.codes, (1, window, *size), generator=generator).to(torch.int16)
    poses = torch.randn(1, window, 5, generator=generator)
    kept, proposal = world._read_in(codes[:, : window - 1], poses[:, : window - 1])
    assert proposal is not None
    return OccWorldState(
        codes=codes,
        poses=poses,
        count=torch.tensor([window]),
        proposal=proposal,
        labels=torch.zeros(1, *config.grid.shape, dtype=torch.uint8),
        kept=kept,
    )


def processor_s(call: Callable[[], Any], repeats: int) -> float:
    """Least processor time of a call, seconds."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        call()
        times.append(time.process_time() - begin)
    return min(times)


@torch.inference_mode()
def measure(preset: str, repeats: int) -> str:
    """Times of both steps, and their ratio."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = OccWorld(PRESETS[preset]()).eval()
    world = OccWorldWorld(model)
    state = full_window(world)
    rows, at = torch.arange(1), state.count - 1

    def step(start: OccWorldState) -> torch.Tensor:
        """What `OccWorldWorld.step` does up to the occupancy; what follows a full window comes once in seven steps."""
        features, _, _ = world._look(start, rows, at)
        codes = model.logits(features).argmax(1)
        return model.vae.decode(model.vae.token(codes))

    without = replace(state, kept=None)
    same = bool((step(state) == step(without)).float().mean() > 0.999)
    fast, slow = (processor_s(lambda start=start: step(start), repeats) for start in (state, without))  # type: ignore[misc]
    threads = torch.get_num_threads()
    return (
        f"{preset}, window {model.config.window}, {threads} threads: with the cache {fast:.2f} s, "
        f"without {slow:.2f} s, ratio {slow / fast:.1f}; same occupancy: {same}"
    )


@dataclass(frozen=True, kw_only=True)
class Args:
    """Print the processor time of one step with the cache and without, and their ratio."""

    preset: Literal["base", "nano", "tiny"] = "base"
    """Sizes of the model."""
    repeats: int = 2
    """Steps of each kind; the fastest counts."""


def main(args: Args) -> None:
    """Measure and print."""
    keep_memory()
    print(measure(args.preset, args.repeats))


if __name__ == "__main__":
    main(tyro.cli(Args))
