"""What two environments return, compared down to types, keys and masks."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
import torch

FLOAT_TOLERANCE = 1e-5
CELL_TOLERANCE = 1e-3
"""Batched arithmetic may round differently: so far may floats be apart, and this share of the cells."""


def assert_same(ours: Any, theirs: Any, at: str = "") -> None:
    """Equal types, shapes, keys and masks; numbers within the tolerance."""
    assert type(ours) is type(theirs), at
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), at
        for key in theirs:
            assert_same(ours[key], theirs[key], f"{at}.{key}")
    elif isinstance(theirs, (tuple, list)):
        assert len(ours) == len(theirs), at
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{at}[{i}]")
    elif isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, (at, ours.dtype, theirs.dtype)
        if theirs.dtype == object:
            assert_same(ours.tolist(), theirs.tolist(), at)
        elif theirs.dtype == np.uint8:
            assert (ours != theirs).mean() <= CELL_TOLERANCE, at
        else:
            np.testing.assert_allclose(ours, theirs, rtol=FLOAT_TOLERANCE, atol=FLOAT_TOLERANCE, err_msg=at)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=FLOAT_TOLERANCE, abs=FLOAT_TOLERANCE), at
    else:
        assert ours == theirs, at


def assert_exact(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
    else:
        np.testing.assert_array_equal(a, b)


def equal(a: Any, b: Any) -> bool:
    """Everything in two states or outputs, to the bit."""
    if isinstance(a, torch.Tensor):
        if a.is_floating_point() and b.is_floating_point():
            # States mark what does not apply by NaN.
            blank = a.isnan()
            return torch.equal(blank, b.isnan()) and torch.equal(a[~blank], b[~blank])
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return equal(a.tolist(), b.tolist()) if a.dtype == object else np.array_equal(a, b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if is_dataclass(a):
        return all(equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return bool(a == b)
