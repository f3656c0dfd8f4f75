"""Forked worker processes: an environment in one of them computes with a single thread.

A process that has computed with torch holds OpenMP's threads. A fork copies their bookkeeping but not the threads, and
the first operation that waits for them never ends. With one thread torch asks for none. This concerns every client that
forks: Gymnasium's `AsyncVectorEnv`, SB3's `SubprocVecEnv`, `multiprocessing.Pool`, joblib, workers of a `DataLoader`.
Importing this module does not load torch.
"""

from __future__ import annotations

import os

pending = False
"""Whether this process was forked and computes with its parent's number of threads still."""


def _mark() -> None:
    global pending
    pending = True


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(after_in_child=_mark)


def single_thread_after_fork() -> None:
    """Set torch to one thread, once in each forked process; does nothing elsewhere."""
    global pending
    if pending:
        import torch

        torch.set_num_threads(1)
        pending = False
