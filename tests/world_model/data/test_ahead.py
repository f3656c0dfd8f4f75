"""Reading ahead keeps the order, hands errors on, and does not run away."""

import pytest

from world_model.data.ahead import read_ahead


def test_order_is_kept() -> None:
    assert list(read_ahead(lambda n: n * n, range(20), ahead=3)) == [n * n for n in range(20)]
    assert list(read_ahead(lambda n: n, [])) == []


def test_only_a_few_are_under_way() -> None:
    begun: list[int] = []
    items = read_ahead(lambda n: begun.append(n) or n, range(1000), ahead=2)
    assert next(items) == 0 and len(begun) <= 3
    items.close()  # type: ignore[attr-defined]


def test_errors_reach_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        list(read_ahead(lambda n: 1 // n, [1, 0]))
