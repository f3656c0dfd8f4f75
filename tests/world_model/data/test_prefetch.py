"""Prefetching keeps the order, hands errors on, and does not run away."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch

from world_model.data.prefetch import feed, prefetch, to_device


def test_order_is_kept() -> None:
    assert list(prefetch(lambda n: n * n, range(20), depth=3)) == [n * n for n in range(20)]
    assert list(prefetch(lambda n: n, [])) == []


def test_only_a_few_are_under_way() -> None:
    begun: list[int] = []
    items = prefetch(lambda n: begun.append(n) or n, range(1000), depth=2)
    assert next(items) == 0 and len(begun) <= 3
    items.close()  # type: ignore[attr-defined]


def test_errors_reach_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        list(prefetch(lambda n: 1 // n, [1, 0]))


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A batch of two tensors and something that is none."""

    number: int
    squares: torch.Tensor
    cubes: torch.Tensor | None = None


def test_what_is_fed_does_not_depend_on_the_threads() -> None:
    """Readers that finish out of order still deliver in order."""

    def read(number: int) -> Numbers:
        time.sleep(0.004 * (number % 3 == 0))
        return Numbers(number, torch.full((3,), number**2), torch.full((2,), number**3) if number % 2 else None)

    one, many = (list(feed(read, range(12), torch.device("cpu"), workers=n, depth=4)) for n in (1, 4))
    assert [batch.number for batch in many] == list(range(12))
    for a, b in zip(one, many, strict=True):
        assert torch.equal(a.squares, b.squares) and (a.cubes is None) == (b.cubes is None)


def test_batches_move_as_a_whole() -> None:
    batch = to_device(Numbers(3, torch.ones(2), None), torch.device("meta"))
    assert batch.number == 3 and batch.squares.device.type == "meta" and batch.cubes is None


def test_a_gpu_gets_each_batch_once_and_one_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of copies on a GPU, with the copies themselves replaced."""
    from world_model.data import prefetch as module

    copied: list[int] = []
    monkeypatch.setattr(module, "pinned", lambda batch: batch)
    monkeypatch.setattr(module, "to_device", lambda batch, device: copied.append(batch.number) or batch)
    fed = feed(lambda n: Numbers(n, torch.ones(1)), range(5), torch.device("cuda"))
    assert next(fed).number == 0 and copied == [0, 1]  # the next one is already under way
    assert [batch.number for batch in fed] == [1, 2, 3, 4] and copied == [0, 1, 2, 3, 4]
