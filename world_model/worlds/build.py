"""From a name to a world."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch

from world_model.errors import ConfigError, OptionError
from world_model.grid import OCC3D, VoxelGrid
from world_model.runtime import choose_device, keep_memory
from world_model.worlds.protocol import World
from world_model.worlds.replay import ReplayWorld
from world_model.worlds.transport import TransportWorld

WORLD_NAMES = ("learned", "transport", "replay")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build_world(
    name: str = "learned",
    *,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    grid: VoxelGrid = OCC3D,
) -> World:
    """Make a world.

    Args:
        name: "learned", "transport", "replay", or the import path "package.module:Class" of a class whose instances
            satisfy `World`; it is called with ``checkpoint=``, ``device=`` and ``grid=``.
        checkpoint: folder of a trained tokenizer and forecaster; None takes the bundled one.
        device: "auto" (a GPU when there is one), "cpu", "cuda", "cuda:1", ...
        dtype: "auto" (bfloat16 on a GPU that has it, else float32), "float32" or "bfloat16".
        grid: voxel grid of the worlds that have no model.

    Raises:
        OptionError: there is no such world, device or dtype.
        ConfigError: the class of an import path is no `World`.
        CheckpointError: the checkpoint is missing or damaged.
    """
    place = pick_device(device)
    if name == "learned":
        from world_model.checkpoint import load_world
        from world_model.worlds.learned import LearnedWorld

        if place.type == "cpu":
            keep_memory()  # a third of a step's time would go into mapping fresh memory
        model = load_world(checkpoint, device=str(place), dtype=_pick_dtype(dtype, place))
        return LearnedWorld(model.tokenizer, model.forecaster)
    if name == "transport":
        return TransportWorld(grid, place)
    if name == "replay":
        return ReplayWorld(grid, place)
    if ":" in name:
        return _imported(name, checkpoint, place, grid)
    raise OptionError(f"world={name!r}", f"one of {WORLD_NAMES} or 'package.module:Class'", "choose one of them")


def pick_device(name: str = "auto") -> torch.device:
    """Device of a name; "auto" takes a GPU when there is one.

    Raises:
        OptionError: the name is no device, the device is absent, or a GPU is used in a forked process.
    """
    device = choose_device(name)
    if device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise OptionError(
            f"device={name!r} in a forked worker process",
            "a GPU that is first used in the process that owns it",
            'start the workers with "spawn", or keep all environments in one process, where they share one model',
        )
    return device


def _pick_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    if name not in DTYPES:
        raise OptionError(f"dtype={name!r}", f"'auto' or one of {tuple(DTYPES)}", "choose one of them")
    return DTYPES[name]


def _imported(name: str, checkpoint: str | Path | None, device: torch.device, grid: VoxelGrid) -> World:
    module, _, attribute = name.partition(":")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise OptionError(
            f"world={name!r} cannot be imported ({error})", "'package.module:Class'", "check the path"
        ) from error
    world = cls(checkpoint=checkpoint, device=device, grid=grid)
    if not isinstance(world, World):
        raise ConfigError(
            f"{name} made a {type(world).__name__} without the World protocol",
            "attributes grid, needs_future_labels and methods reset, step, occupancy",
            "see world_model/worlds/protocol.py",
        )
    return world
