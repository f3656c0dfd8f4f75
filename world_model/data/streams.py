"""Frames in the order in which a model with a memory must see them: several drives side by side, one per batch slot.

Every frame of every stream is a function of (seed, iteration), so a run that resumes sees exactly what it would have
seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from world_model.data.ahead import read_ahead
from world_model.data.index import SceneIndex
from world_model.data.labels import read_labels


@dataclass(frozen=True, kw_only=True)
class StreamBatch:
    """One frame of each of B streams.

    Attributes:
        labels: (B, X, Y, Z) uint8.
        curr_to_prev: (B, 4, 4) float32 current ego frame -> previous ego frame; identity where a stream starts.
        start: (B,) bool.
    """

    labels: Tensor
    curr_to_prev: Tensor
    start: Tensor

    def to(self, device: torch.device) -> StreamBatch:
        """The same batch on a device."""
        return StreamBatch(
            labels=self.labels.to(device, non_blocking=True),
            curr_to_prev=self.curr_to_prev.to(device, non_blocking=True),
            start=self.start.to(device, non_blocking=True),
        )


@dataclass(frozen=True, kw_only=True)
class _Slot:
    frame: int
    start: bool
    flip_x: bool
    flip_y: bool


class StreamPlan:
    """Which frame stands in which batch slot at which iteration.

    Args:
        index: the data set.
        split: its split to draw from.
        batch: number of streams side by side.
        seed: fixes the order and the flips.
        parts: every scene is cut into this many streams, so that slots change scenes at different times.
        augment: flip whole streams along x and y at random.
    """

    def __init__(
        self, index: SceneIndex, split: str, batch: int, seed: int, *, parts: int = 2, augment: bool = True
    ) -> None:
        self.index, self.batch, self.augment = index, batch, augment
        self.segments: list[range] = []
        for scene in index.scenes(split):
            frames = index.frames(scene)
            cuts = np.linspace(0, len(frames), parts + 1).astype(int)
            self.segments += [frames[a:b] for a, b in itertools.pairwise(cuts) if b > a]
        self.frames_per_epoch = sum(len(s) for s in self.segments)
        self._rng = np.random.default_rng([seed, 7])
        self._queue: list[int] = []
        self._open: list[Iterator[_Slot]] = [iter(()) for _ in range(batch)]
        self._plan: list[list[_Slot]] = []

    def _segment(self) -> Iterator[_Slot]:
        if not self._queue:
            self._queue = self._rng.permutation(len(self.segments)).tolist()
        frames = self.segments[self._queue.pop()]
        flip_x, flip_y = (self._rng.random(2) < 0.5).tolist() if self.augment else (False, False)
        return iter([_Slot(frame=f, start=i == 0, flip_x=flip_x, flip_y=flip_y) for i, f in enumerate(frames)])

    def _next(self, slot: int) -> _Slot:
        while True:
            for found in self._open[slot]:
                return found
            self._open[slot] = self._segment()

    def slots(self, iteration: int) -> list[_Slot]:
        """What every batch slot shows at an iteration (0-based)."""
        while len(self._plan) <= iteration:
            self._plan.append([self._next(s) for s in range(self.batch)])
        return self._plan[iteration]

    def read(self, slots: list[_Slot]) -> StreamBatch:
        """Read the labels of one iteration from disk."""
        labels, transforms = zip(*(self._read(s) for s in slots), strict=True)
        return StreamBatch(
            # Copies into torch's own, aligned memory: some kernels round differently on memory that is not.
            labels=torch.from_numpy(np.stack(labels)).clone(),
            curr_to_prev=torch.from_numpy(np.stack(transforms).astype(np.float32)).clone(),
            start=torch.tensor([s.start for s in slots]),
        )

    def _read(self, slot: _Slot) -> tuple[np.ndarray, np.ndarray]:
        labels = read_labels(self.index.root / str(self.index.label_path[slot.frame]))
        poses = self.index.ego_to_global
        transform = np.eye(4) if slot.start else np.linalg.inv(poses[slot.frame - 1]) @ poses[slot.frame]
        mirror = np.diag((-1.0 if slot.flip_x else 1.0, -1.0 if slot.flip_y else 1.0, 1.0, 1.0))
        labels = labels[:: -1 if slot.flip_x else 1, :: -1 if slot.flip_y else 1]
        # A mirrored world moves by the mirrored motion.
        return np.ascontiguousarray(labels), mirror @ transform @ mirror

    def batches(self, first: int, last: int, ahead: int = 2) -> Iterator[StreamBatch]:
        """Batches of the iterations first..last-1, read in the background ``ahead`` iterations early."""
        if last > first:
            self.slots(last - 1)  # the plan grows here, not in the readers' threads
        return read_ahead(lambda iteration: self.read(self.slots(iteration)), range(first, last), ahead)
