"""From a name to a world."""

from __future__ import annotations

from pathlib import Path

import torch

from world_model.checkpoints.driver import shared_driver
from world_model.checkpoints.shared import load_world, shared_geometric, with_faithful
from world_model.core.errors import ConfigError, OptionError
from world_model.core.grid import OCC3D, VoxelGrid
from world_model.core.plugins import import_object
from world_model.core.runtime import choose_device, keep_memory
from world_model.worlds.ensemble import EnsembleWorld
from world_model.worlds.kinds import (
    GEOMETRIC,
    LEARNED,
    LEARNED_NAMES,
    OCCSORA,
    OCCWORLD,
    OCCWORLD_MODES,
    Checkpoint,
    member_kind,
    member_paths,
)
from world_model.worlds.protocol import World
from world_model.worlds.replay import ReplayWorld
from world_model.worlds.traffic import DEFAULT_TRAFFIC, REACTING, VOXELS, TrafficConfig
from world_model.worlds.transport import TransportWorld

WORLD_NAMES = (*LEARNED_NAMES, "transport", "replay", "simulated")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build_world(
    name: str = LEARNED,
    *,
    checkpoint: Checkpoint = None,
    device: str = "auto",
    dtype: str = "auto",
    faithful: bool | None = None,
    self_check: bool = True,
    traffic: str = DEFAULT_TRAFFIC,
    agents: str = VOXELS,
    grid: VoxelGrid = OCC3D,
) -> World:
    """Make a world.

    Args:
        name: "learned" (the learned world that the checkpoint holds, see `resolve_world`), "geometric", "ii-world",
            "occworld" (or a mode of it, "occworld-faithful", "occworld-rewarp", "occworld-conditioned", see
            `OccWorldWorld`), "occsora" (see `SoraWorld`), "transport", "replay", "simulated", or the import path
            "package.module:Class" of a class whose instances satisfy `World`; it is called with ``checkpoint=``,
            ``device=`` and ``grid=``.
        checkpoint: folder of a trained model; None takes the bundled one; several (a list, or names separated by
            commas) make an ensemble, see `EnsembleWorld`.
        device: "auto" (a GPU when there is one), "cpu", "cuda", "cuda:1", ...
        dtype: of the model, "auto", "float32" or "bfloat16". Auto is float32, and bfloat16 for "ii-world" on a GPU that
            has it. In "geometric" bfloat16 concerns the convolutions alone.
        faithful: keep the mistakes of the published model, see `world_model.checkpoints.deviations`; None
            as the checkpoint says.
        self_check: let the geometric world test itself on the observed past at every reset (see `Belief`).
        traffic, agents: how other road users move in the geometric world, see `TrafficConfig`.
        grid: voxel grid of the worlds that have no model.

    Raises:
        OptionError: there is no such world, device, dtype or traffic, or ``faithful`` or ``traffic`` does not fit.
        ConfigError: the class of an import path is no `World`.
        CheckpointError: the checkpoint is missing or damaged.
    """
    place, others = pick_device(device), TrafficConfig(traffic=traffic, agents=agents)
    if name in LEARNED_NAMES:
        return _trained(name, checkpoint, place, dtype, faithful, self_check, others)
    others.check({name}, name)
    if faithful is not None:
        raise _no_switch(faithful, name)
    if name == "transport":
        return TransportWorld(grid, place)
    if name == "replay":
        return ReplayWorld(grid, place)
    if name == "simulated":
        from world_model.worlds.simulated import SimulatedWorld

        return SimulatedWorld(grid, place)
    if ":" in name:
        return _imported(name, checkpoint, place, grid)
    raise OptionError(f"world={name!r}", f"one of {WORLD_NAMES} or 'package.module:Class'", "choose one of them")


def _trained(
    name: str,
    checkpoint: Checkpoint,
    place: torch.device,
    dtype: str,
    faithful: bool | None,
    self_check: bool,
    others: TrafficConfig,
) -> World:
    """A learned world, or an ensemble of them."""
    if place.type == "cpu":
        keep_memory()  # a third of a step's time would go into mapping new memory
    kinds = [(member_kind(name, path), path) for path in member_paths(checkpoint)]
    others.check({kind for kind, _ in kinds}, name)
    members = [_member(kind, path, place, dtype, faithful, self_check, others) for kind, path in kinds]
    return members[0] if len(members) == 1 else EnsembleWorld(members)


