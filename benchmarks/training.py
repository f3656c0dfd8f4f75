"""How fast a preset trains on a device, how long it waits for data, and how much memory it takes.

The training loop itself is timed, with reading, optimizer and weight average; only checkpoints are left out. Labels
come from the bundled synthetic scenes unless an index is given; the forecaster gets random tokens of the right size,
which cost what real ones cost.

    python benchmarks/training.py --model tokenizer --preset base --device cuda
    python benchmarks/training.py --model forecaster --preset base --device cuda --batch 8
    torchrun --nproc-per-node 2 benchmarks/training.py --model tokenizer --preset base
"""

from __future__ import annotations

import json
import platform
import resource
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import tyro

from world_model import train_forecaster, train_tokenizer
from world_model.checkpoints.checkpoint import TOKENIZER_FILE, config_to_json, save_model, tokens_hash
from world_model.core.runtime import keep_memory
from world_model.core.table import Table
from world_model.data.demo import demo_root
from world_model.data.index import SceneIndex
from world_model.data.tokens import TokenCache
from world_model.models.tokenizer import PRESETS as TOKENIZERS
from world_model.models.tokenizer import Tokenizer
from world_model.training.command import Job, Preset
from world_model.training.distributed import DistributedContext, join
from world_model.training.loop import Trainer
from world_model.training.precision import Precision
from world_model.training.progress import Progress

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Args:
    """Time some training steps of a preset."""

    model: Literal["tokenizer", "forecaster"] = "tokenizer"
    """Which of the two to train."""
    preset: Preset = "nano"
    """Sizes and recipe."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    batch: int = 0
    """Samples of one pass in one process; 0 takes the preset's (base 8, as on each of the paper's devices; else 2)."""
    accumulate: int = 1
    """Passes before a step."""
    precision: Precision = "auto"
    """Of the heavy layers."""
    workers: int = 2
    """Threads that read."""
    warmup: int = 3
    """Steps that are not counted."""
    steps: int = 20
    """Steps that are."""
    index: Path | None = None
    """A prepared data set instead of the bundled scenes."""
    out: Path | None = None
    """JSON file to write the figures to."""


def tokenizer_job(args: Args, index: SceneIndex, context: DistributedContext, folder: Path) -> Job:
    """The tokenizer's own recipe, as its command trains it."""
    return train_tokenizer.job(_options(train_tokenizer.Args, args, folder), index, context)


def forecaster_job(args: Args, index: SceneIndex, context: DistributedContext, folder: Path) -> Job:
    """The forecaster's own recipe, on random tokens."""
    config = TOKENIZERS[args.preset]()
    if context.first:
        tokenizer = Tokenizer(config)
        weights = tokenizer.state_dict()
        save_model(folder / TOKENIZER_FILE, tokenizer, weights, {})
        shape = (config.latent, *config.latent_shape)
        cache = TokenCache.create(folder / "tokens", index, tokens_hash(weights), shape)
        for scene in index.scenes("all"):
            rng = np.random.default_rng(scene)
            cache.write(scene, rng.standard_normal((len(index.frames(scene)), *shape), dtype=np.float32))
    context.barrier()
    more = {"tokens": folder / "tokens", "tokenizer": folder}
    return train_forecaster.job(_options(train_forecaster.Args, args, folder, **more), index, context)


JOBS = {"tokenizer": tokenizer_job, "forecaster": forecaster_job}


def _options(kind: Callable[..., T], args: Args, folder: Path, **more: Path) -> T:
    """Options of a training command."""
    shared = {name: getattr(args, name) for name in ("preset", "batch", "accumulate", "precision", "workers")}
    return kind(index=folder, out=folder, split="all", iterations=args.warmup + args.steps, **shared, **more)


def measure(trainer: Trainer, warmup: int, steps: int) -> dict[str, float]:
    """Samples a second over all processes, and the share of the time spent waiting for data."""
    batches, count = trainer.task.batches(0, warmup + steps), trainer.shard.accumulate
    progress, saved = Progress(), 0.0
    for step in range(warmup + steps):
        if step == warmup:
            _finish(trainer.device)
            progress = Progress()
        micro_batches = progress.timed(batches, count)
        if step == 0:
            saved = saved_gb(partial(trainer.step, micro_batches))
        else:
            progress.add(trainer.step(micro_batches))
    _finish(trainer.device)
    pace, waited = progress.pace()
    return {"samples_per_s": pace * trainer.shard.batch, "step_ms": 1e3 / pace, "wait": waited, "saved_gb": saved}


def saved_gb(step: Callable[[], Any]) -> float:
    """What is kept for the backward pass of a training step of one pass, in GB: the same on any device."""
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(storages.values()) / 1e9


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(args: Args) -> dict[str, Any]:
    """Measure, print a line of Markdown, and return the figures."""
    keep_memory()
    index = SceneIndex.load(args.index or demo_root())
    with join(args.device) as context, tempfile.TemporaryDirectory() as folder:
        # Processes of one machine share the folder of the first one, which holds the random tokens.
        shared = [folder]
        if context.world_size > 1:
            torch.distributed.broadcast_object_list(shared, 0)
        job = JOBS[args.model](args, index, context, Path(shared[0]))
        trainer = Trainer(job.task, job.config, Path(shared[0]), {})
        figures: dict[str, Any] = measure(trainer, args.warmup, args.steps)
        context.barrier()
        figures["peak_gpu_gb"] = trainer.peak_gb
        figures["peak_process_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        figures["parameters"] = sum(p.numel() for p in job.task.model.parameters())
        where = torch.cuda.get_device_name(context.device) if context.device.type == "cuda" else platform.processor()
        figures |= {
            "device": where or str(context.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        figures |= {"train": config_to_json(job.config), "batch": trainer.shard.batch, "processes": context.world_size}
        if context.first:
            show(args, figures, str(trainer.dtype).removeprefix("torch."))
            if args.out:
                args.out.write_text(json.dumps({"args": _plain(args), **figures}, indent=1) + "\n")
    return figures


def show(args: Args, figures: dict[str, Any], dtype: str) -> None:
    """Print the figures as a table."""
    peak = "-" if figures["peak_gpu_gb"] is None else f"{figures['peak_gpu_gb']:.2f}"
    row = {
        "model": f"{args.model} {args.preset}",
        "device": f"{figures['processes']} x {figures['device']}",
        "dtype": dtype,
        "batch": figures["batch"],
        "samples/s": f"{figures['samples_per_s']:.2f}",
        "ms a step": f"{figures['step_ms']:.0f}",
        "waiting for data": f"{100 * figures['wait']:.1f} %",
        "saved GB": f"{figures['saved_gb']:.2f}",
        "GPU GB": peak,
        "process GB": f"{figures['peak_process_gb']:.2f}",
    }
    print(Table([*row], [[*row.values()]]).markdown())


def _plain(args: Args) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(args).items()}


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except KeyboardInterrupt:
        sys.exit(130)
