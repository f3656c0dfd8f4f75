"""Fixed slots: every sample stands once, always in its own slot, and nothing else of a batch touches it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tiny_benchmark import tiny_models

from world_model.rollouts import fixed_slots


@pytest.mark.parametrize(("numbers", "size"), [([], 3), ([0, 2, 3, 7], 3), ([5], 3), ([0, 1, 2, 3], 1)])
def test_every_sample_stands_once_and_always_in_its_own_slot(numbers: list[int], size: int) -> None:
    batches = list(fixed_slots(numbers, size))
    assert all(len(rows) == size for rows, _ in batches)
    assert [rows[slot] for rows, real in batches for slot in real] == list(range(len(numbers)))
    assert all(numbers[rows[slot]] % size == slot for rows, real in batches for slot in real)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_slot_counts_but_what_stands_beside_does_not(threads: int) -> None:
    """Why a sample keeps its slot: kernels treat slots differently (on some machines), and none mixes them."""
    _, forecaster = tiny_models()
    size = (forecaster.config.width, *forecaster.config.latent_shape)
    torch.manual_seed(0)
    tokens, poses = torch.randn(9, 1, *size), torch.eye(4, dtype=torch.float64).expand(9, 1, 4, 4)
    command = torch.arange(9) % 3

    def forecast(rows: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            _, out = forecaster.step(forecaster.start(tokens[rows], poses[rows]), command[rows])
        return torch.cat((out.token.flatten(1), out.curr_to_next.flatten(1)), 1)

    def in_slots(numbers: Sequence[int]) -> torch.Tensor:
        batches = fixed_slots(numbers, 4)
        return torch.cat([forecast([numbers[row] for row in rows])[real] for rows, real in batches])

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = in_slots(range(9))
        for chosen in ([8], [0, 5], [1, 2, 3], [2, 4, 7]):
            assert torch.equal(in_slots(chosen), whole[chosen])
    finally:
        torch.set_num_threads(before)
