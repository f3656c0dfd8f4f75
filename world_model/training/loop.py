"""The training loop: progress, exact resume, atomic checkpoints. It knows nothing about models or data."""

from __future__ import annotations

import csv
import io
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from world_model.errors import CheckpointError, ConfigError
from world_model.files import atomic_write, write_text
from world_model.training.optim import OptimConfig, WeightAverage


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long to train and how often to look.

    Args:
        iterations: optimizer steps in all.
        batch: samples (or streams) per step.
        seed: fixes initial weights, order of the data, augmentation and sampling.
        save_every: iterations between checkpoints.
        log_every: iterations between lines of progress.
        amp: bfloat16 autocast on CUDA devices that have it.
        optim: optimizer, schedule and averaging.
    """

    iterations: int = 20_000
    batch: int = 8
    seed: int = 0
    save_every: int = 500
    log_every: int = 50
    amp: bool = True
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        if min(self.iterations, self.batch, self.save_every, self.log_every) < 1:
            raise ConfigError(
                f"iterations {self.iterations}, batch {self.batch}, save_every {self.save_every}, "
                f"log_every {self.log_every}",
                "positive numbers",
                "change these options",
            )


class Task(Protocol):
    """What the loop needs to know about a model and its data."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        ...

    def batches(self, first: int, last: int) -> Iterator[Any]:
        """Batches of the iterations first..last-1; batch i depends on (seed, i) alone."""
        ...

    def loss(self, batch: Any, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss and named parts of it for the log."""
        ...

    def state(self) -> dict[str, Any]:
        """Tensors and plain values beyond weights that decide the following iterations."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        ...


class Trainer:
    """Trains a task into a folder and takes it up again where it stopped.

    Args:
        task: model, data and loss.
        config: how long and how.
        out: folder for ``last.pt`` (to resume), ``log.csv``.
        identity: what must agree for a run to be resumed (configuration, data fingerprint); plain values.
    """

    def __init__(self, task: Task, config: TrainConfig, out: Path, identity: dict[str, Any]) -> None:
        self.task, self.config, self.out, self.identity = task, config, out, identity
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

    def save(self) -> None:
        """Write everything that decides the rest of the run, atomically."""
        state = {
            "identity": self.identity,
            "iteration": self.iteration,
            "seconds": self.seconds,
            "model": self.task.model.state_dict(),
            "average": self.average.weights,
            "optimizer": self.optimizer.state_dict(),
            "task": self.task.state(),
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
            CheckpointError: the file is damaged, or the run had another configuration or other data.
        """
        if not self.last.exists():
            return False
        remedy = "train into another folder with --out, or delete this one to start again"
        try:
            state = torch.load(self.last, map_location="cpu", weights_only=True)
            found = state["identity"]
        except Exception as error:  # torch raises many kinds for damaged files
            raise CheckpointError(f"{self.last} cannot be read ({error})", "an intact checkpoint", remedy) from error
        different = [k for k in sorted({*found, *self.identity}) if found.get(k) != self.identity.get(k)]
        if different:
            lines = "; ".join(f"{k}: {found.get(k)} (now {self.identity.get(k)})" for k in different)
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
            print(f"resuming {self.last} at iteration {self.iteration} of {self.config.iterations}", flush=True)
        previous = {s: signal.signal(s, self._interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._iterate()
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)
        self.save()
        if self._stop:
            print(f"stopped at iteration {self.iteration}; the same command resumes from {self.last}", flush=True)
            raise SystemExit(130)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._stop = True

    def _iterate(self) -> None:
        clock, tally = time.perf_counter(), _Tally()
        for batch in self.task.batches(self.iteration, self.config.iterations):
            tally.add(self.step(batch))
            now = time.perf_counter()
            self.seconds, clock = self.seconds + now - clock, now
            if self.iteration % self.config.log_every == 0 or self.iteration == self.config.iterations:
                self._report(tally)
                tally = _Tally()
            if self._stop:
                return
            if self.iteration % self.config.save_every == 0:
                self.save()

    def step(self, batch: Any) -> dict[str, Tensor]:
        """One optimizer step."""
        config, device = self.config, self.device
        rate = config.optim.rate(self.iteration, config.iterations)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        half = config.amp and device.type == "cuda" and torch.cuda.is_bf16_supported()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss, logs = self.task.loss(batch, self.iteration)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.task.model.parameters(), config.optim.clip_norm)
        # A step with a gradient that is not finite would destroy the run; leaving it out keeps the weights.
        if torch.isfinite(norm):
            self.optimizer.step()
            self.average.update(self.task.model, self.iteration)
        self.iteration += 1
        return {"loss": loss.detach(), "grad_norm": norm.detach(), "skipped": (~torch.isfinite(norm)).float(), **logs}

    def _report(self, tally: _Tally) -> None:
        means = tally.means()
        pace = tally.steps / max(time.perf_counter() - tally.begin, 1e-9)
        rate = self.config.optim.rate(self.iteration - 1, self.config.iterations)
        self.rows.append({"iteration": self.iteration, "rate": rate, "seconds": round(self.seconds, 1), **means})
        left = (self.config.iterations - self.iteration) / pace
        parts = " ".join(f"{k} {v:.4g}" for k, v in means.items())
        print(
            f"[{self.iteration}/{self.config.iterations}] {parts} | {pace * self.config.batch:.1f} frames/s, "
            f"{left / 60:.1f} min left",
            flush=True,
        )


class _Tally:
    """Running sums between two lines of progress; read off the device only when reported."""

    def __init__(self) -> None:
        self.begin, self.steps = time.perf_counter(), 0
        self.sums: dict[str, Tensor] = {}

    def add(self, logs: dict[str, Tensor]) -> None:
        self.steps += 1
        for name, value in logs.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=value.device)) + value.float()

    def means(self) -> dict[str, float]:
        return {k: round(v.item() / self.steps, 6) for k, v in self.sums.items()}
