"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from world_model.core.errors import OptionError
from world_model.core.runtime import choose_device


@pytest.mark.parametrize("name", ["mps", "xpu", "hpu", "mtia", "xla", "vulkan", "meta", "cuda:99", "cpu:x", "gpu", ""])
def test_a_device_that_is_not_there_is_an_option_error(name: str) -> None:
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("it is there")
    with pytest.raises(OptionError, match="Expected: auto"):
        choose_device(name)


def test_a_device_that_is_there() -> None:
    assert choose_device("cpu") == torch.device("cpu") and choose_device("auto").type in ("cpu", "cuda")
