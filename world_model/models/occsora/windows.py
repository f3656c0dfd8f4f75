"""Windows of consecutive keyframes for OccSora: labels and drives, and their latents on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from world_model.core.errors import DataError
from world_model.core.files import NPY_HEADER, atomic_write, write_json
from world_model.core.geometry import invert_pose, warp_voxels
from world_model.core.grid import VoxelGrid
from world_model.data.augment import Flip, check_symmetric
from world_model.data.index import SceneIndex
from world_model.data.labels import unknown_as_free
from world_model.models.occsora.tokenizer import SoraTokenizer
from world_model.training.distributed import DistributedContext

MIRRORED_COMMAND = np.array((1, 0, 2))


@dataclass(frozen=True, kw_only=True)
class Window:
    """B windows.

    Attributes:
        labels: (B, F, X, Y, Z) uint8 true labels, 255 where nothing is known.
        ego_to_global: (B, F, 4, 4) float64.
        command: (B, F) int64.
    """

    labels: Tensor
    ego_to_global: Tensor
    command: Tensor


def window_starts(index: SceneIndex, split: str, frames: int) -> list[list[int]]:
    """First frames of all windows, scene by scene.

    Raises:
        DataError: no scene is long enough.
    """
    scenes = [index.frames(scene) for scene in index.scenes(split)]
    starts = [list(scene[: len(scene) - frames + 1]) for scene in scenes if len(scene) >= frames]
    if not starts:
        raise DataError(
            f"split {split!r}: the longest scene has {max(map(len, scenes))} keyframes",
            f"windows of {frames} consecutive keyframes",
            "use longer scenes",
        )
    return starts


def read_drive(index: SceneIndex, start: int, frames: int, mirrored: bool = False) -> tuple[Tensor, Tensor]:
    """Poses (F, 4, 4) float64 and commands (F,) int64 of a window; mirrored: left and right swapped."""
    rows = slice(start, start + frames)
    pose, command = index.ego_to_global[rows], index.command[rows].astype(np.int64)
    if mirrored:
        pose, command = Flip(y=True).transform(pose), MIRRORED_COMMAND[command]
    return torch.from_numpy(np.array(pose)), torch.from_numpy(command)


def read_window(index: SceneIndex, start: int, frames: int, grid: VoxelGrid, mirrored: bool = False) -> Window:
    """A window (B = 1) from its label files."""
    pose, command = read_drive(index, start, frames, mirrored)
    labels = np.stack([index.read_truth(frame, grid.shape) for frame in range(start, start + frames)])
    if mirrored:
        labels = np.ascontiguousarray(Flip(y=True).labels(labels))
    return Window(labels=torch.from_numpy(labels)[None], ego_to_global=pose[None], command=command[None])


def carried(observed: Tensor, ego_to_global: Tensor, grid: VoxelGrid) -> Tensor:
    """One observed frame, seen from all poses of a drive: (B, X, Y, Z), (B, F, 4, 4) -> (B, F, X, Y, Z)."""
    batch, frames = ego_to_global.shape[:2]
    to_first = (invert_pose(ego_to_global[:, :1]) @ ego_to_global).float().to(observed.device)
    repeated = observed.repeat_interleave(frames, 0)
    return warp_voxels(repeated, to_first.flatten(0, 1), grid).view(batch, frames, *grid.shape)


@dataclass(frozen=True)
class Place:
    """Where a latent's window lies."""

    start: int
    mirrored: bool


def places(index: SceneIndex, split: str, frames: int, step: int, mirror: bool) -> list[list[Place]]:
    """The windows whose latents are kept, scene by scene: every ``step``-th, and their mirror images."""
    sides = (False, True) if mirror else (False,)
    return [[Place(s, side) for s in scene[::step] for side in sides] for scene in window_starts(index, split, frames)]


class LatentCache:
    """Latents of windows on disk, float16, one file per scene; an interrupted cache is continued.

    Args:
        folder: of the cache.
        scenes: from `places`.
        meta: what must agree: tokenizer, data, windows.
    """

    def __init__(self, folder: Path, scenes: list[list[Place]], meta: dict[str, object]) -> None:
        self.folder, self.scenes = folder, scenes
        if not (folder / "meta.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "meta.json", meta)
        found = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if found != meta:
            raise DataError(f"{folder} holds latents of {found}", str(meta), "choose another --out, or delete it")

    def missing(self) -> Iterator[int]:
        """Numbers of scenes without a file."""
        return (n for n in range(len(self.scenes)) if not self._path(n).exists())

    def write(self, number: int, latents: Tensor) -> None:
        """Store the latents (W, ...) of a scene, atomically."""
        with atomic_write(self._path(number)) as stream:
            np.save(stream, latents.half().cpu().numpy(), allow_pickle=False)

    def read(self, number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
        """Latents of a scene, a view of the file."""
        with NPY_HEADER:
            return np.load(self._path(number), mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]

    def spread(self) -> float:
        """Root mean square of all latents: what divides them to unit size."""
        means = [float(np.square(self.read(n).astype(np.float64)).mean()) for n in range(len(self.scenes))]
        return float(np.sqrt(np.mean(means)))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npy"


@torch.inference_mode()
def encode_windows(
    tokenizer: SoraTokenizer,
    weights: str,
    index: SceneIndex,
    split: str,
    folder: Path,
    context: DistributedContext,
    *,
    step: int,
    mirror: bool,
    history: bool,
) -> LatentCache:
    """Encode the windows of a split that are not encoded yet; several processes deal the scenes out.

    Args:
        tokenizer: whose latents are wanted.
        weights: its hash.
        index, split: the data.
        folder: of the cache.
        context: this process among the others.
        step, mirror: as for `places`.
        history: also encode the first frame of each window, carried along its drive.
    """
    config = tokenizer.config
    if mirror:
        check_symmetric(config.grid)
    scenes = places(index, split, config.frames, step, mirror)
    meta = {
        **{"tokenizer": weights, "data": index.fingerprint, "labels": index.labels_digest, "split": split},
        **{"step": step, "mirror": mirror, "history": history},
    }
    cache = LatentCache(folder, scenes, meta)
    missing = list(cache.missing())
    context.barrier()
    for done, number in enumerate(missing[context.rank :: context.world_size], 1):
        rows = []
        for place in scenes[number]:
            window = read_window(index, place.start, config.frames, config.grid, place.mirrored)
            labels = unknown_as_free(window.labels).to(context.device)
            latents = [tokenizer.latent(labels)]
            if history:
                latents.append(tokenizer.latent(carried(labels[:, 0], window.ego_to_global, config.grid)))
            rows.append(torch.cat(latents))
        cache.write(number, torch.stack(rows))
        if context.first:
            print(f"\rencoded {done * context.world_size}/{len(missing)} scenes", end="", flush=True)
    if context.first and missing:
        print(flush=True)
    context.barrier()
    return cache
