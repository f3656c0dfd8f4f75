"""The training loop: progress, exact resume, atomic checkpoints, several processes. It knows no model and no data."""

from __future__ import annotations

import contextlib
import csv
import io
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from world_model.core.errors import CheckpointError, ConfigError
from world_model.core.files import atomic_write, write_text
from world_model.training.batch_norm import StepBuffers, group_batch_norm
from world_model.training.distributed import Ranks, Share
from world_model.training.optim import OptimConfig, WeightAverage
from world_model.training.precision import Precision, resolve_precision, run_in_bfloat16
from world_model.training.tally import Tally, mean_logs


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long to train and how often to look.

    Args:
        iterations: optimizer steps in all.
        batch: samples (or streams) of one forward and backward pass in one process.
        accumulate: passes whose gradients are added up before a step.
        group: samples normalised and scored together; 0: ``batch``. See `world_model.training.distributed`.
        seed: fixes initial weights, order of the data, augmentation and sampling.
        save_every: iterations between checkpoints.
        log_every: iterations between lines of progress.
        precision: of the heavy layers; "auto" is bfloat16 on CUDA devices that have it, else float32.
        optim: optimizer, schedule and averaging.
    """

    iterations: int = 20_000
    batch: int = 8
    accumulate: int = 1
    group: int = 0
    seed: int = 0
    save_every: int = 500
    log_every: int = 50
    precision: Precision = "auto"
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        if min(self.iterations, self.batch, self.accumulate, self.save_every, self.log_every) < 1 or self.group < 0:
            raise ConfigError(
                f"iterations {self.iterations}, batch {self.batch}, accumulate {self.accumulate}, group {self.group}, "
                f"save_every {self.save_every}, log_every {self.log_every}",
                "positive numbers",
                "change these options",
            )

    def share(self, ranks: Ranks) -> Share:
        """What a process works on."""
        return Share(portion=self.batch, portions=self.accumulate, group=self.group, rank=ranks.rank, ranks=ranks.count)

    def identity(self, share: Share) -> dict[str, Any]:
        """What decides the course of a run: not how a step's batch is divided, nor how often it is saved."""
        return {
            "iterations": self.iterations,
            "batch": share.batch,
            "group": share.group,
            "seed": self.seed,
            "precision": self.precision,
            "optim": asdict(self.optim),
        }


