"""Check an installation: ``python -m ii_world_env.doctor`` prints what is installed and drives ten steps."""

from __future__ import annotations

import logging
import platform
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

REQUIRED = (
    "iiworld", "torch", "gymnasium", "numpy", "stable-baselines3", "safetensors", "tyro", "matplotlib", "pillow",
)  # fmt: skip
OPTIONAL = ("nuscenes-devkit", "viser")
STEPS = 10


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Print versions, device, data and checkpoint, drive ten steps, and end with "ok" or with what failed.

    The exit code is 0 after "ok" and 1 otherwise. Put the whole output into a bug report.

    Try:
      python -m ii_world_env.doctor --device cpu
      python -m ii_world_env.doctor --data-root data/nuscenes --checkpoint runs/world
    """

    data_root: Path | None = None
    """Folder of prepared data. If not given: the bundled synthetic demo scenes."""
    checkpoint: Path | None = None
    """Folder of a trained model. If not given: the bundled checkpoint."""
    world: str = "learned"
    """learned, geometric, ii-world, occworld, occsora, transport, replay, simulated, or package.module:Class."""
    split: str = "val"
    """Which scenes: train, val or all."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


def versions() -> dict[str, str]:
    """Version of Python, of the platform and of each package; "not installed" where there is none."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in (*REQUIRED, *OPTIONAL):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def drive(options: Doctor) -> dict[str, str]:
    """Make the environment and drive `STEPS` steps with constant speed and straight wheels.

    Returns:
        Device, threads, data source, checkpoint, world, and the mean step time.

    Raises:
        IIWorldError: data, checkpoint or device cannot be used.
        ImportError: a required package is missing or broken.
    """
    # Imported here: a broken installation must not keep the versions from being printed.
    import gymnasium as gym
    import torch

    import ii_world_env
    from world_model.core.runtime import choose_device

    paths = {"data_root": options.data_root, "checkpoint": options.checkpoint}
    chosen: dict[str, Any] = {name: str(path) for name, path in paths.items() if path is not None}
    device = choose_device(options.device)
    # The report names the data anyway.
    logging.getLogger("ii_world_env.scenes").setLevel(logging.ERROR)
    env = gym.make(ii_world_env.ENV_ID, world=options.world, split=options.split, device=str(device), **chosen)
    _, info = env.reset(seed=0)
    action = env.action_space.sample() * 0
    spent = 0.0
    for _ in range(STEPS):
        if info["end"] is not None:
            _, info = env.reset()
        start = time.perf_counter()
        *_, info = env.step(action)
        spent += time.perf_counter() - start
    env.close()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": f"{device} ({name})",
        "threads": str(torch.get_num_threads()),
        "data": f"{chosen.get('data_root', 'bundled')}: {info['data_source']}",
        "checkpoint": chosen.get("checkpoint", "bundled"),
        "weights trained on": str(info["weights_source"]),
        "world": str(info["world"]),
        "mean step time": f"{spent / STEPS * 1e3:.1f} ms over {STEPS} steps",
    }


def doctor(options: Doctor) -> bool:
    """Print the report; returns whether everything worked."""
    _print(versions())
    try:
        _print(drive(options))
    except Exception as error:  # The report must name every failure, of whatever kind.
        print(f"failed: {type(error).__name__}: {error}")
        return False
    print("ok")
    return True


def _print(values: dict[str, str]) -> None:
    for name, value in values.items():
        print(f"{name:<20}{value}", flush=True)


if __name__ == "__main__":
    from world_model.core.command import run  # only here: the report names what cannot be imported

    ready = run(Doctor, doctor, "python -m ii_world_env.doctor")
    sys.exit(0 if ready else 1)
