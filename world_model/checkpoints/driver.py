"""The learned driver of other road users: a checkpoint's own, if it holds one, else the bundled one."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from world_model.checkpoints.checkpoint import DRIVER_FILE, bundled_path, load_model, stamp_of
from world_model.models.geometric.agents.driver_net import DriverNet, DriverNetConfig


@functools.lru_cache(maxsize=4)
def _driver(path: str, stamp: tuple[int, ...], device: str) -> tuple[DriverNet, dict[str, Any]]:
    net, card = load_model(DriverNet, DriverNetConfig, DRIVER_FILE, path, device)[:2]
    return net.eval().requires_grad_(False), card


def shared_driver(checkpoint: str | Path | None = None, device: torch.device | str = "cpu") -> DriverNet:
    """The driver for forecasting only: loaded once per process for each (checkpoint, device).

    Args:
        checkpoint: folder, or a driver's file; where it holds no driver, and for None, the bundled one is taken.
        device: where it is put.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = bundled_path(DRIVER_FILE) if checkpoint is None else Path(checkpoint)
    path = path / DRIVER_FILE if path.is_dir() else path
    if path.name != DRIVER_FILE or not path.exists():
        path = bundled_path(DRIVER_FILE) / DRIVER_FILE
    return _driver(str(path), stamp_of(path), str(device))[0]
