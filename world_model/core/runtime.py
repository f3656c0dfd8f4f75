"""Device and memory settings of a process."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from world_model.core.errors import OptionError


def choose_device(name: str = "auto") -> torch.device:
    """ "auto" is the first CUDA device, else the CPU; anything else is taken as torch's own name for a device.

    Raises:
        OptionError: the name is unknown or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise OptionError(f"device {name!r}", "auto, cpu, cuda or cuda:N", "choose one of these") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise OptionError(
            f"device {name!r}, but torch {torch.__version__} sees no CUDA device",
            "auto or cpu here",
            "install a CUDA build of torch, or use --device cpu",
        )
    if device.type == "cuda":
        present = device.index is None or device.index < torch.cuda.device_count()  # asks without a CUDA context
    else:
        present = device.type == "cpu" or _computes(device)
    if not present:
        raise OptionError(
            f"device {name!r}, which torch {torch.__version__} cannot use here",
            "auto, cpu, cuda or cuda:N",
            "choose one of these",
        )
    return device


def _computes(device: torch.device) -> bool:
    """Whether numbers on a device come back: "meta" has none, and an absent backend refuses in its own words."""
    try:
        return torch.ones(1, device=device).tolist() == [1.0]
    except Exception:  # RuntimeError, NotImplementedError, AssertionError, ImportError: each backend has another
        return False


@contextmanager
def plain_defaults() -> Iterator[None]:
    """Make modules as torch does when it is imported, whatever `torch.set_default_dtype` and `set_default_device` say:
    float32, on the CPU."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)


def keep_memory() -> None:
    """Tell glibc to keep freed blocks instead of handing them back to the kernel after every operation.

    Large tensors are mapped afresh for each operation by default, and the page faults cost as much as the arithmetic:
    this alone makes work on a CPU 1.4 to 1.5 times faster. The peak is not given back until the process ends, so
    commands and CPU environments call it, importing does not. Elsewhere than Linux with glibc it does nothing.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL("libc.so.6")
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 256 * 2**20)