def _member(
    kind: str,
    path: str | Path | None,
    place: torch.device,
    dtype: str,
    faithful: bool | None,
    self_check: bool,
    others: TrafficConfig,
) -> World:
    if kind == GEOMETRIC:
        from world_model.worlds.geometric import GeometricWorld

        if faithful is not None:
            raise _no_switch(faithful, kind)
        numbers = torch.float32 if dtype == "auto" else _pick_dtype(dtype, place)
        driver = shared_driver(path, place) if others.traffic in REACTING else None
        forecaster = shared_geometric(path, place, numbers)[0]
        return GeometricWorld(forecaster, self_check=self_check, traffic=others, driver=driver)
    if kind == OCCWORLD or kind in OCCWORLD_MODES:
        from world_model.checkpoints.occworld import shared_occworld
        from world_model.worlds.occworld import OccWorldWorld

        if faithful is not None:
            raise _no_switch(faithful, kind)
        return OccWorldWorld(shared_occworld(path, place)[0], OCCWORLD_MODES.get(kind))
    if kind == OCCSORA:
        from world_model.checkpoints.occsora import shared_occsora
        from world_model.worlds.occsora import SoraWorld

        if faithful is not None:
            raise _no_switch(faithful, kind)
        return SoraWorld(*shared_occsora(path, place))
    from world_model.worlds.token import TokenWorld

    model = load_world(path, device=str(place), dtype=_pick_dtype(dtype, place))
    model = with_faithful(model, faithful)
    return TokenWorld(model.tokenizer, model.forecaster)


def _no_switch(faithful: bool, world: str) -> OptionError:
    return OptionError(
        f"faithful={faithful!r} for world={world!r}",
        "faithful=None: only the published architecture has mistakes to keep",
        "leave faithful= out, or choose world='ii-world'",
    )


def pick_device(name: str = "auto") -> torch.device:
    """Device of a name; "auto" takes a GPU when there is one.

    Raises:
        OptionError: the name is no device, the device is absent, or a GPU is used in a forked process.
    """
    _refuse_bad_fork(name)
    return choose_device(name)


def untouched_gpu(name: str) -> bool:
    """Whether a name stands for a GPU, asked in a way that leaves CUDA as it is: a process that has once asked it, or
    holds a context, can fork no workers that use a GPU.

    Raises:
        OptionError: the name is no device, the device is absent, or a GPU is used in a forked process.
    """
    _refuse_bad_fork(name)
    # Counted by the driver's library beside CUDA; what CUDA itself says is asked when the device is used.
    count = torch.cuda.device_count() if name == "auto" or name.startswith("cuda") else 0
    if count and name != "auto":
        try:
            wanted = torch.device(name).index
        except RuntimeError:
            wanted = count
        if wanted is not None and wanted >= count:
            choose_device(name)  # says what is wrong
    return count > 0


def _refuse_bad_fork(name: str) -> None:
    # Before anything is asked of CUDA: in such a process it says that there is no GPU at all.
    if (name == "auto" or name.startswith("cuda")) and torch.cuda._is_in_bad_fork():
        raise OptionError(
            f"device={name!r} in a forked worker of a process that uses a GPU",
            "a GPU that is first used in the process that owns it",
            'make all environments in one process, gym.make_vec("IIWorld-nuScenes-v0", num_envs=N): one model and one '
            'batch serve them; or start the workers with context="spawn", or take device="cpu"',
        )


def _pick_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    if name not in DTYPES:
        raise OptionError(f"dtype={name!r}", f"'auto' or one of {tuple(DTYPES)}", "choose one of them")
    return DTYPES[name]


def _imported(name: str, checkpoint: Checkpoint, device: torch.device, grid: VoxelGrid) -> World:
    cls = import_object("world", name, "'package.module:Class'")
    world = cls(checkpoint=checkpoint, device=device, grid=grid)
    if not isinstance(world, World):
        raise ConfigError(
            f"{name} made a {type(world).__name__} without the World protocol",
            "attributes grid, needs_future_labels and methods reset, step, occupancy",
            "see world_model/worlds/protocol.py",
        )
    return world
