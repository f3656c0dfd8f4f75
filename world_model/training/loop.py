"""The training loop: progress, exact resume, atomic checkpoints, several processes. It knows no model and no data."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from world_model.core.errors import CheckpointError, ConfigError, OutputError
from world_model.core.files import atomic_write, write_text
from world_model.training.batch_norm import StepBuffers, group_batch_norm
from world_model.training.distributed import BatchShard, DistributedContext
from world_model.training.optim import OptimConfig, WeightAverage
from world_model.training.precision import Precision, resolve_precision, run_in_bfloat16
from world_model.training.progress import Progress
from world_model.training.report import Look, Reports, csv_text
from world_model.training.resume import check_identity, read_state
from world_model.training.task import Loss, Task, mean_logs


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long to train, how, and how often to save and report.

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

    def shard(self, context: DistributedContext) -> BatchShard:
        """What a process works on."""
        return BatchShard(
            micro_batch=self.batch,
            accumulate=self.accumulate,
            group=self.group,
            rank=context.rank,
            world_size=context.world_size,
        )

    def identity(self, shard: BatchShard) -> dict[str, Any]:
        """What decides the course of a run: not how a step's batch is divided, nor how often it is saved."""
        return {
            "iterations": self.iterations,
            "batch": shard.batch,
            "group": shard.group,
            "seed": self.seed,
            "precision": self.precision,
            "optim": asdict(self.optim),
        }


