"""What all training commands share: their common options, and one run from the data set to the files written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from world_model.core.errors import OptionError
from world_model.core.files import check_writable
from world_model.core.runtime import keep_memory
from world_model.data.index import SceneIndex
from world_model.training.distributed import DistributedContext, join
from world_model.training.loop import TrainConfig, Trainer
from world_model.training.optim import OptimConfig
from world_model.training.precision import Precision
from world_model.training.report import Look
from world_model.training.report_options import ReportOptions
from world_model.training.task import Task

Preset = Literal["base", "nano", "tiny"]
RESUMES = "the same command resumes from the last file that was saved in --out (last.pt)"


@dataclass(frozen=True, kw_only=True)
class TrainArgs(ReportOptions):
    """Options of every training command."""

    index: Path
    """Index file that `world_model.prepare` wrote, or the folder it lies in."""
    out: Path
    """Folder for the checkpoint, the log and the file to resume from."""
    iterations: int = 0
    """Optimizer steps."""
    batch: int = 0
    """Samples of one forward and backward pass in one process."""
    accumulate: int = 1
    """Add up the gradients of so many batches before a step: the same as a batch so many times larger."""
    group: int = 0
    """Samples normalised (BatchNorm) and scored together (the Lovasz loss couples them); 0: --batch. Keep it when you
    divide a batch otherwise."""
    seed: int = 0
    """Fixes weights, order, augmentation and sampling."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; under torchrun, auto gives each process its own GPU."""
    precision: Precision = "auto"
    """Of the heavy layers (convolution and attention); auto is bfloat16 on GPUs that have it. All else is float32."""
    workers: int = 2
    """Threads of each process that read data ahead; the order of the data does not depend on them."""
    learning_rate: float = 0.0
    """Peak learning rate."""
    save_every: int = 250
    """Iterations between checkpoints."""
    log_every: int = 25
    """Iterations between lines of progress."""
    split: str = "train"
    """Split to train on."""

    def config(self, optim: OptimConfig, *, iterations: int = 0, batch: int = 0) -> TrainConfig:
        """The training configuration, with these iterations and this batch unless they were given as options."""
        return TrainConfig(
            iterations=self.iterations or iterations,
            batch=self.batch or batch,
            accumulate=self.accumulate,
            group=self.group,
            seed=self.seed,
            save_every=self.save_every,
            log_every=self.log_every,
            precision=self.precision,
            optim=optim,
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """What differs between the training commands.

    Attributes:
        task: model, data and loss.
        config: how to train.
        identity: what must agree for a run to be resumed, beyond training configuration, data and split.
        title: what is trained on how much, for the first line printed.
        write: writes the averaged weights with a card into the output folder; returns the path of the result.
        card: what the checkpoint says about itself, beyond data and training.
        following: the command that comes next.
        look: how good averaged weights are on held-out windows, for --held-out-every.
    """

    task: Task
    config: TrainConfig
    identity: dict[str, Any]
    title: str
    write: Callable[[dict[str, Tensor], dict[str, Any]], Path]
    card: dict[str, Any] = field(default_factory=dict)
    following: str
    look: Callable[[dict[str, Tensor]], Look] | None = None


def train(args: TrainArgs, prepare: Callable[[SceneIndex, DistributedContext], Job]) -> None:
    """Join the other processes, load, train, and write.

    Args:
        args: the options.
        prepare: loads what the run starts from, then seeds torch with ``args.seed`` and makes model and task.
    """
    keep_memory()
    with join(args.device) as context:
        if context.first:
            check_writable(args.out)
        plain = json.loads(json.dumps(asdict(args), default=str))
        reports = args.reports(args.out, plain) if context.first else None
        index = SceneIndex.load(args.index)
        job = prepare(index, context)
        shard = job.task.shard
        if context.first:
            print(f"{job.title}, {job.config.iterations} iterations of {shard}", flush=True)
        identity = {"train": job.config.identity(shard), "data": index.fingerprint, "split": args.split}
        if args.held_out_every and job.look is None:
            raise OptionError("--held-out-every", "a model with forecasts of its own", "leave the option out")
        trainer = Trainer(
            job.task,
            job.config,
            args.out,
            {**identity, **job.identity},
            reports=reports,
            look=job.look,
            look_every=args.held_out_every,
        )
        trainer.run()
        if context.first:
            card = {"data": index.fingerprint, "data_source": index.source, **job.card, **trainer.card()}
            path = job.write(trainer.average.weights, card)
            print(f"checkpoint: {path}\nlog: {args.out / 'log.csv'}\nnext: {job.following}", flush=True)
        context.barrier()


def count_parameters(model: nn.Module) -> str:
    """Number of parameters, for people."""
    return f"{sum(p.numel() for p in model.parameters()):,} parameters"
