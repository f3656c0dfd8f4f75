"""Share the scenes of an evaluation among processes: every scene is scored by exactly one of them.

Two ways. Processes on this machine are started here and take scenes one after another. Under ``torchrun`` the
processes are there already, and each takes a fixed part. Results lie on disk (`Evaluator`), where the first process
finds those of all.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.queues import Queue
from types import FrameType

import torch

from world_model.core.errors import IIWorldError
from world_model.core.runtime import keep_memory
from world_model.data.prefetch import prefetch
from world_model.evaluation.forecasting.benchmark import SceneWork
from world_model.evaluation.forecasting.evaluator import Evaluator
from world_model.evaluation.forecasting.options import Evaluate


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, compute with one thread: how many share a product changes its rounding. Processes share the work."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class WorkerError(IIWorldError, RuntimeError):
    """A process that shared the work has died."""


def divided(work: Sequence[SceneWork], parts: int) -> list[list[SceneWork]]:
    """Scenes in ``parts`` parts of nearly equal work: the longest first, each to the part with the least so far."""
    cost, share = [0] * parts, [list[SceneWork]() for _ in range(parts)]
    for scene in sorted(work, key=lambda w: (-_cost(w), w.scene)):
        least = cost.index(min(cost))
        cost[least] += _cost(scene)
        share[least].append(scene)
    return [sorted(part, key=lambda w: w.scene) for part in share]


def _cost(work: SceneWork) -> int:
    """In model calls, roughly: a window is a dozen steps and half a dozen decodings, a scene forty frames."""
    return 40 + 20 * len(work.frames) + 40 * work.reconstruct


def score_here(evaluator: Evaluator, work: Sequence[SceneWork]) -> Iterator[SceneWork]:
    """Score scenes in this process; the next one is read meanwhile."""
    with one_thread(evaluator.device):
        scenes = prefetch(lambda n: evaluator.read(work[n]), range(len(work)), 1)
        for asked, scene in zip(work, scenes, strict=True):
            evaluator.score(scene, asked)
            yield asked


def score_in_processes(options: Evaluate, work: Sequence[SceneWork], processes: int) -> Iterator[SceneWork]:
    """Score scenes in processes started for it, in the order in which they are finished.

    Raises:
        WorkerError: a process was killed.
        IIWorldError: what went wrong in one of them.
    """
    context = get_context("spawn")  # a forked process cannot use a GPU, nor locks that other threads hold
    numbers: Queue[int] = context.Queue()
    for number in range(processes):
        numbers.put(number)
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(options, numbers))
    try:
        for future in as_completed([pool.submit(_score, asked) for asked in work]):
            yield future.result()
    except BrokenProcessPool as error:
        raise WorkerError(
            "a worker process was killed, most likely for want of memory",
            f"{processes} processes that live until the end",
            "give the same command again with a smaller --workers; finished scenes are kept",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_evaluator: Evaluator | None = None


def _begin(options: Evaluate, numbers: Queue[int]) -> None:
    global _evaluator
    signal.signal(signal.SIGINT, _end)
    keep_memory()
    _evaluator = Evaluator(options, numbers.get())


def _end(number: int, frame: FrameType | None) -> None:
    """Ctrl-C reaches all processes; the first one reports it, the rest end silently."""
    raise SystemExit(128 + number)


def _score(work: SceneWork) -> SceneWork:
    assert _evaluator is not None
    with one_thread(_evaluator.device):
        _evaluator.score(_evaluator.read(work), work)
    return work