class Objective(nn.Module):
    """A task's loss as the forward of a module, which is what DistributedDataParallel wants."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model, self.task = task.model, task

    def forward(self, batch: Any, iteration: int, micro: int) -> Loss:
        return self.task.loss(batch, iteration, micro)


class Trainer:
    """Trains a task into a folder, and resumes an interrupted run.

    Args:
        task: model, data and loss.
        config: how long and how.
        out: folder for ``last.pt`` (to resume), ``log.csv``; all processes must see it.
        identity: what must agree for a run to be resumed (configuration, data fingerprint); plain values.
        reports: who is told in the first process, beside the CSV files; None: no one.
        look: takes averaged weights, and finds out how good they are on held-out data; called in the first process.
        look_every: iterations between two looks; 0: none.
    """

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        out: Path,
        identity: dict[str, Any],
        *,
        reports: Reports | None = None,
        look: Callable[[dict[str, Tensor]], Look] | None = None,
        look_every: int = 0,
    ) -> None:
        self.task, self.config, self.out, self.identity = task, config, out, identity
        self.reports = reports or Reports(out, identity)
        self.look, self.look_every = look, look_every if look is not None else 0
        self.context, self.shard = task.context, task.shard
        self.dtype = resolve_precision(config.precision, self.device)
        if self.dtype == torch.bfloat16:
            run_in_bfloat16(task.heavy, self.device.type)
        if self.shard.groups_per_micro_batch > 1:
            group_batch_norm(task.model, self.shard.group)
        self.objective: nn.Module = Objective(task)
        if self.context.world_size > 1:
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
        self.looks: list[dict[str, float]] = []
        self.progress = Progress()
        self._stop, self._saved = False, 0

    @property
    def device(self) -> torch.device:
        """Where the model is trained."""
        return self.task.device

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
        task, progress = self.task.state(), self.progress.state(self.context)
        if not self.context.first:
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
            "looks": self.looks,
            "progress": progress,
        }
        try:
            with atomic_write(self.last) as stream:
                torch.save(state, stream)
        except OutputError as error:
            kept = f"{self.last} holds iteration {self._saved}" if self._saved else f"there is no earlier {self.last}"
            raise OutputError(
                f"{error.found}; training stopped at iteration {self.iteration}, {kept}",
                error.expected,
                f"free space or fix permissions: the same command goes on from iteration {self._saved}",
            ) from error
        self._saved = self.iteration
        for name, rows in (("log.csv", self.rows), ("held_out.csv", self.looks)):
            if rows:
                write_text(self.out / name, csv_text(rows))

    def resume(self) -> bool:
        """Go on with an interrupted run; whether there is one.

        Raises:
            CheckpointError: the file is damaged, the run had another configuration or other data, or the processes do
                not see the same file.
        """
        state = read_state(self.last) if self.last.exists() else None
        if not self.context.agree(-1 if state is None else state["iteration"]):
            raise CheckpointError(
                f"process {self.context.rank} {'sees no' if state is None else 'sees another'} {self.last}",
                "one folder that all processes see",
                "put --out on a file system that all machines share",
            )
        if state is None:
            return False
        check_identity(self.last, state["identity"], self.identity)
        self.iteration, self.seconds, self.rows = state["iteration"], state["seconds"], state["rows"]
        self.looks = state.get("looks", [])
        self.progress.restore(state.get("progress"), self.device)
        self._saved = self.iteration
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
        self.reports.begin = self.iteration
        # Python lets the main thread alone set handlers: a notebook's or a server's thread trains without them.
        caught = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        previous = {s: signal.signal(s, self._interrupt) for s in caught}
        try:
            self._iterate()
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)
        self.save()
        if self.context.first:
            self.reports(self.iteration, last=True)
        self.context.barrier()
        if self._stop:
            self._say(f"stopped at iteration {self.iteration}; the same command resumes from {self.last}")
            raise SystemExit(130)
        if self.peak_gb is not None:
            self._say(f"peak GPU memory of a process: {self.peak_gb:.2f} GB")

    def card(self) -> dict[str, Any]:
        """What a checkpoint says about how it was trained."""
        card = {
            "iterations": self.config.iterations,
            "batch": self.shard.batch,
            "group": self.shard.group,
            "processes": self.context.world_size,
            "seed": self.config.seed,
            "precision": str(self.dtype).removeprefix("torch."),
            "hours": round(self.seconds / 3600, 3),
            "device": str(self.device),
        }
        return card if self.peak_gb is None else {**card, "peak_memory_gb": round(self.peak_gb, 2)}

    def _say(self, text: str) -> None:
        if self.context.first:
            print(text, flush=True)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._stop = True

    def _iterate(self) -> None:
        clock, batches = time.perf_counter(), self.task.batches(self.iteration, self.config.iterations)
        while self.iteration < self.config.iterations:
            self.progress.add(self.step(self.progress.timed(batches, self.shard.accumulate)))
            now = time.perf_counter()
            self.seconds, clock = self.seconds + now - clock, now
            ended = self.iteration == self.config.iterations
            if self.iteration % self.config.log_every == 0 or ended:
                self._report(self.progress)
                self.progress = Progress()
            if self.look_every and (self.iteration % self.look_every == 0 or ended):
                self._look()
                took, clock = time.perf_counter() - clock, time.perf_counter()
                self.progress.begin += took  # neither training nor waiting for data
            # A signal need not reach all processes within the same iteration.
            self._stop = self.context.any(self._stop)
            if self._stop:
                return
            if self.iteration % self.config.save_every == 0:
                self.save()

    def _look(self) -> None:
        """The other processes wait meanwhile, at the next thing that they do together."""
        if not self.context.first or self.look is None:
            return
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            found = self.look(self.average.weights)
        self.looks.append({"iteration": self.iteration, **found.values})
        named = {f"held_out/{name}": value for name, value in found.values.items()}
        self.reports(self.iteration, named, found.pictures)
        self._say("  held out: " + " ".join(f"{k} {v:.4g}" for k, v in found.values.items()))

    def step(self, batches: Iterator[Any]) -> dict[str, Tensor]:
        """One optimizer step over this process's micro-batches of it."""
        config, logs, loss_sum = self.config, [], torch.zeros((), dtype=torch.float32, device=self.device)
        count = self.shard.accumulate
        rate = config.optim.rate(self.iteration, config.iterations)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        buffers = StepBuffers(self.task.model, count, self.context)
        for micro, batch in enumerate(batches):
            if micro == 0:
                self.task.begin_step(batch, self.iteration)
            with self._exchange(micro == count - 1):
                loss, parts = self.objective(batch, self.iteration, micro)
                (loss / count).backward()
            buffers.micro_batch_done()
            loss_sum += loss.detach() / count
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
        """Gradients are averaged over the processes with a step's last micro-batch only."""
        if isinstance(self.objective, DistributedDataParallel) and not last:
            return self.objective.no_sync()
        return contextlib.nullcontext()

    def _report(self, progress: Progress) -> None:
        means, (pace, waited) = progress.means(self.context), progress.pace()
        rate = self.config.optim.rate(self.iteration - 1, self.config.iterations)
        row = {"iteration": self.iteration, "rate": rate, "seconds": round(self.seconds, 1), **means}
        row["data_wait"] = round(waited, 4)
        if self.peak_gb is not None:
            row["peak_gb"] = round(self.peak_gb, 3)
        self.rows.append(row)
        if self.context.first:
            self.reports(self.iteration, {name: value for name, value in row.items() if name != "iteration"})
        left = (self.config.iterations - self.iteration) / pace
        parts = " ".join(f"{k} {v:.4g}" for k, v in means.items())
        peak = f", {self.peak_gb:.2f} GB" if self.peak_gb is not None else ""
        self._say(
            f"[{self.iteration}/{self.config.iterations}] {parts} | {pace * self.shard.batch:.1f} frames/s "
            f"({100 * waited:.0f} % waiting for data{peak}), {left / 60:.1f} min left"
        )
