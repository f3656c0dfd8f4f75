"""A world of your own, chosen by its import path: the observed street with everything that could move taken away.

    python examples/own_world.py

A world answers four questions: what is there at the start, what becomes of it when the ego moves, what does the ego
see, and on which grid. `Engine`, rewards, observations, planners and the vector environment do the rest. Put the class
into any module that Python can import, and name it: ``gym.make("IIWorld-nuScenes-v0", world="my_package:GhostTown")``.
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
from world_model.core.geometry import invert_pose, warp_voxels
from world_model.core.grid import FREE, VoxelGrid
from world_model.data.clips import Clips
from world_model.pictures import write_png
from world_model.worlds import TensorState

MOVABLE = tuple(range(1, 11))
"""Class ids from barrier to truck."""


# The world: twenty lines. -------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class GhostState(TensorState):  # brings clone(), index(i) and expand(n)
    labels: Tensor  # (B, X, Y, Z) uint8 at the start
    ego_to_start: Tensor  # (B, 4, 4) float32


class GhostTown:
    needs_future_labels = False  # True: reset() is given clips.future_occupancy

    def __init__(self, *, checkpoint: Any, device: torch.device, grid: VoxelGrid) -> None:
        self.grid, self.device = grid, device

    def reset(self, clips: Clips) -> GhostState:
        labels = clips.occupancy[:, -1].to(self.device)
        labels = torch.where(torch.isin(labels, torch.tensor(MOVABLE, device=self.device)), FREE, labels)
        return GhostState(labels=labels, ego_to_start=torch.eye(4, device=self.device).repeat(len(labels), 1, 1))

    def step(self, state: GhostState, curr_to_next: Tensor, command: Tensor) -> GhostState:
        return GhostState(labels=state.labels, ego_to_start=state.ego_to_start @ invert_pose(curr_to_next))

    def occupancy(self, state: GhostState) -> Tensor:
        return warp_voxels(state.labels, state.ego_to_start, self.grid)


# And a drive in it. -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Args:
    """Drive the same way through the ghost town and through the recording, and compare."""

    world: str = "own_world:GhostTown"
    """Import path of a world: module and class."""
    steps: int = 8
    """Steps of 0.5 s."""
    seed: int = 3
    """Chooses the start."""
    out: Path = Path("outputs/own_world")
    """Folder of the pictures."""
    short: bool = False
    """Two steps only, to try it out."""


def drive(world: str, args: Args) -> np.ndarray:
    """Keep speed and direction; returns the last picture."""
    env = gym.make("IIWorld-nuScenes-v0", world=world, render_mode="rgb_array")
    _, info = env.reset(seed=args.seed)
    total, steps = 0.0, 0
    while info["end"] is None and steps < (2 if args.short else args.steps):
        _, reward, _, _, info = env.step(np.zeros(2, np.float32))
        total, steps = total + float(reward), steps + 1
    ahead = env.unwrapped.occupancy  # type: ignore[attr-defined]  # Gymnasium types it as Env
    objects = int(np.isin(ahead, MOVABLE).sum())
    print(f"{world:22} {steps} steps  reward {total:+.2f}  end {info['end']}  {objects} voxels of objects in sight")
    picture = env.render()
    env.close()
    return np.asarray(picture)


def main(args: Args) -> None:
    """Run the example."""
    args.out.mkdir(parents=True, exist_ok=True)
    for world in (args.world, "replay"):
        path = args.out / f"{world.rpartition(':')[2]}.png"
        write_png(path, drive(world, args))
        print(f"  {path}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
