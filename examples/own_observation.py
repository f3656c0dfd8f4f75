"""An observation of your own, chosen by its import path: what the ego vehicle has around it, in rings.

    python examples/own_observation.py

An observation mode answers three questions: in which space, what of a state, and whether that needs the occupancy.
Put the class into any module that Python can import, and name it: ``gym.make(..., observation="my_package:Rings")``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor

import ii_world_env  # noqa: F401  (registers the environment)
from world_model.core.grid import OBSTACLE

RINGS_M = (5.0, 10.0, 20.0, 40.0)


# The observation. ---------------------------------------------------------------------------------------------------
class Rings:
    """Share of the columns with an obstacle in each ring around the ego, and the speed in m/s."""

    needs_occupancy = True  # False: state.labels may not be decoded, and costs nothing

    def __init__(self, *, world: Any, action: Any, footprint: Any) -> None:
        grid = world.grid
        x, y = (grid.lower_m[i] + grid.voxel_m * (torch.arange(grid.shape[i]) + 0.5) for i in range(2))
        distance = torch.hypot(*torch.meshgrid(x, y, indexing="ij"))
        self.rings = [
            (near <= distance) & (distance < far) for near, far in zip((0.0, *RINGS_M), RINGS_M, strict=False)
        ]

    def space(self) -> gym.spaces.Box:
        high = np.array([*[1.0] * len(RINGS_M), 20.0], np.float32)
        return gym.spaces.Box(np.zeros_like(high), high)

    def observe(self, state: Any) -> Tensor:  # B environments at once: state.labels is (B, X, Y, Z) uint8
        solid = torch.isin(state.labels, torch.tensor(OBSTACLE, device=state.labels.device)).any(-1)
        shares = [solid[:, ring.to(solid.device)].float().mean(1) for ring in self.rings]
        return torch.stack((*shares, state.speed_mps), 1)


# And a drive that shows it. -----------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Args:
    """Keep speed and direction, and print what the agent observes."""

    observation: str = "own_observation:Rings"
    """Import path of an observation: module and class."""
    steps: int = 8
    """Steps of 0.5 s."""
    seed: int = 3
    """Chooses the start."""
    out: Path = Path("outputs/own_observation")
    """Folder of rings.npy, the observations of all steps."""
    short: bool = False
    """Two steps only, to try it out."""


def main(args: Args) -> None:
    """Run the example."""
    env = gym.make("IIWorld-nuScenes-v0", world="replay", observation=args.observation)
    observed, info = env.reset(seed=args.seed)
    print(f"obstacles within {RINGS_M} m, and the speed: {env.observation_space}")
    seen = [observed]
    while info["end"] is None and len(seen) < (2 if args.short else args.steps):
        observed, _, _, _, info = env.step(np.zeros(2, np.float32))
        seen.append(observed)
    for step, row in enumerate(seen):
        print(f"  +{0.5 * step:.1f} s  {np.array2string(row, precision=3, suppress_small=True)}")
    args.out.mkdir(parents=True, exist_ok=True)
    np.save(args.out / "rings.npy", np.stack(seen))
    env.close()


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
