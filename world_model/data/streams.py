"""Frames in the order that a model with a memory needs: several recordings side by side, one per batch slot.

Every frame of every stream is a function of (seed, iteration). So a resumed run reads the frames that it would have
read, and several processes that each read some of the slots read the same frames as one process.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world_model.core.errors import DataError
from world_model.core.grid import IGNORE, OCC3D, VoxelGrid
from world_model.data.augment import Flip, check_symmetric
from world_model.data.index import SceneIndex

Flips = Literal["stream", "published", "none"]


@dataclass(frozen=True, kw_only=True)
class StreamBatch:
    """One frame of each of B streams.

    Attributes:
        labels: (B, X, Y, Z) uint8, 255 where nothing is known.
        curr_to_prev: (B, 4, 4) float32 current ego frame -> previous ego frame; identity where a stream starts.
        start: (B,) bool.
    """

    labels: Tensor
    curr_to_prev: Tensor
    start: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class _Slot:
    """One frame of a stream: how it is mirrored, and how its memory is taken to be mirrored."""

    frame: int
    start: bool
    flip: Flip
    memory_flip: Flip


_FLIPS = {(x, y): Flip(x, y) for x in (False, True) for y in (False, True)}


class StreamPlan:
    """Which frame stands in which batch slot at which iteration.

    Args:
        index: the data set.
        split: its split to draw from.
        batch: number of streams side by side, over all processes.
        seed: fixes the order and the flips.
        parts: every scene is cut into this many streams, read in order, so that slots change scenes at different times.
        flips: "stream" mirrors whole streams along x and y at random. "published" draws for every frame, and aligns the
            memory as if it were mirrored like the first frame of its stream, as the original does (deviation 9): its
            memory is then misaligned half of the time.
        grid: the grid of the label files.
    """

    def __init__(
        self,
        index: SceneIndex,
        split: str,
        batch: int,
        seed: int,
        *,
        parts: int = 2,
        flips: Flips = "stream",
        grid: VoxelGrid = OCC3D,
    ) -> None:
        self.index, self.batch, self.grid = index, batch, grid
        self.flips: Flips = flips
        if self.flips != "none":
            check_symmetric(grid)
        self.segments: list[range] = []
        for scene in index.scenes(split):
            frames = index.frames(scene)
            cuts = np.linspace(0, len(frames), parts + 1).astype(int)
            self.segments += [frames[a:b] for a, b in itertools.pairwise(cuts) if b > a]
        if not self.segments:
            raise DataError(f"split {split!r} has no frames", "scenes with frames", "prepare the data set again")
        self.frames_per_epoch = sum(len(s) for s in self.segments)
        self._rng = np.random.default_rng([seed, 7])
        self._queue: list[int] = []
        self._open: list[Iterator[_Slot]] = [iter(()) for _ in range(batch)]
        self._plan: list[list[_Slot]] = []

    def _segment(self) -> Iterator[_Slot]:
        if not self._queue:
            self._queue = self._rng.permutation(len(self.segments)).tolist()
        frames = self.segments[self._queue.pop()]
        first = self._flip()
        flips = [first, *(self._flip() if self.flips == "published" else first for _ in frames[1:])]
        return iter([_Slot(frame=f, start=i == 0, flip=flips[i], memory_flip=first) for i, f in enumerate(frames)])

    def _flip(self) -> Flip:
        x, y = (self._rng.random(2) < 0.5).tolist() if self.flips != "none" else (False, False)
        return _FLIPS[x, y]

    def _next(self, slot: int) -> _Slot:
        while True:
            for found in self._open[slot]:
                return found
            self._open[slot] = self._segment()

    def slots(self, iteration: int) -> list[_Slot]:
        """The frame of every batch slot at an iteration (0-based)."""
        while len(self._plan) <= iteration:
            self._plan.append([self._next(s) for s in range(self.batch)])
        return self._plan[iteration]

    def read(self, slots: list[_Slot]) -> StreamBatch:
        """Read the labels of some slots of one iteration from disk."""
        labels, transforms = zip(*(self._read(s) for s in slots), strict=True)
        return StreamBatch(
            # Copies into torch's own, aligned memory: some kernels round differently on memory that is not.
            labels=torch.from_numpy(np.stack(labels)).clone(),
            curr_to_prev=torch.from_numpy(np.stack(transforms).astype(np.float32)).clone(),
            start=torch.tensor([s.start for s in slots], device="cpu"),
        )

    def _read(self, slot: _Slot) -> tuple[NDArray[Any], NDArray[Any]]:
        labels = slot.flip.labels(self.index.read_labels(slot.frame, self.grid.shape, unknown=IGNORE))
        transform = np.eye(4) if slot.start else self.index.curr_to_prev(slot.frame)
        # A mirrored world moves by the mirrored motion.
        return np.ascontiguousarray(labels), slot.memory_flip.transform(transform, source=slot.flip)

    def extend(self, last: int) -> None:
        """Plan all iterations before ``last``: the plan must not grow in the threads that read."""
        if last > 0:
            self.slots(last - 1)