class Task(Protocol):
    """What the loop needs to know about a model and its data."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        ...

    @property
    def heavy(self) -> list[nn.Module]:
        """Modules that may compute in bfloat16; they take and return tensors, or tuples of tensors."""
        ...

    def batches(self, first: int, last: int) -> Iterator[Any]:
        """Portions of the iterations first..last-1 in order; each depends on (seed, iteration, its place) alone."""
        ...

    def begin_step(self, batch: Any, iteration: int) -> None:
        """Called with the first portion of a step, before its loss."""
        ...

    def loss(self, batch: Any, iteration: int, portion: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss of a portion, a mean over its groups, and named parts of it for the log."""
        ...

    def end_step(self) -> dict[str, Tensor]:
        """Called after the last gradient of a step; more for the log."""
        ...

    def state(self) -> dict[str, Any]:
        """Tensors and plain values of all processes, beyond weights, that decide the following iterations."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        ...


class Objective(nn.Module):
    """A task's loss as the forward of a module, which is what DistributedDataParallel wants."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model, self.task = task.model, task

    def forward(self, batch: Any, iteration: int, portion: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self.task.loss(batch, iteration, portion)


class Trainer:
    """Trains a task into a folder and takes it up again where it stopped.

    Args:
        task: model, data and loss.
        config: how long and how.
        out: folder for ``last.pt`` (to resume), ``log.csv``; all processes must see it.
        identity: what must agree for a run to be resumed (configuration, data fingerprint); plain values.
        ranks: this process among those that train; None: alone.
    """

    def __init__(
        self, task: Task, config: TrainConfig, out: Path, identity: dict[str, Any], ranks: Ranks | None = None
    ) -> None:
        self.task, self.config, self.out, self.identity = task, config, out, identity
        self.ranks = ranks or Ranks(device=next(task.model.parameters()).device)
        self.share = config.share(self.ranks)
        self.dtype = resolve_precision(config.precision, self.device)
        if self.dtype == torch.bfloat16:
            run_in_bfloat16(task.heavy, self.device.type)
        if self.share.groups_in_portion > 1:
            group_batch_norm(task.model, self.share.group)
        self.objective: nn.Module = Objective(task)
        if self.ranks.count > 1:
            # Buffers are averaged once a step (see `StepBuffers`), not copied from the first process at every pass.
            self.objective = DistributedDataParallel(
                self.objective, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        self.optimizer = torch.optim.AdamW(
            task.model.parameters(), lr=config.optim.learning_rate, weight_decay=config.optim.weight_decay
        )
        self.average = WeightAverage(task.model, config.optim.ema)
        self.iteration, self.seconds = 0, 0.0
        self.rows: list[dict[str, float]] = []
        self._stop = False

    @property
    def device(self) -> torch.device:
        """Where the model is trained."""
        return next(self.task.model.parameters()).device

    @property
    def last(self) -> Path:
        """The file that a run resumes from."""
        return self.out / "last.pt"

    @property
    def peak_gb(self) -> float | None:
        """Most GPU memory that tensors of this process have taken so far (10^9 bytes); None elsewhere."""
        return torch.cuda.max_memory_allocated(self.device) / 1e9 if self.device.type == "cuda" else None

    def save(self) -> None:
        """Write everything that decides the rest of the run, atomically (all processes call it, the first writes)."""
        task = self.task.state()
        if not self.ranks.first:
            return
        state = {
            "identity": self.identity,
            "iteration": self.iteration,
            "seconds": self.seconds,
            "model": self.task.model.state_dict(),
            "average": self.average.weights,
            "optimizer": self.optimizer.state_dict(),
            "task": task,
            "rows": self.rows,
        }
        with atomic_write(self.last) as stream:
            torch.save(state, stream)
        if self.rows:
            text = io.StringIO()
            writer = csv.DictWriter(text, fieldnames=list(self.rows[-1]), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.rows)
            write_text(self.out / "log.csv", text.getvalue())

    def resume(self) -> bool:
        """Take up an interrupted run if there is one.

        Raises:
            CheckpointError: the file is damaged, the run had another configuration or other data, or the processes do
                not see the same file.
        """
        remedy = "train into another folder with --out, or delete this one to start again"
        state = _read_state(self.last, remedy) if self.last.exists() else None
        if not self.ranks.agree(-1 if state is None else state["iteration"]):
            raise CheckpointError(
                f"process {self.ranks.rank} {'sees no' if state is None else 'sees another'} {self.last}",
                "one folder that all processes see",
                "put --out on a file system that all machines share",
            )
        if state is None:
            return False
        found, wanted = _flatten(_of_this_version(state["identity"])), _flatten(self.identity)
        different = [k for k in sorted({*found, *wanted}) if not _alike(k, found, wanted)]
        if different:
            lines = "; ".join(f"{k}: {found.get(k)} (now {wanted.get(k)})" for k in different)
            raise CheckpointError(f"{self.last} was trained with {lines}", "the same configuration and data", remedy)
        self.iteration, self.seconds, self.rows = state["iteration"], state["seconds"], state["rows"]
        self.task.model.load_state_dict(state["model"])
        for name, value in state["average"].items():
            self.average.weights[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.task.restore(state["task"])
        return True

    def run(self) -> None:
        """Train to the end; an interrupt saves and stops."""
        if self.resume():
            self._say(f"resuming {self.last} at iteration {self.iteration} of {self.config.iterations}")
        previous = {s: signal.signal(s, self._interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._iterate()
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)
        self.save()
        self.ranks.wait()
        if self._stop:
            self._say(f"stopped at iteration {self.iteration}; the same command resumes from {self.last}")
            raise SystemExit(130)
        if self.peak_gb is not None:
            self._say(f"peak GPU memory of a process: {self.peak_gb:.2f} GB")

    def card(self) -> dict[str, Any]:
        """What a checkpoint tells about how it was trained."""
        card = {
            "iterations": self.config.iterations,
            "batch": self.share.batch,
            "group": self.share.group,
            "processes": self.ranks.count,
            "seed": self.config.seed,
            "precision": str(self.dtype).removeprefix("torch."),
            "hours": round(self.seconds / 3600, 3),
            "device": str(self.device),
        }
        return card if self.peak_gb is None else {**card, "peak_memory_gb": round(self.peak_gb, 2)}

    def _say(self, text: str) -> None:
        if self.ranks.first:
            print(text, flush=True)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._stop = True

    def _iterate(self) -> None:
        clock, tally = time.perf_counter(), Tally()
        portions = self.task.batches(self.iteration, self.config.iterations)
        while self.iteration < self.config.iterations:
            tally.add(self.step(tally.timed(portions, self.share.portions)))
            now = time.perf_counter()
            self.seconds, clock = self.seconds + now - clock, now
            if self.iteration % self.config.log_every == 0 or self.iteration == self.config.iterations:
                self._report(tally)
                tally = Tally()
            # A signal need not reach all processes within the same iteration.
            self._stop = self.ranks.any(self._stop)
            if self._stop:
                return
            if self.iteration % self.config.save_every == 0:
                self.save()

    def step(self, portions: Iterator[Any]) -> dict[str, Tensor]:
        """One optimizer step over the portions of this process's share."""
        config, logs, loss_sum = self.config, [], torch.zeros((), device=self.device)
        rate = config.optim.rate(self.iteration, config.iterations)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        buffers = StepBuffers(self.task.model, self.share.portions, self.ranks)
        for portion, batch in enumerate(portions):
            if portion == 0:
                self.task.begin_step(batch, self.iteration)
            with self._exchange(portion == self.share.portions - 1):
                loss, parts = self.objective(batch, self.iteration, portion)
                (loss / self.share.portions).backward()
            buffers.portion_done()
            loss_sum += loss.detach() / self.share.portions
            logs.append(parts)
        buffers.step_done()
        more = self.task.end_step()
        norm = nn.utils.clip_grad_norm_(self.task.model.parameters(), config.optim.clip_norm)
        # A step with a gradient that is not finite would destroy the run; leaving it out keeps the weights.
        if torch.isfinite(norm):
            self.optimizer.step()
            self.average.update(self.task.model, self.iteration)
        self.iteration += 1
        skipped = (~torch.isfinite(norm)).float()
        return {"loss": loss_sum, "grad_norm": norm.detach(), "skipped": skipped, **mean_logs(logs), **more}

    def _exchange(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients are averaged over the processes with a step's last portion only."""
        if isinstance(self.objective, DistributedDataParallel) and not last:
            return self.objective.no_sync()
        return contextlib.nullcontext()

    def _report(self, tally: Tally) -> None:
        means = tally.means(self.ranks)
        took = max(time.perf_counter() - tally.begin, 1e-9)
        pace, waited = tally.steps / took, tally.waited / took
        rate = self.config.optim.rate(self.iteration - 1, self.config.iterations)
        row = {"iteration": self.iteration, "rate": rate, "seconds": round(self.seconds, 1), **means}
        row["data_wait"] = round(waited, 4)
        if self.peak_gb is not None:
            row["peak_gb"] = round(self.peak_gb, 3)
        self.rows.append(row)
        left = (self.config.iterations - self.iteration) / pace
        parts = " ".join(f"{k} {v:.4g}" for k, v in means.items())
        peak = f", {self.peak_gb:.2f} GB" if self.peak_gb is not None else ""
        self._say(
            f"[{self.iteration}/{self.config.iterations}] {parts} | {pace * self.share.batch:.1f} frames/s "
            f"({100 * waited:.0f} % waiting for data{peak}), {left / 60:.1f} min left"
        )


def _read_state(path: Path, remedy: str) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        int(state["iteration"]), dict(state["identity"])
    except Exception as error:  # torch raises many kinds for damaged files
        raise CheckpointError(f"{path} cannot be read ({error})", "an intact checkpoint", remedy) from error
    return state


def _of_this_version(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity as this version writes it; version 0.1 knew one process, one group and one kind of precision."""
    train = identity.get("train")
    if not isinstance(train, dict) or "amp" not in train:
        return identity
    new = {k: v for k, v in train.items() if k != "amp"}
    return {**identity, "train": {**new, "group": train["batch"], "precision": "auto" if train["amp"] else "float32"}}


def _alike(name: str, found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether two identities agree on a name; a switch that only one version knows, and that is off there, is none."""
    if name in found and name in wanted:
        return bool(found[name] == wanted[name])
    return not found.get(name, wanted.get(name))


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names, so that a difference can be named."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
